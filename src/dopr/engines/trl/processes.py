"""Several processes of one run: that they agree, how they part, and what is said of a lost one."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.engines.trl import checkpoints

# Each process holds a part of the parameters, gathered in lockstep as the library's way has it.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
# What gloo and NCCL say of a peer that is gone; neither has an exception of its own for it.
_LOST = ("Connection reset by peer", "Connection closed by peer", "Broken pipe", "remote process")


def is_first_process() -> bool:
    """Whether this process speaks for the run; known before the processes are connected."""
    return os.environ.get("RANK", "0") == "0"


class ChoicesDifferError(UserError):
    """The processes of a run do not roll out the same prompts; nothing of it is worth saving."""


def check_same_choice(ids: NDArray[np.int64]) -> None:
    """Stop where the processes do not roll out the same prompts.

    Args:
        ids: the prompt of each rollout of the round, on this process, shape (n,).

    Raises:
        ChoicesDifferError: they differ, so that gathered rewards would go to the wrong prompts.
    """
    if PartialState().num_processes == 1:
        return
    choices = gather_object([ids.tolist()])
    for rank, choice in enumerate(choices):
        if choice != choices[0]:
            raise ChoicesDifferError(
                "the processes chose different prompts; strategies must use only the ledger, the "
                f"stream and their own saved state (process 0 chose {_first(choices[0])}, process "
                f"{rank} {_first(choice)})"
            )


def _first(prompts: list[int]) -> str:
    """The first few different prompts."""
    different = list(dict.fromkeys(prompts))
    return ", ".join(map(str, different[:4])) + (", ..." if len(different) > 4 else "")


def own_share(ids: NDArray[np.int64], process: int, processes: int) -> NDArray[np.int64]:
    """This process's part of a round's rows, as long as everyone's: the last row fills up.

    Args:
        ids: the prompt of each rollout of the round, shape (n,).
        process: number of this process.
        processes: how many there are.
    """
    filled = np.append(ids, [ids[-1]] * (-len(ids) % processes)).astype(np.int64)
    local = len(filled) // processes
    return filled[process * local : (process + 1) * local]


def leave_process_group() -> None:
    """End the connection between several processes together; nothing where there is only one.

    A process that exits while another is still connected makes the other one abort. vLLM in the
    same process ends the connection itself when Python exits, and fails if it is gone by then.
    """
    state = PartialState()
    if state.num_processes > 1:
        state.wait_for_everyone()
        engine = sys.modules.get("vllm.distributed.parallel_state")
        if engine is None or not engine.model_parallel_is_initialized():
            state.destroy_process_group()


@contextlib.contextmanager
def naming_a_lost_process(run_dir: Path) -> Iterator[None]:
    """Say in one sentence that another process of the run is gone.

    Raises:
        ConnectionError: in the place of the engine's own error.
    """
    try:
        yield
    except RuntimeError as error:
        if PartialState().num_processes == 1 or not _is_loss(error):
            raise
        kept = checkpoints.latest_checkpoint(run_dir / "checkpoints")
        advice = f"continue from {kept.name} with --resume" if kept else "start again"
        raise ConnectionError(
            "another process of this run has ended, so this one cannot go on; look for the cause "
            f"in its output, then {advice}"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(
        sign in str(error) for sign in _LOST
    )

"""Any number of kept rollouts, from any rounds, as the micro-batches of one training step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dopr import batching
from dopr.strategies import Group

# Losses that TRL averages over rows or over a micro-batch's tokens rather than over all tokens of
# the step: with a varying number of rows their scale has to be set right from outside.
_MEAN_OVER_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
_MEAN_OVER_MICRO_BATCH_TOKENS = ("bnpo",)

# A kept group with the advantages of all its rollouts.
Trained = tuple[Group, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One call of TRL's generation and scoring. A group's handle is its round and its first row.

    Attributes:
        batch: TRL's output, this process's rows.
        local_rows: rows on each process.
        advantages_hold: TRL knew the groups' size, so its advantages are right.
    """

    batch: dict[str, Any]
    local_rows: int
    advantages_hold: bool


def loss_mask(inputs: dict[str, Any]) -> torch.Tensor:
    """Which completion tokens count, shape (B, T)."""
    mask = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def cut_micro_batches(
    trained: list[Trained], args: Any, accelerator: Any, loss_type: str, pad_token_id: int
) -> list[dict[str, Any]]:
    """The kept rollouts as `steps_per_generation` micro-batches, blank ones first.

    The full ones come last because the optimiser acts (and processes average their gradients) at
    the last micro-batch of an accumulation window. `dopr_scale` makes the gradient independent of
    how the rows are cut.

    Args:
        trained: kept groups with the advantages of all their rollouts; empty skips the update.
        args: TRL's settings.
        accelerator: the processes.
        loss_type: TRL's name of the loss.
        pad_token_id: for completions of unequal length.
    """
    steps, processes = args.steps_per_generation, accelerator.num_processes
    skip = {"dopr_skip": torch.ones(())}
    parts, per_process = _local_rows(trained, accelerator)
    total = int(per_process.sum())
    if total == 0:
        return [skip] * steps
    batch = batching.concatenate(parts, pad_token_id)
    dense = steps == args.gradient_accumulation_steps
    pieces, rows = batching.micro_batch_shape(
        int(per_process.max()), args.per_device_train_batch_size, steps, dense
    )
    batch = batching.fill_up(batch, pieces * rows)
    tokens = accelerator.gather(loss_mask(batch).sum()).sum()
    micro_batches = []
    for piece in batching.cut(batch, pieces):
        piece["num_items_in_batch"] = tokens
        if loss_type in _MEAN_OVER_ROWS:
            piece["dopr_scale"] = torch.tensor(steps * rows * processes / total)
        elif loss_type in _MEAN_OVER_MICRO_BATCH_TOKENS:
            share = loss_mask(piece).sum() / tokens.clamp(min=1)
            piece["dopr_scale"] = share * steps * processes
        micro_batches.append(piece)
    return [skip] * (steps - pieces) + micro_batches


def _local_rows(
    trained: list[Trained], accelerator: Any
) -> tuple[list[batching.Rows], NDArray[np.int64]]:
    """This process's part of every kept group, and the number of kept rows per process."""
    device = accelerator.device
    per_process = np.zeros(accelerator.num_processes, dtype=np.int64)
    parts = []
    for group, values in trained:
        done, start = group.handle
        chosen = np.arange(group.num_rollouts) if group.kept is None else group.kept
        owner, row = np.divmod(start + chosen, done.local_rows)
        per_process += np.bincount(owner, minlength=len(per_process))
        here = owner == accelerator.process_index
        parts.append(
            batching.Rows(
                done.batch,
                torch.as_tensor(row[here], device=device),
                torch.as_tensor(values[chosen[here]], dtype=torch.float32, device=device),
                torch.full((int(here.sum()),), group.prompt_id, device=device),
            )
        )
    return parts, per_process

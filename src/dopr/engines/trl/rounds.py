"""Rounds of rollouts as TRL made them, and the groups cut from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.engines.trl import rollout_tensors
from dopr.strategies import Group, Request, Strategy

_REWARDS = "dopr_rewards"  # beside a packed group's tensors


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One call of TRL's generation and scoring.

    Attributes:
        batch: TRL's output, this process's rows; pictures as one entry a rollout.
        local_rows: rows on each process.
        rewards: of each reward function, over all processes; shape (rows, functions).
        advantages_hold: TRL knew the groups' size, so its advantages are right.
        shared: every process holds all rows, and `local_rows` counts these.
    """

    batch: dict[str, Any]
    local_rows: int
    rewards: NDArray[np.float64]
    advantages_hold: bool
    shared: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive rollouts of a round; a group's handle is a tuple of these.

    Attributes:
        round: where they were made.
        start: first row, counted over all processes.
        count: number of rows.
    """

    round: Round
    start: int
    count: int


def pack_handle(handle: Sequence[Segment]) -> list[dict[str, Any]]:
    """A group's tensors as arrays, for a checkpoint; its rounds are shared by all processes."""
    packed = []
    for segment in handle:
        rows = slice(segment.start, segment.start + segment.count)
        arrays = rollout_tensors.pack(segment.round.batch, rows)
        packed.append(arrays | {_REWARDS: segment.round.rewards[rows]})
    return packed


def unpack_handle(packed: list[dict[str, Any]], device: torch.device) -> tuple[Segment, ...]:
    """What `pack_handle` packed, each segment with a round of its own."""
    handle = []
    for arrays in packed:
        tensors = {key: value for key, value in arrays.items() if key != _REWARDS}
        batch = rollout_tensors.unpack(tensors, device)
        count = len(batch["completion_ids"])
        made = Round(batch, count, arrays[_REWARDS], advantages_hold=False, shared=True)
        handle.append(Segment(made, 0, count))
    return tuple(handle)


def is_plain_batch(
    kept: list[Group], generated: list[Group], local_rows: int, processes: int
) -> bool:
    """Whether this is a batch as TRL makes it: one round, every rollout kept, the usual size."""
    if len(kept) != len(generated) or not kept:
        return False
    in_order = all(k.handle is g.handle for k, g in zip(kept, generated, strict=True))
    if not in_order or any(len(group.handle) != 1 for group in kept):
        return False
    first: Round = kept[0].handle[0].round
    rows = sum(group.num_rollouts for group in kept)
    return (
        (processes == 1 or not first.shared)
        and all(group.handle[0].round is first for group in kept)
        and all(group.kept is None for group in kept)
        and first.local_rows == local_rows
        and rows == local_rows * processes
    )


def trl_advantages_hold(kept: Sequence[Group], estimator: str) -> bool:
    """Whether TRL's own group advantages are right for groups that fill its batch as they came.

    Args:
        kept: at least one group.
        estimator: of the advantages that are wanted.
    """
    if estimator == "forecast" and any(group.expected_mean is not None for group in kept):
        return False
    holds: bool = estimator in ("forecast", "group") and kept[0].handle[0].round.advantages_hold
    own = [(group.baseline, group.weights, group.std) for group in kept]
    return holds and all(value is None for values in own for value in values)


def check_fresh(kept: Sequence[Group], strategy: Strategy, step: int) -> None:
    """Refuse rollouts of earlier steps whose log-probabilities nobody has kept.

    Args:
        kept: the groups to train on.
        strategy: which returned them.
        step: the step just made.

    Raises:
        UserError: it returns such groups without saying so beforehand.
    """
    if not strategy.replays and any(group.step != step for group in kept):
        raise UserError(
            f"strategy {strategy.name!r} returns groups of earlier steps; set its class attribute "
            "replays = True, so that the log-probabilities of its rollouts are kept"
        )


def make_groups(
    requests: Sequence[Request],
    done: Round,
    step: int,
    rewards: NDArray[np.float64],
    tokens: NDArray[np.int64],
    entropies: NDArray[np.float64] | None = None,
    final_answers: list[str] | None = None,
) -> list[Group]:
    """The groups of one round, in the order of the requests.

    Args:
        requests: what was asked for.
        done: the round.
        step: of the optimiser.
        rewards, tokens: shape (n,), of the round's rollouts over all processes.
        entropies: mean token entropy of each rollout, shape (n,), where the strategy reads it.
        final_answers: of each rollout, where the strategy reads them.
    """
    groups, start = [], 0
    for request in requests:
        rows = slice(start, start + request.num_rollouts)
        group = Group(
            request.prompt_id,
            rewards[rows],
            tokens[rows],
            step,
            entropies=None if entropies is None else entropies[rows],
            final_answers=None if final_answers is None else tuple(final_answers[rows]),
            handle=(Segment(done, start, request.num_rollouts),),
        )
        groups.append(group)
        start = rows.stop
    return groups

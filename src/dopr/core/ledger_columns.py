"""The ledger's columns, what it reads of a group, and how a mean moves."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

COLUMNS: dict[str, type] = {
    "visits": np.int32,  # steps in which the prompt was rolled out
    "rollouts": np.int32,
    "last_step": np.int32,  # -1: never
    "tokens": np.int64,  # generated tokens spent on it
    "weight": np.float32,  # discounted number of rewards
    "mean": np.float32,  # discounted mean reward
    "squares": np.float32,  # discounted sum of squared deviations from that mean
    "group_weight": np.float32,  # the same three over the means of the visits
    "group_mean": np.float32,
    "group_squares": np.float32,
    "within": np.float32,  # reward variance inside the last group
    "entropy": np.float32,  # mean token entropy of the last rollouts in nats, NaN: unknown
}


class ObservedGroup(Protocol):
    """What the ledger reads of a finished group."""

    @property
    def prompt_id(self) -> int: ...
    @property
    def rewards(self) -> NDArray[np.float64]: ...
    @property
    def scored(self) -> NDArray[np.float64]: ...
    @property
    def num_rollouts(self) -> int: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def entropy(self) -> float: ...


def join_means(weight: Any, delta: Any, count: int) -> tuple[Any, Any]:
    """How far `count` rewards move a weighted mean, and what that adds to its squares.

    Args:
        weight: of the mean so far; a number or an array, as is all that follows.
        delta: mean of the new rewards minus the mean so far.
    """
    total = weight + count
    return delta * count / total, delta * delta * weight * count / total


def add_rounded(column: NDArray[np.float32], i: int, gain: float) -> None:
    """`column[i] += gain`, the gain rounded to float32 first as it is in arrays."""
    before = column.item(i)
    column[i] = gain
    column[i] = before + column.item(i)

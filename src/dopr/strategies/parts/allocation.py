"""Dividing a budget of rollouts unequally among the prompts of a step."""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopr.core.strategy import Request, Strategy, require
from dopr.strategies.parts.candidates import at_least_one

Counts = NDArray[np.int64]
Array = NDArray[np.float64]


def greedy_allocation(values: Array, budget: int, low: int) -> Counts:
    """Give each rollout where it adds the most, by a max-heap of marginal gains.

    Optimal where every row is concave; O(budget log m). Equal gains, those of 0 included, go to
    the prompt with the fewest rollouts so far, and then to the first.

    Args:
        values: shape (m, k), column j the value of low + j rollouts on each prompt.
        budget: rollouts in all, at least m * low and at most m * (low + k - 1).
        low: rollouts that every prompt gets.

    Returns:
        Rollouts a prompt, shape (m,).

    Raises:
        ValueError: the budget does not fit.
    """
    prompts, options = values.shape
    _check_budget(prompts, options, budget, low)
    gains = np.diff(values, axis=1)
    counts = np.full(prompts, low, dtype=np.int64)
    heap = [(-gains[i, 0], low, i) for i in range(prompts)] if options > 1 else []
    heapq.heapify(heap)
    for _ in range(budget - prompts * low):
        _, _, i = heapq.heappop(heap)
        counts[i] += 1
        taken = int(counts[i]) - low
        if taken < options - 1:
            heapq.heappush(heap, (-gains[i, taken], int(counts[i]), i))
    return counts


def knapsack_allocation(values: Array, budget: int, low: int) -> Counts:
    """Maximise the sum of values under the budget by dynamic programming, whatever their shape.

    O(m * budget * k), vectorised over the budget. The whole budget is spent.

    Args and Raises: as `greedy_allocation`.
    """
    prompts, options = values.shape
    _check_budget(prompts, options, budget, low)
    spare = budget - prompts * low
    most = min(options, spare + 1)
    # Row j, column e: what was left after e extra rollouts; before 0 there is nothing.
    left = np.arange(spare + 1)[:, None] - np.arange(most)[None, :]
    possible, left = left >= 0, np.maximum(left, 0)
    best = np.full(spare + 1, -np.inf)
    best[0] = 0.0
    choices = np.zeros((prompts, spare + 1), dtype=np.int64)
    for i in range(prompts):
        reached = np.where(possible, best[left], -np.inf) + values[i, :most]
        choices[i] = reached.argmax(axis=1)
        best = reached.max(axis=1)
    counts = np.full(prompts, low, dtype=np.int64)
    for i in reversed(range(prompts)):
        counts[i] += choices[i, spare]
        spare -= int(choices[i, spare])
    return counts


def proportional_allocation(weights: Array, budget: int, low: int, high: int) -> Counts:
    """Rollouts in proportion to weights, within bounds, the whole budget spent.

    Prompts whose share lies outside the bounds are set to the bound and the rest is divided anew;
    fractions are rounded down and the largest remainders get one more.

    Args:
        weights: shape (m,), not negative; all 0 divides evenly.
        budget: between m * low and m * high.

    Raises:
        ValueError: the budget does not fit.
    """
    prompts = len(weights)
    _check_budget(prompts, high - low + 1, budget, low)
    weights = weights if weights.sum() > 0 else np.ones(prompts)
    shares = _bounded_shares(weights.astype(np.float64), budget, low, high)
    # A hair is added first: 3 that was computed as 2.9999999 is 3.
    counts = np.clip(np.floor(shares + 1e-9), low, high).astype(np.int64)
    remainders = np.where(counts < high, np.round(shares - counts, 9), -np.inf)
    for i in np.argsort(-remainders, kind="stable")[: budget - int(counts.sum())]:
        counts[i] += 1
    return counts


def even_allocation(extra: int, room: Counts) -> Counts:
    """Divide extra rollouts as evenly as the room of each prompt allows.

    Args:
        extra: rollouts to give away; what finds no room is left over.
        room: how many each prompt can take, shape (m,).

    Returns:
        What each gets, shape (m,); one more for the first ones where it does not divide.
    """
    given = np.zeros_like(room)
    while extra > 0 and (open_ones := np.flatnonzero(given < room)).size:
        each = max(extra // len(open_ones), 1)
        for i in open_ones[:extra]:
            portion = min(each, int(room[i] - given[i]), extra)
            given[i] += portion
            extra -= portion
    return given


def _bounded_shares(weights: Array, budget: int, low: int, high: int) -> Array:
    """min(max(c * weights, low), high) with the scale c that makes them sum to the budget."""
    # No weight is 0: such prompts are the last to rise, but they do where the others are full.
    weights = np.maximum(weights / weights.max(), 1e-9)
    # The sum is piecewise linear in c, with a bend wherever a prompt leaves or meets a bound.
    bends = np.sort(np.concatenate([low / weights, high / weights]))
    sums = np.minimum(np.maximum(np.outer(bends, weights), low), high).sum(axis=1)
    scale = np.interp(budget, sums, bends)
    return np.minimum(np.maximum(scale * weights, low), high)


def _check_budget(prompts: int, options: int, budget: int, low: int) -> None:
    high = low + options - 1
    if not prompts * low <= budget <= prompts * high:
        raise ValueError(
            f"{budget} rollouts do not fit {prompts} prompts with {low} to {high} rollouts each"
        )


@dataclass
class UnequalGroups(Strategy):
    """Base of the strategies that choose how many rollouts each prompt of a step gets.

    Attributes:
        prompts_per_step: prompts in a step; their budget is num_generations rollouts each,
            altogether.
        min_rollouts, max_rollouts: bounds on one prompt's rollouts. Where num_generations lies
            outside them it takes their place, so that the budget can always be spent.
    """

    prompts_per_step: int = 8
    min_rollouts: int = 2
    max_rollouts: int = 128

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step)
        require(
            1 <= self.min_rollouts <= self.max_rollouts,
            f"min_rollouts is {self.min_rollouts}; it must lie between 1 and max_rollouts "
            f"({self.max_rollouts})",
        )

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most rollouts of one prompt."""
        return (
            min(self.min_rollouts, self.num_generations),
            max(self.max_rollouts, self.num_generations),
        )

    def ask(self, ids: NDArray[np.int64], counts: Counts) -> list[Request]:
        """The requests for counts[j] rollouts of prompt ids[j], none where that is 0.

        Notes the extremes for the log.
        """
        self._last["select/largest_group"] = float(counts.max())
        self._last["select/smallest_group"] = float(counts.min())
        return [Request(int(i), int(n)) for i, n in zip(ids, counts, strict=True) if n]

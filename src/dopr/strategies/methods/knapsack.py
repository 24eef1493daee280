"""Knapsack RL: the rollouts of a step as a knapsack problem, solved exactly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates
from dopr.strategies.parts.allocation import (
    Counts,
    UnequalGroups,
    even_allocation,
    knapsack_allocation,
)


@dataclass
class Knapsack(UnequalGroups):
    """Unequal groups that maximise the expected progress of a step.

    N rollouts on a prompt of success rate p are worth (1 - p^N - (1 - p)^N) * p (1 - p)^2: the
    chance that the group is informative times what it would teach. Dynamic programming finds the
    best division of the budget, num_generations rollouts a prompt.

    Two rules of the paper's code: prompts at 0 or 1 get `min_rollouts`; and where the prompts in
    between need less than the budget (rollouts until their group is informative with probability
    `confidence`), the surplus goes evenly to the prompts at 0, or to those at 1 if there is none at
    0. One of ours: a prompt without history gets an ordinary group (in the code it counts as one at
    0 and shares the surplus).

    Args:
        confidence: see above; in (0, 1).
        discount: factor in (0, 1] on a prompt's past rewards at each visit. The paper's code goes
            by the rewards of the last epoch.
        prior_strength: imaginary rollouts at the pool's mean added to each prompt's history.

    Source: Knapsack RL [2509.25849]: value and fallback rules V (its budget module), discount I.
    """

    name = "knapsack"
    summary = "unequal groups by dynamic programming on the expected progress of a step"
    source = "Knapsack RL, arXiv 2509.25849"
    mark = "V"

    confidence: float = 0.9
    discount: float = 0.5
    prior_strength: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.confidence < 1,
            f"confidence is {self.confidence}; it must lie between 0 and 1",
        )
        require(0 < self.discount <= 1, f"discount is {self.discount}; it must lie in (0, 1]")
        require(self.prior_strength >= 0, "prior_strength must not be negative")

    @property
    def ledger_discount(self) -> float:
        return self.discount

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        ids = prompts.draw(min(self.prompts_per_step, prompts.size))
        rates = success_rates(ledger, ids, self.prior_strength)
        counts = self.allocate(rates, ledger.weight[ids] > 0)
        between = (rates > 0) & (rates < 1)
        self._last = {"select/between_share": float(between.mean())}
        groups = yield self.ask(ids, counts)
        return groups

    def allocate(self, rates: NDArray[np.float64], seen: NDArray[np.bool_]) -> Counts:
        """Rollouts of each prompt, shape (m,), summing to m * num_generations.

        Args:
            rates: success rates in [0, 1], shape (m,).
            seen: whether there is a history behind each.
        """
        low, high = self.bounds
        counts = np.where(seen, low, self.num_generations)
        between = np.flatnonzero(seen & (rates > 0) & (rates < 1))
        extra = len(rates) * self.num_generations - int(counts.sum())
        dealt = min(extra, len(between) * (high - low))
        if len(between) < len(rates):
            dealt = min(dealt, self._needed(rates[between], high))
        if len(between):
            values = self.values(rates[between], np.arange(low, high + 1))
            counts[between] = knapsack_allocation(values, len(between) * low + dealt, low)
        return self._spread_surplus(counts, extra - dealt, rates, seen)

    def values(self, rates: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Value of every number of rollouts on every prompt, shape (len(rates), len(counts))."""
        informative = 1 - np.power.outer(rates, counts) - np.power.outer(1 - rates, counts)
        return informative * (rates * np.square(1 - rates))[:, None]

    def _needed(self, rates: NDArray[np.float64], high: int) -> int:
        """Rollouts after which all these prompts have informative groups, but for bad luck."""
        if not rates.size:
            return 0
        # A rate so near to 0 or 1 that its logarithm vanishes needs all there are.
        decay = np.maximum(-np.log(np.maximum(rates, 1 - rates)), 1e-12)
        needed = -np.log(1 - self.confidence) / decay
        return int(np.minimum(needed, high).astype(np.int64).sum())

    def _spread_surplus(
        self,
        counts: Counts,
        surplus: int,
        rates: NDArray[np.float64],
        seen: NDArray[np.bool_],
    ) -> Counts:
        _, high = self.bounds
        everyone = np.ones(len(rates), dtype=bool)
        for takers in (seen & (rates == 0), seen & (rates == 1), everyone):
            room = np.where(takers, high - counts, 0)
            given = even_allocation(surplus, room)
            counts = counts + given
            surplus -= int(given.sum())
        return counts

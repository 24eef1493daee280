"""CoBA-RL: rollouts go where the policy, at its present capability, has most to gain."""

from dataclasses import dataclass, field
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import no_prompts, per_prompt
from dopr.core.strategy import Group, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.allocation import (
    Counts,
    UnequalGroups,
    even_allocation,
    greedy_allocation,
)
from dopr.strategies.parts.posterior import sized

Array = NDArray[np.float64]

# Success rates below are hard, above easy, the rest (both bounds included) the middle.
HARD_BELOW, EASY_ABOVE = 0.05, 0.99
# tau runs from the first to the first plus the second as the middle's variance grows to the third.
TAU_LEAST, TAU_SPAN, TAU_VARIANCE = 3.0, 9.0, 0.1667


@dataclass
class CobaRL(UnequalGroups):
    """Unequal groups by a value of rollouts that moves with the policy's failure rate.

    With p a prompt's success rate at its last `window` visits, N rollouts on it are worth

        V(N, p) = (1 - exp(-N p (1 - p) / tau)) * BetaPDF(p; alpha, kappa - alpha)

    F is the failure rate of the steps, averaged over the last `window`; F~ = F above 1/2, else
    sigmoid(10 (F - 1/2)); alpha = 1 + (kappa - 2) F~, clipped to [1, kappa - 1]. A policy that
    fails often works on easy prompts, one that seldom fails on hard ones. Before the first step
    alpha is kappa - 2.

    Every prompt gets `min_rollouts`. Of the rest of the budget, num_generations a prompt, a share
    (0.8 where most prompts are neither hopeless nor solved, from 0.6 on where they are not) is
    dealt to the middle class greedily by marginal gains; what remains goes to the prompts below
    0.05, then to the middle, then to those above 0.99 (`spread_by_failure`). Prompts never seen
    count as 1/2; a step of such prompts alone is divided evenly.

    Args:
        kappa: alpha + beta of the density; above 2.
        tau: how soon further rollouts on one prompt stop paying, in rollouts at p (1 - p) = 1. None
            takes the source's: 3 to 12 with the variance of p over the middle class.
        window: visits behind a success rate, and steps behind F.
        right_from: reward in (0, 1] from which a rollout is a success, 1 the highest seen; the
            source counts rewards of exactly 1.

    Source: CoBA-RL [2602.03048; Within-yao/CoBA-RL, recipe/coba_rl, V]: the values of its script,
    whose class has kappa 7, window 3 and at most 32 rollouts. Not checked against its figures.
    """

    name = "coba-rl"
    summary = "unequal groups by a value that follows the policy's failure rate, dealt greedily"
    source = "CoBA-RL, arXiv 2602.03048"
    mark = "V"

    kappa: float = 11.0
    tau: float | None = None
    window: int = 1
    right_from: float = 1.0
    _failures: list[float] = field(
        default_factory=list, init=False, repr=False, metadata=no_prompts()
    )
    # Successes and scored rollouts of each prompt's last visits, shape (size, window, 2).
    _visits: Array = field(
        default_factory=lambda: np.empty((0, 1, 2)),
        init=False,
        repr=False,
        metadata=per_prompt(0),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tau is None or self.tau > 0, f"tau is {self.tau}; it must be positive")
        require(self.kappa > 2, f"kappa is {self.kappa}; it must be above 2")
        require(self.window >= 1, f"window is {self.window}; it must be at least 1")
        require(0 < self.right_from <= 1, f"right_from is {self.right_from}; it must lie in (0, 1]")
        self._visits = np.empty((0, self.window, 2))

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        self._visits = sized(self._visits, prompts.size, 0.0)
        ids = prompts.draw(min(self.prompts_per_step, prompts.size))
        alpha = self.kappa - 2
        self._last = {}
        if self._failures:
            failure = float(np.mean(self._failures))
            alpha = self.alpha(failure)
            self._last["select/failure_rate"] = failure
        self._last["select/alpha"] = alpha
        groups = yield self.ask(ids, self.allocate(self.rates(ids), alpha))
        self._note(groups, ledger)
        return groups

    def alpha(self, failure: float) -> float:
        """The density's first parameter at a failure rate in [0, 1]."""
        eased = failure if failure > 0.5 else 1 / (1 + np.exp(-10 * (failure - 0.5)))
        return float(np.clip(1 + (self.kappa - 2) * eased, 1, self.kappa - 1))

    def rates(self, ids: NDArray[np.int64]) -> Array:
        """Success rates over the last visits, shape (k,), NaN where there was none."""
        right, scored = self._visits[ids].sum(axis=1).T
        return np.where(scored > 0, right / np.maximum(scored, 1), np.nan)

    def allocate(self, rates: Array, alpha: float) -> Counts:
        """Rollouts of each prompt, shape (m,), summing to m * num_generations.

        Args:
            rates: success rates in [0, 1], shape (m,), NaN where unknown.
            alpha: the density's first parameter.
        """
        low, high = self.bounds
        counts = np.full(len(rates), low, dtype=np.int64)
        spare = len(rates) * (self.num_generations - low)
        if np.isnan(rates).all():
            return counts + even_allocation(spare, high - counts)
        rates = np.nan_to_num(rates, nan=0.5)
        hard, easy = rates < HARD_BELOW, rates > EASY_ABOVE
        middle = ~(hard | easy)
        if middle.any():
            dealt = min(int(spare * greedy_share(middle.mean())), int(middle.sum()) * (high - low))
            inner = np.clip(rates[middle], 0.01, 0.99)
            values = self.values(inner, np.arange(low, high + 1), alpha)
            counts[middle] = greedy_allocation(values, int(middle.sum()) * low + dealt, low)
        left = len(rates) * self.num_generations - int(counts.sum())
        for members in (hard, middle, easy):
            given = spread_by_failure(left, rates[members], high - counts[members])
            counts[members] += given
            left -= int(given.sum())
        return counts

    def values(self, rates: Array, counts: Counts, alpha: float) -> Array:
        """V of every number of rollouts on every prompt, shape (len(rates), len(counts)).

        Args:
            rates: of the middle class, in (0, 1).
            counts: numbers of rollouts.
            alpha: the density's first parameter.
        """
        tau = middle_tau(rates) if self.tau is None else self.tau
        saturation = -np.expm1(-np.outer(rates * (1 - rates), counts) / tau)
        return saturation * beta_density(rates, alpha, self.kappa - alpha)[:, None]

    def _note(self, groups: list[Group], ledger: Ledger) -> None:
        """Add a visit to each prompt that was scored, and the step's failure rate."""
        rates = []
        for group in groups:
            outcomes = to_unit(group.scored, ledger)
            if not outcomes.size:
                continue
            right = np.count_nonzero(outcomes >= self.right_from - 1e-9)
            visits = self._visits[group.prompt_id]
            visits[:-1] = visits[1:].copy()
            visits[-1] = right, outcomes.size
            rates.append(right / outcomes.size)
        if rates:
            self._failures = [*self._failures, 1 - float(np.mean(rates))][-self.window :]


def greedy_share(middle: float) -> float:
    """Share of the spare budget that is dealt greedily, by the middle's share of the prompts."""
    return 0.8 if middle > 0.5 else 0.6 + 0.2 * 2 * middle


def middle_tau(rates: Array) -> float:
    """tau from the variance of the middle class's success rates, shape (k,), k >= 1."""
    return TAU_LEAST + TAU_SPAN * float(np.clip(rates.var() / TAU_VARIANCE, 0, 1))


def spread_by_failure(extra: int, rates: Array, room: Counts) -> Counts:
    """Divide rollouts over one class by its prompts' failure rates.

    One prompt after the other gets its share, by weight 1 - p, of what is *then* left, so that
    earlier ones get more (the source's code subtracts inside its loop); what is left after that is
    divided evenly.

    Args:
        extra: rollouts to give away; what finds no room is left over.
        rates: success rates of the class, shape (k,).
        room: how many each can take, shape (k,).

    Returns:
        What each gets, shape (k,).
    """
    weights = 1 - np.clip(rates, 1e-6, 1 - 1e-6)
    given = np.zeros(len(rates), dtype=np.int64)
    for i, share in enumerate(weights / max(weights.sum(), 1e-12)):
        given[i] = min(int(extra * share + 1e-9), int(room[i]))
        extra -= int(given[i])
    return given + even_allocation(extra, room - given)


def beta_density(rates: Array, alpha: float, beta: float) -> Array:
    """BetaPDF(p; alpha, beta) of rates inside (0, 1), shape as given."""
    log_constant = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta)
    logs = log_constant + (alpha - 1) * np.log(rates) + (beta - 1) * np.log1p(-rates)
    return np.exp(logs)

"""CoBA-RL: rollouts go where the policy, at its present capability, has most to gain."""

from dataclasses import dataclass, field
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import no_prompts
from dopr.core.strategy import Group, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates, to_unit
from dopr.strategies.parts.allocation import UnequalGroups, greedy_allocation


@dataclass
class CobaRL(UnequalGroups):
    """Unequal groups by a value of rollouts that moves with the policy's failure rate.

    With p a prompt's success rate, B rollouts on it are worth

        V(B, p) = (1 - exp(-B p (1 - p) / tau)) * BetaPDF(p; alpha, kappa - alpha)

    and nothing where p is 0 or 1. F is the failure rate of the batches, averaged over the last
    `window` steps; F~ = F above 1/2, else sigmoid(10 (F - 1/2)); alpha = alpha_min + scale * F~,
    clipped to [alpha_min, alpha_max]. A policy that fails often works on easy prompts, one that
    seldom fails on hard ones. The budget, num_generations a prompt, is dealt out greedily.

    What the source leaves open: the values of tau, `scale` (its lambda), alpha's bounds and
    `window`; ours make alpha symmetric where half of the rollouts fail. A prompt without history
    takes the mean success rate of the pool, so the first step is uniform. Prompts of value 0 get
    `min_rollouts`; budget that has no value anywhere goes to the smallest groups first.

    Args:
        tau: how soon further rollouts on one prompt stop paying, in rollouts at p (1 - p) = 1.
        kappa: alpha + beta of the density.
        alpha_min, alpha_max, scale: see above; 0 < alpha_min <= alpha_max < kappa.
        window: steps behind F.
        discount: factor in (0, 1] on a prompt's past rewards at each visit.
        prior_strength: imaginary rollouts at the pool's mean added to each prompt's history.

    Source: CoBA-RL [2602.03048, V]; tau, scale, alpha_min, alpha_max, window, discount I.
    """

    name = "coba-rl"
    summary = "unequal groups by a value that follows the policy's failure rate, dealt greedily"
    source = "CoBA-RL, arXiv 2602.03048"
    mark = "V"

    tau: float = 1.0
    kappa: float = 11.0
    alpha_min: float = 3.0
    alpha_max: float = 8.0
    scale: float = 5.0
    window: int = 10
    discount: float = 0.5
    prior_strength: float = 0.0
    _failures: list[float] = field(
        default_factory=list, init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tau > 0, f"tau is {self.tau}; it must be positive")
        require(
            0 < self.alpha_min <= self.alpha_max < self.kappa,
            f"alpha_min ({self.alpha_min}) and alpha_max ({self.alpha_max}) must lie in this order "
            f"between 0 and kappa ({self.kappa})",
        )
        require(self.window >= 1, f"window is {self.window}; it must be at least 1")
        require(0 < self.discount <= 1, f"discount is {self.discount}; it must lie in (0, 1]")
        require(self.prior_strength >= 0, "prior_strength must not be negative")

    @property
    def ledger_discount(self) -> float:
        return self.discount

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        ids = prompts.draw(min(self.prompts_per_step, prompts.size))
        rates = success_rates(ledger, ids, self.prior_strength)
        failure = float(np.mean(self._failures)) if self._failures else float(1 - rates.mean())
        alpha = self.alpha(failure)
        low, high = self.bounds
        values = self.values(rates, np.arange(low, high + 1), alpha)
        counts = greedy_allocation(values, len(ids) * self.num_generations, low)
        self._last = {"select/failure_rate": failure, "select/alpha": alpha}
        groups = yield self.ask(ids, counts)
        self._note_failures(groups, ledger)
        return groups

    def alpha(self, failure: float) -> float:
        """The density's first parameter at a failure rate in [0, 1]."""
        eased = failure if failure > 0.5 else 1 / (1 + np.exp(-10 * (failure - 0.5)))
        return float(np.clip(self.alpha_min + self.scale * eased, self.alpha_min, self.alpha_max))

    def values(
        self, rates: NDArray[np.float64], counts: NDArray[np.int64], alpha: float
    ) -> NDArray[np.float64]:
        """V of every number of rollouts on every prompt, shape (len(rates), len(counts))."""
        spread = rates * (1 - rates)
        saturation = -np.expm1(-np.outer(spread, counts) / self.tau)
        return saturation * beta_density(rates, alpha, self.kappa - alpha)[:, None]

    def _note_failures(self, groups: list[Group], ledger: Ledger) -> None:
        means = to_unit([group.mean for group in groups if group.scored.size], ledger)
        if means.size:
            self._failures = [*self._failures, float(1 - means.mean())][-self.window :]


def beta_density(rates: NDArray[np.float64], alpha: float, beta: float) -> NDArray[np.float64]:
    """BetaPDF(p; alpha, beta) inside (0, 1), and 0 at both ends, whatever the parameters."""
    inside = (rates > 0) & (rates < 1)
    safe = np.where(inside, rates, 0.5)
    log_constant = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta)
    logs = log_constant + (alpha - 1) * np.log(safe) + (beta - 1) * np.log1p(-safe)
    return np.where(inside, np.exp(logs), 0.0)

"""CurES: which prompts by the steepness of the reward, how many rollouts by gradient spread."""

from dataclasses import dataclass

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates
from dopr.strategies.parts.allocation import UnequalGroups, proportional_allocation
from dopr.strategies.parts.turns import draw_by_weight


@dataclass
class CurES(UnequalGroups):
    """Prompts drawn by exp(sqrt(p (1 - p)) / tau), rollouts in proportion to sqrt(p (1 - p)).

    p is the mean of a Beta(1, 1) posterior. The source allots rollouts by

        sigma^2 = p q^2 E[g+^2] + p^2 q E[g-^2] - p^2 q^2 (E[g+] - E[g-])^2,   q = 1 - p,

    with g+ and g- the gradient norms of right and wrong rollouts, from a pre-run over all prompts.
    Gradient norms are not to be had before a rollout: here right and wrong ones count as equally
    large, which leaves sigma = sqrt(p q). There is no pre-run either: unseen prompts are fair
    coins, until they are rolled out.

    Args:
        tau: temperature of the weights. In the paper's code it is 100 * (1 + successes) of each
            prompt, which is close to uniform choice; 0.1 is the default of the sampler's unused
            parameter and makes a fair coin exp(5) times as likely as a hopeless prompt.
        candidates: prompts drawn to choose from; None weighs the whole pool, as the source does.
        prior_strength, prior_mean: imaginary rollouts of each prompt and their success rate; None
            takes the mean of the pool instead of the flat prior's 1/2.
        discount: factor in (0, 1] on a prompt's past rewards at each visit. I.

    Source: CurES [2510.01037; code ZexuSun/CurES, V]; equal gradient norms, tau and discount I.
    """

    name = "cures"
    summary = "prompts weighted by exp(sqrt(p(1-p))/tau), rollouts by sqrt(p(1-p))"
    source = "CurES, arXiv 2510.01037"
    mark = "V"

    tau: float = 0.1
    candidates: int | None = None
    prior_strength: float = 2.0
    prior_mean: float | None = 0.5
    discount: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tau > 0, f"tau is {self.tau}; it must be positive")
        require(
            self.candidates is None or self.candidates >= self.prompts_per_step,
            f"candidates is {self.candidates}; it must be at least prompts_per_step "
            f"({self.prompts_per_step})",
        )
        require(self.prior_strength >= 0, "prior_strength must not be negative")
        require(
            self.prior_mean is None or 0 <= self.prior_mean <= 1,
            f"prior_mean is {self.prior_mean}; it must lie in [0, 1]",
        )
        require(0 < self.discount <= 1, f"discount is {self.discount}; it must lie in (0, 1]")

    @property
    def ledger_discount(self) -> float:
        return self.discount

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self.candidates is None:
            candidates = np.arange(prompts.size)
        else:
            candidates = prompts.draw(min(self.candidates, prompts.size))
        rates = success_rates(ledger, candidates, self.prior_strength, self.prior_mean)
        spread = np.sqrt(rates * (1 - rates))
        chosen = draw_by_weight(spread / self.tau, self.prompts_per_step, prompts.rng)
        budget = len(chosen) * self.num_generations
        counts = proportional_allocation(spread[chosen], budget, *self.bounds)
        self._last = {"select/gradient_spread": float(spread[chosen].mean())}
        groups = yield self.ask(candidates[chosen], counts)
        return groups

"""Every bound by name, with its value for a situation, source, mark and assumptions."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dopr.core.statistics import finite
from dopr.offline import bounds, trust_region
from dopr.offline.best_arm import best_arm
from dopr.offline.plan_settings import PlanSettings
from dopr.offline.pool_rates import PoolRates

_VERDICTS = "independent rollouts, verdicts 0 or 1"
_OURS = "derived in docs/theory.md"


@dataclass(frozen=True, slots=True)
class Bound:
    """One number of a plan.

    Attributes:
        name: of the function that computes it.
        value: None where something it needs was not given, or where it is infinite.
        meaning: what it says, with its unit.
        source: where it is from.
        mark: V read in the paper or its abstract, or elementary and checked by simulation; S from a
            secondary source; I inferred, from memory or derived here.
        assumptions: what must hold, or what must be given.
    """

    name: str
    value: float | None
    meaning: str
    source: str
    mark: str
    assumptions: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What the bounds are evaluated for: a pool, its mean rate p, and the options."""

    pool: PoolRates
    p: float
    target: float
    size: int
    options: PlanSettings

    @property
    def solution_tokens(self) -> float | None:
        """Expected tokens to the first right solution, given or measured."""
        return self.options.solution_tokens or self.pool.tokens_to_solution


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    meaning: str
    source: str
    mark: str
    assumptions: str
    compute: Callable[[Situation], float | None]


def all_bounds(situation: Situation) -> list[Bound]:
    """Every entry of the registry for a situation, in order."""
    found = []
    for entry in _ENTRIES:
        fields = {k: v for k, v in _plain(entry).items() if k != "compute"}
        found.append(Bound(value=finite(entry.compute(situation)), **fields))
    return found


def as_records(found: list[Bound]) -> list[dict[str, Any]]:
    """Plain values for JSON."""
    return [asdict(bound) for bound in found]


def _plain(entry: _Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}


def _informative(s: Situation) -> float:
    return float(s.pool.informative(s.options.group_size).mean())


def _relative_budget(s: Situation) -> float | None:
    if s.options.max_tokens is None or s.solution_tokens is None:
        return None
    return bounds.relative_budget(s.options.max_tokens, s.solution_tokens)


def _outcome_based(s: Situation) -> float | None:
    if s.options.coverability is None or s.options.horizon is None:
        return None
    return bounds.outcome_based(s.options.coverability, s.options.horizon, 1 - s.target)


def _discounted(s: Situation) -> float:
    size = s.options.group_size
    return bounds.discounted_estimator(s.p, 0.5, 2.0, size, s.options.discount)[1]


def _one_prompt(s: Situation) -> float:
    return trust_region.rollouts_lower_bound(s.p, s.target, s.options.kl)


def _ranking(s: Situation) -> float:
    return best_arm(np.r_[s.p, np.zeros(s.size - 1)], s.options.delta)


_ENTRIES = (
    _Entry(
        "informative_group",
        "chance that a group of a random prompt has both outcomes",
        "elementary; GRPO's advantages (2402.03300) vanish otherwise",
        "V",
        f"{_VERDICTS}; averaged over the pool's prompts",
        _informative,
    ),
    _Entry(
        "rollouts_per_informative_group",
        "expected rollouts for one group with both outcomes, prompts at random",
        "elementary",
        "V",
        f"{_VERDICTS}; groups of fixed size",
        lambda s: s.options.group_size / _informative(s),
    ),
    _Entry(
        "first_success",
        "rollouts below which no success is seen with a chance above delta",
        "elementary: (1-p)^n <= delta",
        "V",
        f"{_VERDICTS} at the mean rate; learning from successes alone",
        lambda s: bounds.first_success(s.p, s.options.delta),
    ),
    _Entry(
        "learnability",
        "variance of a verdict, p(1-p), mean over prompts",
        "arXiv 2504.03380",
        "S",
        _VERDICTS,
        lambda s: s.pool.learnability,
    ),
    _Entry(
        "improvement_bound",
        "p(1-p)/(2 beta^2), nats to the KL-regularised optimum",
        "arXiv 2504.03380",
        "S",
        "second order in 1/beta: exceeds the exact value for small beta, see the next line",
        lambda s: s.pool.learnability / (2 * s.options.beta**2),
    ),
    _Entry(
        "divergence_to_optimum",
        "the same exactly, at the mean rate, nats",
        _OURS,
        "I",
        "verdicts; the optimum of E[r] - beta KL",
        lambda s: bounds.divergence_to_optimum(s.p, s.options.beta),
    ),
    _Entry(
        "mean_advantage",
        "expected |A| with division by the standard deviation",
        "elementary: 2 sqrt(p(1-p))",
        "V",
        "true mean and deviation in place of the group's; at the mean rate",
        lambda s: bounds.mean_advantage(s.p),
    ),
    _Entry(
        "gradient_variance_dr_grpo",
        "variance of a prompt's gradient, A = R - mean, in units of the score's variance",
        "VIP, arXiv 2602.01601",
        "S",
        "rewards -1 and 1 (a quarter for 0 and 1), scores that do not depend on them",
        lambda s: bounds.gradient_variance_dr_grpo(s.p, s.options.group_size),
    ),
    _Entry(
        "gradient_variance_rloo",
        "the same with leave-one-out advantages",
        "VIP, arXiv 2602.01601",
        "S",
        "rewards -1 and 1 (a quarter for 0 and 1), scores that do not depend on them",
        lambda s: bounds.gradient_variance_rloo(s.p, s.options.group_size),
    ),
    _Entry(
        "trust_region_cap",
        "most that the success rate changes in one update",
        "CurES, arXiv 2510.01037",
        "V",
        "small updates of the given KL; first order",
        lambda s: trust_region.trust_region_cap(s.p, s.options.kl),
    ),
    _Entry(
        "trust_region_updates",
        "updates to the target at that cap",
        f"CurES' cap integrated, {_OURS}",
        "I",
        "limit of many small updates, at the mean rate",
        lambda s: trust_region.trust_region_updates(s.p, s.target, s.options.kl),
    ),
    _Entry(
        "fewest_updates",
        "updates to the target that no policy undercuts",
        _OURS,
        "I",
        "KL of each update as given, in either direction; steps of any size",
        lambda s: trust_region.fewest_updates(s.p, s.target, s.options.kl),
    ),
    _Entry(
        "rollouts_lower_bound",
        "rollouts to lift one prompt to the target, in the cheapest grouping",
        _OURS,
        "I",
        f"{_VERDICTS}; only groups with both outcomes teach, each used once, by the given KL; no "
        "help from other prompts",
        _one_prompt,
    ),
    _Entry(
        "shared_lower_bound",
        "rollouts to lift the pool's mean where prompts help each other fully",
        _OURS,
        "I",
        "as above, but KL on average over the pool and b of B groups give (b/B)^2 of it",
        lambda s: trust_region.shared_lower_bound(
            s.p, s.target, s.options.kl, s.options.groups_per_update, s.options.group_size
        ),
    ),
    _Entry(
        "base_model_barrier",
        "order of reward queries, (1/alpha + 1/epsilon)/gamma^2",
        "arXiv 2603.06957",
        "V",
        "linear autoregressive models with margin; abstract only; no constants or logarithms",
        lambda s: bounds.base_model_barrier(s.p, 1 - s.target, s.options.margin),
    ),
    _Entry(
        "best_arm",
        "rollouts to name the one learnable prompt of the pool",
        "Garivier and Kaufmann 2016, arXiv 1602.04589; folding at 1/2 derived in docs/theory.md",
        "I",
        "one prompt at the mean rate, the others never solved; a policy that stands still",
        _ranking,
    ),
    _Entry(
        "relative_budget",
        "xi = H/E[T]; best in 1.5 to 2.0",
        "arXiv 2602.01523",
        "V",
        "abstract only; needs --max-tokens and --solution-tokens, or a pilot, which takes E[T] as "
        "tokens per right completion",
        _relative_budget,
    ),
    _Entry(
        "outcome_based",
        "order of trajectories, C_cov H^3/epsilon^2 with epsilon = 1 - target",
        "arXiv 2505.20268",
        "V",
        "abstract only; no constants; needs --coverability and --horizon",
        _outcome_based,
    ),
    _Entry(
        "discounted_estimator",
        "variance of the discounted success rate after a prompt's first group",
        "DBB, arXiv 2603.18444",
        "V",
        "prior Beta(1, 1); at the mean rate",
        _discounted,
    ),
)

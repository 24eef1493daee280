"""What a success rate alone says about rollouts: the formulas of sample complexity, by name.

Notation: p is the chance that one rollout is right, G the rollouts in a group. Rewards are
verdicts, 0 or 1, of independent rollouts. Marks: V read in the paper or its abstract, S from a
secondary source, I inferred. None of these is DoPR's own theorem, whose text was not available.
"""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError

Array = NDArray[np.float64]
_LEAST_RATE = 1e-9
Rate = TypeVar("Rate", float, Array)


def informative_group(p: Rate, group_size: int) -> Rate:
    """Chance that a group has both outcomes, 1 - p^G - (1-p)^G.

    Assumes that only a group with both outcomes moves the policy, as with group-relative
    advantages.

    Args:
        p: success rate in [0, 1], a number or an array.
        group_size: G.

    Raises:
        UserError: G is below 2.

    Source: elementary; GRPO's advantages [2402.03300, V] vanish otherwise.
    """
    _check_group(group_size)
    result: Rate = 1 - p**group_size - (1 - p) ** group_size
    return result


def rollouts_per_informative_group(p: float, group_size: int) -> float:
    """Expected rollouts until a group of G has both outcomes, G / P; infinite at p of 0 or 1.

    Source: elementary, the mean of a geometric distribution.
    """
    chance = informative_group(p, group_size)
    return group_size / chance if chance > 0 else math.inf


def cheapest_rollouts(p: float) -> float:
    """Least expected rollouts until both outcomes were seen on one prompt, 1/(p(1-p)) - 1.

    Reached by sampling one at a time and stopping at the second kind of outcome: 1 + p/q + q/p. A
    group whose size is fixed beforehand costs at least 1/(p(1-p)), with equality for G = 2 and 3.
    Infinite at p of 0 or 1.

    Source: elementary; the derivation is in docs/theory.md.
    """
    spread = p * (1 - p)
    return 1 / spread - 1 if spread > 0 else math.inf


def first_success(p: float, delta: float = 0.1) -> float:
    """Rollouts below which no success is seen with a chance of more than delta.

    n = ln(delta) / ln(1 - p); the number of rollouts needed is the next whole one. A lower bound
    for every method that learns from successes alone.

    Args:
        p: success rate in (0, 1).
        delta: chance of failing, in (0, 1).

    Source: elementary, (1 - p)^n <= delta.
    """
    check_rate("pass rate", p)
    check_rate("delta", delta)
    return math.log(delta) / math.log1p(-p)


def learnability(p: Rate) -> Rate:
    """Variance of a verdict, p(1 - p), at most 1/4.

    Source: [2504.03380, S].
    """
    result: Rate = p * (1 - p)
    return result


def improvement_bound(p: float, beta: float) -> float:
    """How far the KL-regularised optimum lies from the policy, p(1-p) / (2 beta^2), in nats.

    Stated in the source as a lower bound. For verdicts it is the second-order term of the exact
    divergence, see `divergence_to_optimum`, and exceeds it where beta is small or p above 1/2.

    Args:
        p: success rate in [0, 1].
        beta: weight of the KL penalty, in units of reward per nat.

    Source: [2504.03380, S].
    """
    _check_positive("beta", beta)
    return p * (1 - p) / (2 * beta**2)


def divergence_to_optimum(p: float, beta: float) -> float:
    """KL(policy || optimum) of max E[r] - beta KL, exactly: ln(1 - p + p e^(1/beta)) - p/beta.

    The optimum tilts the policy by e^(r/beta). In nats.

    Source: ours, from the known form of that optimum; sets `improvement_bound` in proportion.
    """
    _check_positive("beta", beta)
    if not 0 < p < 1:
        return 0.0
    return float(np.logaddexp(math.log1p(-p), math.log(p) + 1 / beta)) - p / beta


def mean_advantage(p: float) -> float:
    """Expected |A| where advantages are divided by the standard deviation, 2 sqrt(p(1-p)).

    Assumes the true mean and deviation in place of the group's.

    Source: elementary: p (1-p)/s + (1-p) p/s with s^2 = p(1-p).
    """
    return 2 * math.sqrt(p * (1 - p))


def gradient_variance_dr_grpo(p: float, group_size: int, sigma: float = 1.0) -> float:
    """Variance of a prompt's gradient with A = R - mean, (n-1)/n^2 * 4 sigma^2 p(1-p).

    For rewards of -1 and 1, whose variance is 4p(1-p); with verdicts 0 and 1 it is a quarter.
    Assumes scores of mean 0 that do not depend on the reward.

    Args:
        p: success rate in [0, 1].
        group_size: n.
        sigma: standard deviation of the scores; 1 gives the variance in its units.

    Source: VIP [2602.01601, S]; checked by simulation in the tests.
    """
    _check_group(group_size)
    return (group_size - 1) / group_size**2 * 4 * sigma**2 * p * (1 - p)


def gradient_variance_rloo(p: float, group_size: int, sigma: float = 1.0) -> float:
    """Variance of a prompt's gradient with leave-one-out advantages, 4 sigma^2 p(1-p) / (n-1).

    Arguments as of `gradient_variance_dr_grpo`.

    Source: [S], as there.
    """
    _check_group(group_size)
    return 4 * sigma**2 * p * (1 - p) / (group_size - 1)


def base_model_barrier(alpha: float, epsilon: float, gamma: float = 1.0) -> float:
    """Order of the reward queries to reach likelihood 1 - epsilon, (1/alpha + 1/epsilon)/gamma^2.

    Without constants and logarithms: good for comparing settings, not for a budget. Holds for
    linear autoregressive models; essentially minimax where the base model has the support.

    Args:
        alpha: likelihood of a right response under the base model, in (0, 1).
        epsilon: error aimed at, in (0, 1).
        gamma: margin, positive.

    Source: [2603.06957, V abstract].
    """
    check_rate("pass rate", alpha)
    check_rate("epsilon", epsilon)
    _check_positive("margin", gamma)
    return (1 / alpha + 1 / epsilon) / gamma**2


def relative_budget(horizon: float, tokens_to_solution: float) -> float:
    """xi = H / E[T]; learning was found most efficient for xi in [1.5, 2.0].

    Args:
        horizon: H, tokens a completion may have.
        tokens_to_solution: E[T], tokens until the first correct solution under the base policy.

    Source: [2602.01523, V abstract].
    """
    _check_positive("horizon", horizon)
    _check_positive("tokens to a solution", tokens_to_solution)
    return horizon / tokens_to_solution


def outcome_based(coverability: float, horizon: float, epsilon: float) -> float:
    """Order of the trajectories to get within epsilon of the best, C_cov H^3 / epsilon^2.

    Without constants and logarithms; an upper bound, achieved by an algorithm of the source.

    Args:
        coverability: C_cov of the decision process, at least 1.
        horizon: H, decisions in a trajectory.
        epsilon: distance from the best expected reward, in (0, 1).

    Source: [2505.20268, V abstract].
    """
    _check_positive("coverability", coverability)
    _check_positive("horizon", horizon)
    check_rate("epsilon", epsilon)
    return coverability * horizon**3 / epsilon**2


def discounted_estimator(
    p: float, mu: float, weight: float, group_size: int, discount: float
) -> tuple[float, float]:
    """Mean and variance of the discounted estimate of a success rate after a group.

    Mean w mu + (1-w) p, variance (1-w)^2 p(1-p) / N, with w = lambda m / (lambda m + N): a bias
    towards the past bought for less noise.

    Args:
        p: success rate now.
        mu: estimate before the group, in [0, 1].
        weight: m = a + b, pseudo-counts behind it.
        group_size: N.
        discount: lambda in [0, 1].

    Source: DBB [2603.18444, V].
    """
    kept = discount * weight
    share = kept / (kept + group_size)
    return share * mu + (1 - share) * p, (1 - share) ** 2 * p * (1 - p) / group_size


def check_rate(name: str, value: float) -> None:
    """Refuse a number outside (0, 1).

    Raises:
        UserError: naming it.
    """
    if not 0 < value < 1:
        raise UserError(f"the {name} is {value:g}; it must lie between 0 and 1, both excluded")
    if not _LEAST_RATE <= value <= 1 - _LEAST_RATE:
        raise UserError(
            f"the {name} is {value:g}, which rounding does not tell from 0 or 1; take one between "
            f"{_LEAST_RATE:g} and 1 - {_LEAST_RATE:g}"
        )


def _check_group(group_size: int) -> None:
    if group_size < 2:
        raise UserError(
            f"the group size is {group_size}; it must be at least 2, since one rollout alone has "
            "no variance"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"the {name} is {value:g}; it must be positive")

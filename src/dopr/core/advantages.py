"""From a group's rewards to its advantages, whatever the group's size. NumPy only.

Every estimator treats a reward of NaN (nothing could score the rollout) as absent: it enters no
mean, and its own advantage is 0.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, Strategy
from dopr.core.success_rates import reward_range

# TRL adds this to the standard deviation; the same number keeps uniform choice equal to TRL.
STD_EPSILON = 1e-4
DBB_DISCOUNT = 0.5

Array = NDArray[np.float64]


def group_relative(rewards: Array, baseline: float | None = None) -> Array:
    """A_i = r_i - mean(r): GRPO before scaling [2402.03300, V], Dr.GRPO's whole advantage [V].

    Args:
        rewards: shape (n,).
        baseline: subtracted instead of the mean where given.
    """
    center = _mean(rewards) if baseline is None else baseline
    return np.nan_to_num(rewards - center, nan=0.0)


def leave_one_out(rewards: Array) -> Array:
    """A_i = r_i - mean of the others (RLOO [2402.14740, V]), shape (n,); 0 for a single rollout."""
    return _against_others(rewards, None, rewards)


def discounted_beta_bernoulli(group: Group, ledger: Ledger) -> Array:
    """A_i = (r_i - m) / s with m, s of the prompt's discounted Beta posterior; 0 where s is 0.

    Both begin at 1; alpha <- lambda alpha + successes, beta <- lambda beta + failures over the
    prompt's visits, this one included; m = alpha / (alpha + beta), s^2 = m (1 - m). A group without
    variance keeps a gradient; where a prompt always goes the same way it dwindles as the two ones
    fade. Rewards are mapped to [0, 1] by the lowest and highest seen.

    Source: DBB [2603.18444, V], lambda 0.5 (1.7B) and 0.75 (8B).

    Args:
        group: finished group, already observed by `ledger`.
        ledger: gives the discounted mean and weight; its discount is lambda.
    """
    i = group.prompt_id
    low, high = reward_range(ledger)
    spread = high - low
    faded = ledger.discount ** int(ledger.visits[i])  # what is left of the 1 at the start
    successes = float(ledger.weight[i]) * (float(ledger.mean[i]) - low) / spread
    alpha = faded + successes
    beta = faded + float(ledger.weight[i]) - successes
    mean = alpha / (alpha + beta)
    std = np.sqrt(max(mean * (1 - mean), 0.0))
    if std == 0:
        return np.zeros_like(group.rewards)
    return np.nan_to_num(((group.rewards - low) / spread - mean) / std, nan=0.0)


def forecast(group: Group, ledger: Ledger) -> Array:
    """A_i = r_i - m, m the reward that the strategy expects of the prompt; scaled by its own s.

    Among what it expects are the group's own rewards, as a posterior holds them: r_i enters m like
    the others, which shortens every advantage alike. A group mean of few rollouts is a poor
    baseline, and none at all where all of them went the same way; a strategy that knows the prompt,
    or prompts like it, knows better. Groups that no strategy expected anything of, and
    those with a `baseline` of their own, are `group_relative`.

    Source: ours; DBB [2603.18444, V] does so with the prompt's own past alone.
    """
    if group.expected_mean is None or group.baseline is not None:
        return _group(group, ledger)
    return group_relative(group.rewards, group.expected_mean)


def usual_discount(strategy: Strategy, estimator: str | None) -> float | None:
    """The ledger's discount where the run's settings give none; None leaves it to the strategy.

    DBB has lambda 0.5. A strategy that fades the past of itself, or that has an option for it which
    was set, keeps its own: there is one ledger, and that is lambda then.

    Args:
        strategy: as it will run.
        estimator: of the advantages.
    """
    knows_one = type(strategy).ledger_discount is not Strategy.ledger_discount
    was_set = knows_one and bool({"discount", "ledger_discount"} & strategy._named)
    fades = strategy.ledger_discount != 1 or was_set
    return None if estimator != "dbb" or fades else DBB_DISCOUNT


def zero_variance(group: Group, ledger: Ledger, alpha: float = 0.1) -> Array:
    """Group-relative advantages, and +-alpha where the group's rewards do not differ.

    All right gives +alpha, all wrong -alpha; the trainer then shapes these by token entropy: alpha
    H_t where all were right, -alpha (max_k H_k - H_t) where all were wrong, H_t the entropy at
    token t in nats, without gradient. Right means above the middle of the rewards seen so far.

    Source: RL-ZVP [2509.21880, S]; its alpha lies between 0.1 and 0.2.
    """
    if group.informative or not group.scored.size:
        return _group(group, ledger)
    low, high = reward_range(ledger)
    sign = 1.0 if group.mean > (low + high) / 2 else -1.0
    return np.where(np.isnan(group.rewards), 0.0, sign * alpha)


def _mean(rewards: Array) -> float:
    scored = rewards[~np.isnan(rewards)]
    return float(scored.mean()) if scored.size else 0.0


def _group_std(group: Group, estimator: str) -> float:
    if group.std is not None:
        return group.std
    if estimator == "forecast" and group.expected_std is not None and group.baseline is None:
        return group.expected_std
    return _std(group.rewards)


def _batch_std(groups: Sequence[Group], estimator: str) -> float:
    """Of all rewards of a step; no less than what a forecast expects of them, since it may find a
    surprise where they do not differ at all.
    """
    std = _std(np.concatenate([g.rewards for g in groups])) if groups else 0.0
    expected = [g.expected_std for g in groups if g.expected_std is not None]
    if estimator != "forecast" or not expected:
        return std
    return max(std, float(np.sqrt(np.mean(np.square(expected)))))


def _std(rewards: Array) -> float:
    """Standard deviation with n - 1, as TRL has it; 0 for fewer than two rewards."""
    scored = rewards[~np.isnan(rewards)]
    return float(scored.std(ddof=1)) if scored.size > 1 else 0.0


def _group(group: Group, ledger: Ledger) -> Array:
    return group_relative(group.rewards, group.baseline)


def _leave_one_out(group: Group, ledger: Ledger) -> Array:
    """Among the rollouts whose mean is the baseline: those that are kept, or all of the group. In
    a baseline that is the mean of neither no rollout has a part.
    """
    if group.baseline is None:
        return leave_one_out(group.rewards)
    for averaged in ([] if group.kept is None else [group.rewards[group.kept]]) + [group.rewards]:
        scored = averaged[~np.isnan(averaged)]
        if scored.size and np.isclose(group.baseline, scored.mean()):
            return _against_others(group.rewards, group.baseline, averaged)
    return group_relative(group.rewards, group.baseline)


def _against_others(rewards: Array, baseline: float | None, averaged: Array) -> Array:
    """Deviations from a mean, rid of each rollout's own part in it: times m / (m - 1).

    Args:
        rewards: shape (n,).
        baseline: that mean; None takes that of `rewards`.
        averaged: the m rewards behind it, NaN where absent.
    """
    count = int(np.count_nonzero(~np.isnan(averaged)))
    if count < 2:
        return np.zeros_like(rewards)
    return group_relative(rewards, baseline) * count / (count - 1)


# Most give advantages in units of reward, which may still be scaled; DBB brings its own scale, and
# so do the groups without variance under zvp.
ESTIMATORS: dict[str, Callable[[Group, Ledger], Array]] = {
    "forecast": forecast,
    "group": _group,
    "leave_one_out": _leave_one_out,
    "dbb": discounted_beta_bernoulli,
    "zvp": zero_variance,
}


def compute_advantages(
    groups: Sequence[Group], ledger: Ledger, estimator: str = "group", scale: str = "group"
) -> list[Array]:
    """Advantages of every rollout of every group, kept or not.

    Args:
        groups: finished groups, of any sizes.
        ledger: what is known about their prompts, these groups included.
        estimator: `forecast`, `group`, `leave_one_out`, `dbb` or `zvp`.
        scale: `group` divides by the group's standard deviation (its own `std` where it has one;
            with `forecast` what was expected), `batch` by that of all rewards (with `forecast` no
            less than what was expected), `none` by nothing (TRL's `scale_rewards`). DBB brings its
            own scale.

    Returns:
        One array of shape (n,) per group; the group's `weights` are multiplied in.

    Raises:
        UserError: unknown estimator or scale.
    """
    if estimator not in ESTIMATORS:
        raise unknown_name("advantage estimator", estimator, ESTIMATORS)
    if scale not in ("group", "batch", "none"):
        raise unknown_name("scale_rewards", scale, ("group", "batch", "none"))
    batch_std = _batch_std(groups, estimator)
    result = []
    for group in groups:
        advantages = ESTIMATORS[estimator](group, ledger)
        own_scale = estimator == "dbb" or (estimator == "zvp" and not group.informative)
        if not own_scale and scale != "none":
            std = _group_std(group, estimator) if scale == "group" else batch_std
            advantages = advantages / (std + STD_EPSILON)
        result.append(advantages if group.weights is None else advantages * group.weights)
    return result

"""Several rewards that are normalised one by one (TRL's `multi_objective_aggregation`)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dopr.core.advantages import STD_EPSILON
from dopr.core.errors import UserError
from dopr.engines.trl.rounds import Segment
from dopr.strategies import Group, Strategy

Array = NDArray[np.float64]

NORMALIZE_THEN_SUM = "normalize_then_sum"


def estimator_beside(aggregation: str, estimator: str | None) -> str:
    """The estimator of the advantages; rewards kept apart leave nothing to forecast.

    Args:
        aggregation: TRL's `multi_objective_aggregation`.
        estimator: our `advantage_estimator`.

    Raises:
        UserError: rewards are kept apart, and one is asked for that knows one reward a rollout.
    """
    if aggregation != NORMALIZE_THEN_SUM:
        return estimator or "forecast"
    if estimator not in (None, "group"):
        raise UserError(
            f"advantage_estimator {estimator!r} knows one reward a rollout, which "
            "multi_objective_aggregation='normalize_then_sum' does not make; set one of the two "
            "back to its default"
        )
    return "group"


def normalize_then_sum(groups: Sequence[Group], weights: Array, strategy: Strategy) -> list[Array]:
    """A = z(sum_k w_k (r_k - mean_k) / (std_k + eps)), z over all rollouts of the step.

    Mean and standard deviation of each reward run over its group, so that a reward of small range
    counts as much as one of large range. Source: GDPO [2601.05242, S], as TRL computes it.

    Args:
        groups: finished groups of any sizes, whose rounds hold the single rewards.
        weights: shape (k,), of the rewards.
        strategy: which kept them.

    Returns:
        Advantages of every rollout of every group, kept or not, shape (n,) each; a rollout that no
        reward could score has 0. The group's `weights` are multiplied in.

    Raises:
        UserError: a group comes with a baseline, which is in units of the summed reward.
    """
    summed = []
    for group in groups:
        rewards = single_rewards(group)
        averaged = _averaged(group, rewards, strategy)
        deviation = rewards - _mean(averaged)
        value = np.nansum(deviation / (_std(rewards) + STD_EPSILON) * weights, axis=1)
        summed.append(np.where(np.isnan(rewards).all(axis=1), np.nan, value))
    flat = np.concatenate(summed)[:, None] if summed else np.empty((0, 1))
    mean, std = _mean(flat), _std(flat)
    result = []
    for group, value in zip(groups, summed, strict=True):
        advantages = np.nan_to_num((value - mean) / (std + STD_EPSILON), nan=0.0)
        result.append(advantages if group.weights is None else advantages * group.weights)
    return result


def single_rewards(group: Group) -> Array:
    """Of each reward function, shape (n, k); NaN where it could not score."""
    segments: tuple[Segment, ...] = group.handle
    return np.concatenate([s.round.rewards[s.start : s.start + s.count] for s in segments])


def _averaged(group: Group, rewards: Array, strategy: Strategy) -> Array:
    """The rows whose mean is the group's baseline: all of them, or those that are kept."""
    if group.baseline is None or np.isclose(group.baseline, group.mean):
        return rewards
    if group.kept is not None and np.isclose(group.baseline, np.nanmean(group.rewards[group.kept])):
        return rewards[group.kept]
    raise UserError(
        f"strategy {strategy.name!r} sets a baseline for the sum of the rewards, and "
        "multi_objective_aggregation='normalize_then_sum' never makes that sum; set it to "
        "'sum_then_normalize' or choose another strategy"
    )


def _mean(values: Array) -> Array:
    """Of each column, NaN left out; 0 where nothing is left."""
    known = ~np.isnan(values)
    total: Array = np.where(known, values, 0.0).sum(axis=0)
    return total / np.maximum(known.sum(axis=0), 1)


def _std(values: Array) -> Array:
    """Of each column with n - 1, NaN left out; 0 for fewer than two values."""
    known = ~np.isnan(values)
    squares: Array = (np.where(known, values - _mean(values), 0.0) ** 2).sum(axis=0)
    return np.sqrt(squares / np.maximum(known.sum(axis=0) - 1, 1))

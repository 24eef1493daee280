"""How likely each prompt is to be solved, as the ledger tells it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger

Array = NDArray[np.float64]


def reward_range(ledger: Ledger, *further: float) -> tuple[float, float]:
    """Lowest and highest reward, in units of reward, as far as is known.

    While at most one value was seen the range is widened to hold 0 and 1: a verdict is one of
    these.

    Args:
        ledger: knows what was seen.
        further: mean rewards known besides; the range is widened to hold them.
    """
    low, high = float(ledger.reward_low), float(ledger.reward_high)
    if not low < high:
        low, high = min(low, 0.0), max(high, 1.0)
    for value in further:
        if math.isfinite(value):
            low, high = min(low, value), max(high, value)
    return low, high


def to_unit(rewards: Any, ledger: Ledger, *further: float) -> Array:
    """Rewards mapped to [0, 1] by the lowest and highest seen; NaN stays NaN.

    Args:
        rewards: any shape, in units of reward.
        ledger: knows the range.
        further: mean rewards known to lie in the range besides.
    """
    low, high = reward_range(ledger, *further)
    values = (np.asarray(rewards, dtype=np.float64) - low) / (high - low)
    return np.minimum(np.maximum(values, 0.0), 1.0)  # a third of the time of np.clip


def success_rates(
    ledger: Ledger,
    ids: NDArray[np.int64] | None = None,
    prior_strength: float = 2.0,
    prior_mean: float | None = None,
) -> Array:
    """Estimated success probability of each prompt.

    The discounted mean reward, mapped to [0, 1] and shrunk to what is usual in the pool:

        p_i = (w_i m_i + k c) / (w_i + k)

    w is the discounted number of rewards, m their mean, k the prior's strength and c its mean. A
    prompt without any reward gets c.

    Args:
        ledger: what is known.
        ids: shape (k,), or None for the whole pool.
        prior_strength: k, in rewards; 0 takes the mean as it is.
        prior_mean: c in [0, 1]; None takes the mean over the prompts seen, 1/2 while there is none.

    Returns:
        Shape (k,), in [0, 1].
    """
    rows: Any = slice(None) if ids is None else ids
    center = pool_mean(ledger) if prior_mean is None else prior_mean
    weight = ledger.weight[rows].astype(np.float64)
    total = weight + prior_strength
    known = weight * to_unit(ledger.mean[rows], ledger) + prior_strength * center
    return np.where(total > 0, known / np.where(total > 0, total, 1.0), center)


def pool_mean(ledger: Ledger) -> float:
    """Mean success rate of the prompts that have a reward, each counted once; 1/2 without any."""
    seen = ledger.weight > 0
    if not seen.any():
        return 0.5
    return float(to_unit(ledger.mean[seen], ledger).mean())

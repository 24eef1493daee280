"""What it costs to find out which prompt of a pool is the most learnable."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from dopr.core.errors import UserError
from dopr.offline.bounds import Array, check_rate
from dopr.offline.trust_region import bernoulli_kl


def best_arm(rates: ArrayLike, delta: float = 0.1) -> float:
    """Expected rollouts to name the prompt of highest p(1-p) with confidence 1 - delta, at least.

    T* kl(delta, 1-delta). Rates above 1/2 are folded to 1 - p: by symmetry and because the nearer
    of two alternatives is always on the rate's own side of 1/2, the most learnable prompt is the
    best arm of the folded rates. Assumes a policy that does not move, and one best prompt; infinite
    for a tie.

    Args:
        rates: success rates, shape (k,), k >= 1; one prompt costs nothing.
        delta: chance of naming a wrong one, in (0, 1).

    Source: Garivier and Kaufmann 2016 [1602.04589, I]; the folding is ours.
    """
    check_rate("delta", delta)
    if delta >= 0.5:
        return 0.0  # a guess is right often enough as far as this bound knows
    return characteristic_time(rates) * bernoulli_kl(delta, 1 - delta)


def characteristic_time(rates: ArrayLike) -> float:
    """T* of the folded rates, in rollouts per nat of confidence; see `best_arm`."""
    folded = _folded(rates)
    if len(folded) < 2:
        return 0.0
    if folded[0] <= folded[1]:
        return math.inf
    evidence, shares = _balance(folded)
    return float(shares.sum()) / evidence


def best_arm_shares(rates: ArrayLike) -> Array:
    """Shares of the rollouts that reach T*, shape (k,), the most learnable prompt first.

    Raises:
        UserError: several prompts are equally learnable, or there is only one.
    """
    folded = _folded(rates)
    if len(folded) < 2 or folded[0] <= folded[1]:
        raise UserError("shares need two prompts or more, one of them more learnable than the rest")
    _, shares = _balance(folded)
    return shares / shares.sum()


def _folded(rates: ArrayLike) -> Array:
    values = np.asarray(rates, dtype=np.float64)
    # Rounded, or 0.3 and 0.7 would be no tie.
    folded = np.round(np.minimum(values, 1 - values), 12)
    return np.asarray(np.sort(folded)[::-1], dtype=np.float64)


def _balance(folded: Array) -> tuple[float, Array]:
    """Evidence y per rollout on the best, and rollouts of each relative to that.

    For a given y each other arm a gets x_a such that its evidence is y; the best y is where
    sum_a kl(best, m_a) / kl(a, m_a) = 1, m_a the weighted mean of both.
    """
    best = float(folded[0])
    others, counts = np.unique(folded[1:], return_counts=True)
    limit = min(bernoulli_kl(best, float(other)) for other in others)

    def weights(y: float) -> list[float]:
        return [_rollouts_for(y, best, float(other)) for other in others]

    def excess(y: float) -> float:
        total = 0.0
        for other, count, x in zip(others, counts, weights(y), strict=True):
            middle = (best + x * float(other)) / (1 + x)
            ratio = bernoulli_kl(float(other), middle)
            total += math.inf if ratio <= 0 else count * bernoulli_kl(best, middle) / ratio
        return min(total, 1e12) - 1

    # With an arm at 0 the evidence on it has no limit but that of seeing a failure: 1/2 is plenty.
    top = limit * (1 - 1e-9) if math.isfinite(limit) else _largest(best)
    y = float(brentq(excess, min(top, 1.0) * 1e-12, top))
    each = np.repeat(weights(y), counts)
    return y, np.concatenate([[1.0], np.sort(each)[::-1]])


def _rollouts_for(y: float, best: float, other: float) -> float:
    """x with kl(best, m) + x kl(other, m) = y, m = (best + x other) / (1 + x)."""

    def missing(x: float) -> float:
        middle = (best + x * other) / (1 + x)
        return bernoulli_kl(best, middle) + x * bernoulli_kl(other, middle) - y

    high = 1.0
    while missing(high) < 0 and high < 1e18:
        high *= 4
    return float(brentq(missing, 0.0, high)) if missing(high) >= 0 else high


def _largest(best: float) -> float:
    """An evidence that is surely too much for arms that never succeed."""
    y = 1.0
    while _rollouts_for(y, best, 0.0) < 1e12 and y < 64:
        y *= 2
    return y

"""Medians with bootstrap intervals over seeds; a run that missed counts as infinitely dear."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_AT_ONCE = 4_000_000  # values drawn at a time, so that memory stays small


def resampled(
    values: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]],
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """The bootstrap: a statistic of samples drawn from the values with replacement.

    Args:
        values: shape (n,), n >= 1.
        statistic: takes an array and `axis`.

    Returns:
        Shape (resamples,).
    """
    n = len(values)
    chunk = max(1, _AT_ONCE // n)
    return np.concatenate(
        [
            statistic(values[rng.integers(0, n, size=(min(chunk, resamples - start), n))], axis=1)
            for start in range(0, resamples, chunk)
        ]
    )


def interval(
    values: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]] = np.median,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """95% bootstrap bounds of a statistic over seeds, shape (n,); an infinite bound is null.

    Args:
        statistic: takes an array and `axis`.
    """
    if not len(values):
        return None, None
    rng = np.random.default_rng([seed, len(values)])
    results = np.sort(resampled(values, statistic, rng, RESAMPLES))
    # Order statistics, not interpolated: infinities stay what they are.
    low, high = results[int(0.025 * RESAMPLES)], results[int(np.ceil(0.975 * RESAMPLES)) - 1]
    return finite(low), finite(high)


def mean_interval(
    values: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """95% bootstrap bounds of the mean of finite values, shape (n,), n >= 1."""
    return middle(resampled(values, np.mean, rng, resamples))


def middle(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The bounds between which the middle 95% of finite draws lie, interpolated."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def finite(value: float | None) -> float | None:
    """The number, or None where it is infinite or not one."""
    return float(value) if value is not None and np.isfinite(value) else None


def median_with_interval(values: Sequence[float | None], seed: int = 0) -> dict[str, Any]:
    """`median`, `low`, `high` of values in which None is a miss and counts as infinite."""
    numbers = np.array([np.inf if value is None else value for value in values], dtype=float)
    low, high = interval(numbers, np.median, seed)
    return {
        "median": finite(np.median(numbers)) if len(numbers) else None,
        "low": low,
        "high": high,
    }


def ratios(
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    their_total: Sequence[float],
) -> tuple[list[float | None], int]:
    """Ratio of costs seed by seed, and how many are only upper bounds.

    Where only the other one missed, all that it spent stands for its cost, so the ratio is an upper
    bound. Where ours missed the ratio is None (infinite), even if the other one missed too. Where
    both were there before they had paid anything it is 1.
    """
    result: list[float | None] = []
    bounded = 0
    for own, other, total in zip(ours, theirs, their_total, strict=True):
        cost = total if other is None else other
        if own is None or cost <= 0:
            result.append(1.0 if own == cost else None)
            continue
        bounded += other is None
        result.append(own / cost)
    return result, bounded


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Differences seed by seed: median and mean, each with its interval."""
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    mean_low, mean_high = interval(differences, np.mean)
    return median_with_interval(differences.tolist()) | {
        "mean": finite(differences.mean()) if len(differences) else None,
        "mean_low": mean_low,
        "mean_high": mean_high,
        "per_seed": differences.tolist(),
    }

"""Regression on features whose older observations fade: fixed sums, however long a run lasts."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST = 1e-4  # eigenvalues of the landmarks' likeness below this are noise


def whitening(likeness: Array) -> Array:
    """W with `likeness @ W` of unit covariance at the landmarks, shape (m, m).

    `k(x, landmarks) @ W` are then features whose products are the likeness again (Nyström), exactly
    so at the landmarks.

    Args:
        likeness: between landmarks, shape (m, m).
    """
    values, vectors = np.linalg.eigh(likeness)
    return np.asarray(vectors / np.sqrt(np.maximum(values, SMALLEST)))


def no_observations(width: int) -> Array:
    """Sums of a regression before anything is seen, shape (width, width + 2)."""
    return np.zeros((width, width + 2))


def observe(sums: Array, features: Array, values: Array, noise: Array) -> None:
    """Add observations to the sums, in place.

    Args:
        sums: shape (m, m + 2): of f f^T / noise, of f value / noise, and of f / noise.
        features: f of each, shape (n, m).
        values: what was seen, shape (n,).
        noise: their variances, shape (n,).
    """
    weighted = features.T / noise
    sums[:, :-2] += weighted @ features
    sums[:, -2] += weighted @ values
    sums[:, -1] += weighted.sum(axis=1)


def predict(
    sums: Array, features: Array, center: Array | float, variance: float
) -> tuple[Array, Array]:
    """Mean and variance of the value at features, both (..., k).

    The posterior of a Gaussian process with mean `center` and covariance `variance` f f'. To let
    observations fade, multiply the sums by a factor: their noise grows by one over it.

    Args:
        sums: see `observe`; of one regression or several, shape (..., m, m + 2).
        features: shape (k, m).
        center: the prior's mean, of each regression, shape (...).
        variance: the prior's variance where the features' squares add up to 1. What they lack of 1
            is variance that nothing seen can lower.
    """
    width = sums.shape[-2]
    center = np.asarray(center)[..., None]
    inner = variance * sums[..., :-2]
    inner.reshape(*sums.shape[:-2], -1)[..., :: width + 1] += 1.0  # the diagonal
    covariance = np.linalg.inv(inner)  # over `variance`; inner's eigenvalues are at least 1
    seen = sums[..., -2] - center * sums[..., -1]
    mean = center + variance * (features @ (covariance @ seen[..., None]))[..., 0]
    within = variance * ((features @ covariance) * features).sum(axis=-1)
    beyond = variance * np.maximum(1.0 - np.square(features).sum(axis=1), 0.0)
    return mean, within + beyond

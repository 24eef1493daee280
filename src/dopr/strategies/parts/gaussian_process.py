"""Distances between prompts, and the mean of a Gaussian process that goes on from what was seen."""

import numpy as np
from numpy.typing import NDArray

from dopr.strategies.parts.one_thread import on_one_thread

Array = NDArray[np.float64]


def squared_distances(a: Array, b: Array) -> Array:
    """Squared Euclidean distances between rows, shape (len(a), len(b))."""
    lengths = np.square(a).sum(1)
    found: Array = lengths[:, None] + (lengths if b is a else np.square(b).sum(1))
    found -= 2 * a @ b.T
    return np.maximum(found, 0.0, out=found)


def median_squared_length(distances: Array) -> float:
    """Median squared distance between different rows; 1 where there is none above 0."""
    apart = distances[np.triu_indices_from(distances, k=1)]
    median = float(np.median(apart)) if apart.size else 0.0
    return median if median > 0 else 1.0


@on_one_thread
def carried_on(
    latent: Array,
    embeddings: NDArray[np.float32],
    seen: NDArray[np.int64],
    observed: Array,
    length_scale: float,
    jitter: float,
) -> Array:
    """The mean over the pool after some prompts were seen, the mean so far being the prior's.

    m + K_T (K_TT + jitter I)^-1 (g - m_T), and exactly g at the prompts seen; the covariance is not
    carried on. Source: VIP [2602.01601; HieuNT91/VIP, V].

    Args:
        latent: mean so far, shape (size,).
        embeddings: of the pool, shape (size, width).
        seen: T, rows of the pool, shape (k,), each once.
        observed: g at these, shape (k,).
        length_scale: of the squared exponential kernel, whose variance is 1.
        jitter: on the diagonal.
    """
    known = embeddings[seen].astype(np.float64)
    scale = 2 * length_scale**2
    within = np.exp(-squared_distances(known, known) / scale)
    within[np.diag_indices_from(within)] = 1 + jitter
    across = np.exp(-squared_distances(embeddings.astype(np.float64), known) / scale)
    result = latent + across @ np.linalg.solve(within, observed - latent[seen])
    result[seen] = observed
    return result

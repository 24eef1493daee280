"""A few numbers of each prompt, made of its embedding when that is read, and which are alike."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.moves import no_prompts, per_prompt
from dopr.core.strategy import Measure, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.parts.gaussian_process import median_squared_length, squared_distances
from dopr.strategies.parts.one_thread import on_one_thread
from dopr.strategies.parts.prediction import SMALLEST_STD

Array = NDArray[np.float64]

FEATURES = 16  # numbers kept of a prompt, two bytes each
LARGEST = np.float32(np.finfo(np.float16).max)
LANDMARKS = 32  # of the first prompts read, which likeness is measured to
LAYERS = 1  # of the policy that a prompt is read by: what is alike shows in the first


@dataclass
class PromptFeatures(Strategy):
    """Base of strategies that go by which prompts are alike, as far as the policy can read them.

    The first prompts read, a batch of candidates, set the frame: their embeddings are standardised
    and turned to their principal axes, of which the first `FEATURES` are kept. Later prompts are
    seen in the same frame, so that what was learned of the features stays true. Each prompt is read
    once: the policy moves on, but which prompts are alike changes slowly.
    """

    measures = frozenset()
    may_measure = frozenset({"embedding"})

    # Shape (size, FEATURES or fewer), NaN where a prompt was not read.
    _features: NDArray[np.float16] = field(
        default_factory=lambda: np.empty((0, 0), np.float16),
        init=False,
        repr=False,
        metadata=per_prompt(np.nan),
    )
    # A prompt's features are embedding @ axes - origin; shapes (width, FEATURES), (FEATURES,).
    _axes: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32),
        init=False,
        repr=False,
        metadata=no_prompts(),
    )
    _origin: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=no_prompts()
    )
    # Features of some of the first prompts read, shape (LANDMARKS or fewer, FEATURES), and the
    # median squared distance between all of these.
    _landmarks: Array = field(
        default_factory=lambda: np.empty((0, 0)), init=False, repr=False, metadata=no_prompts()
    )
    _squared_length: float = field(default=1.0, init=False, repr=False)

    def read(
        self, prompts: PromptStream, ids: NDArray[np.int64]
    ) -> Generator[Measure, Any, Array | None]:
        """Features of prompts, shape (k, FEATURES), None without embeddings; use `yield from`.

        Args:
            prompts: gives the size of the pool.
            ids: shape (k,); those not read yet are asked for.
        """
        if "embedding" not in self.can_measure:
            return None
        if len(self._features):
            unknown = np.unique(ids[np.isnan(self._features[ids, 0])])
        else:
            unknown = np.unique(ids)
        if unknown.size:
            answer = yield Measure(tuple(unknown.tolist()), "embedding", layers=LAYERS)
            self._keep(prompts.size, unknown, np.asarray(answer, dtype=np.float32))
        return self._features[ids].astype(np.float64)

    @on_one_thread
    def _keep(self, size: int, ids: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        if not len(self._axes):
            self._frame(_finite(embeddings).astype(np.float64))
        with np.errstate(invalid="ignore"):
            seen = embeddings @ self._axes - self._origin
        if not np.isfinite(seen).all():
            seen = _finite(embeddings) @ self._axes - self._origin
        if not len(self._features):
            self._features = np.full((size, seen.shape[1]), np.nan, np.float16)
        self._features[ids] = np.minimum(np.maximum(seen, -LARGEST), LARGEST)

    def _frame(self, embeddings: Array) -> None:
        """Set the axes by the first prompts, embeddings of shape (k, width)."""
        mean, std = embeddings.mean(axis=0), np.maximum(embeddings.std(axis=0), SMALLEST_STD)
        standardised = (embeddings - mean) / std
        axes = np.linalg.svd(standardised, full_matrices=False)[2][:FEATURES].T
        # In rows: the product with wide embeddings takes a fifth less time.
        self._axes = (axes / std[:, None]).astype(np.float32, order="C")
        self._origin = mean @ (axes / std[:, None])
        seen = standardised @ axes
        # From all over the batch: it is in the order of the pool, often one kind after another.
        spaced = np.linspace(0, len(seen) - 1, min(LANDMARKS, len(seen)))
        self._landmarks = seen[spaced.astype(np.int64)]
        self._squared_length = median_squared_length(squared_distances(seen, seen))

    def likeness(self, a: Array, b: Array, narrower: float = 1.0) -> Array:
        """How alike prompts are, 1 for equal ones, shape (len(a), len(b)).

        exp(-d^2 / (2 l^2)) of their features, l^2 the median squared distance between the first
        prompts read.

        Args:
            a, b: features.
            narrower: l^2 is divided by it.
        """
        return np.exp(squared_distances(a, b) * (-0.5 * narrower / self._squared_length))


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """With 0 in the place of what is not finite."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)

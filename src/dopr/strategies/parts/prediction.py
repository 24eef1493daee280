"""Predict success rates from prompt embeddings: caches, a linear head, attention."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.moves import no_prompts, per_prompt, prompt_ids
from dopr.core.strategy import Group, Measure, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.parts.one_thread import on_one_thread
from dopr.strategies.parts.posterior import sized

# A feature that (almost) never varies says nothing; dividing by less would blow up its noise.
SMALLEST_STD = 1e-6

Array = NDArray[np.float64]


def unit_vectors(values: Array, centered: bool) -> NDArray[np.float32]:
    """Rows of length 1, 0 where there is nothing; shape as given.

    Args:
        values: shape (k, width); what is not finite counts as 0.
        centered: subtract the mean row first.
    """
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if centered:
        values = values - values.mean(axis=0)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


@dataclass
class PoolEmbeddings(Strategy):
    """Base of strategies that read the embeddings of the whole pool, once and at the first step."""

    measures = frozenset({"embedding"})

    # Of length 1, shape (size, width); NaN where a prompt has come since.
    _embeddings: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32),
        init=False,
        repr=False,
        metadata=per_prompt(np.nan),
    )

    def embed_pool(
        self, prompts: PromptStream, centered: bool = True
    ) -> Generator[Measure, Any, None]:
        """Measure the pool unless that was done; use with `yield from`.

        Args:
            prompts: gives the size of the pool.
            centered: subtract the pool's mean embedding before scaling to length 1.
        """
        if not len(self._embeddings) or np.isnan(self._embeddings).any():
            measured = yield Measure(tuple(range(prompts.size)), "embedding")
            self._embeddings = unit_vectors(np.asarray(measured, np.float64), centered)


@dataclass
class RecentRewards(Strategy):
    """Base of strategies that predict from the prompts rolled out last.

    Attributes:
        window: prompts remembered, each with its last mean reward.
    """

    window: int = field(default=512, kw_only=True)
    # Newest last. Rewards are kept as they came: what they mean in [0, 1] may change as others are
    # seen.
    _seen: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids("_rewards"),
    )
    _rewards: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    def remember(self, groups: list[Group]) -> None:
        """Note the mean rewards of finished groups, of each prompt the newest."""
        scored = {group.prompt_id: group for group in groups if group.scored.size}.values()
        new = np.array([group.prompt_id for group in scored], dtype=np.int64)
        rewards = np.array([group.mean for group in scored], dtype=np.float64)
        kept = ~np.isin(self._seen, new)
        self._seen = np.concatenate([self._seen[kept], new])[-self.window :]
        self._rewards = np.concatenate([self._rewards[kept], rewards])[-self.window :]


@dataclass
class EmbeddingStrategy(Strategy):
    """Base of strategies that read prompt embeddings; each prompt is measured once and remembered.

    The policy moves on while the cache does not: what matters here is which prompts are alike, and
    that changes slowly.
    """

    measures = frozenset({"embedding"})

    # Position of each prompt in the cache, -1 where it is not measured yet; shape (size,).
    _row: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=per_prompt(-1),
    )
    _cached: int = field(default=0, init=False, repr=False)
    # Shape (capacity, width): grows by doubling, so that a step does not copy the whole cache.
    _vectors: NDArray[np.float32] = field(
        default_factory=lambda: np.empty((0, 0), np.float32),
        init=False,
        repr=False,
        metadata=no_prompts(),
    )
    # Mean, and sum of squared deviations from it, of every feature; shape (width,).
    _mean: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=no_prompts()
    )
    _squares: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=no_prompts()
    )

    def embed(
        self, prompts: PromptStream, ids: NDArray[np.int64]
    ) -> Generator[Measure, Any, Array]:
        """Standardised embeddings of prompts, shape (k, width); use with `yield from`.

        Every feature has mean 0 and variance 1 over the prompts measured so far.

        Args:
            prompts: gives the size of the pool.
            ids: shape (k,); those not in the cache are asked for.
        """
        self._row = sized(self._row, prompts.size, -1)
        unknown = np.unique(ids[self._row[ids] < 0])
        if unknown.size:
            values = yield Measure(tuple(unknown.tolist()), "embedding")
            self._remember(unknown, np.asarray(values, dtype=np.float32))
        std = np.maximum(np.sqrt(self._squares / self._cached), SMALLEST_STD)
        return (self._vectors[self._row[ids]] - self._mean) / std

    def _remember(self, ids: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        before, after = self._cached, self._cached + len(ids)
        if not before:
            self._vectors = np.zeros((len(ids), values.shape[1]), np.float32)
            self._mean, self._squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        elif after > len(self._vectors):
            more = np.zeros_like(
                self._vectors, shape=(max(after - before, before), len(self._mean))
            )
            self._vectors = np.concatenate([self._vectors[:before], more])
        self._vectors[before:after] = values
        self._row[ids] = np.arange(before, after)
        self._cached = after
        # Chan's update: means of two samples joined without going through all vectors again.
        mean = values.mean(axis=0, dtype=np.float64)
        delta = mean - self._mean
        self._squares = (
            self._squares
            + np.square(values - mean).sum(axis=0)
            + delta * delta * (before * len(ids) / after)
        )
        self._mean = self._mean + delta * (len(ids) / after)


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear prediction: weights of shape (width,), and an intercept."""

    weights: Array
    intercept: float

    @on_one_thread
    def predict(self, features: Array) -> Array:
        """Success rates in [0, 1], shape (k,), for features of shape (k, width)."""
        return np.clip(features @ self.weights + self.intercept, 0.0, 1.0)


@on_one_thread
def fit_linear_head(features: Array, targets: Array, penalty: float) -> LinearHead:
    """Ridge regression with a free intercept, solved over the samples (width may be thousands).

    Args:
        features: standardised, shape (n, width), n >= 1.
        targets: shape (n,).
        penalty: > 0, in units of the features' mean square (1 where standardised) times width: the
            variance of a target's noise over the variance of what the features explain.
    """
    center, mean = features.mean(axis=0), float(targets.mean())
    centered = features - center
    gram = centered @ centered.T
    gram[np.diag_indices_from(gram)] += penalty * features.shape[1]
    weights = centered.T @ np.linalg.solve(gram, targets - mean)
    return LinearHead(weights, mean - float(center @ weights))


@on_one_thread
def attend(queries: Array, references: Array, values: Array, temperature: float) -> Array:
    """Attention-weighted mean of the references' values, shape (k,).

    weights = softmax(q r / (sqrt(width) temperature)) over the references.

    Args:
        queries: shape (k, width).
        references: shape (m, width), m >= 1.
        values: shape (m,).
        temperature: > 0; small ones listen to the most alike reference alone.
    """
    logits = queries @ references.T / (np.sqrt(queries.shape[1]) * temperature)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights @ values) / weights.sum(axis=1)

"""What heads are fitted to: vectors with rewards, labels and pairs, split by prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.rewards.learned.heads import Array
from dopr.rewards.learned.metrics import Groups
from dopr.runs.reward_model.data import Preferences, Scored

Ids = NDArray[np.int64]
Embed = Callable[[Sequence[Any], Sequence[str]], NDArray[Any]]


@dataclass(frozen=True)
class Material:
    """Vectors and what is known of them.

    Attributes:
        vectors: shape (rows, width).
        rewards: shape (rows,), the true ones.
        labels: shape (rows,), 1 for a good response, else 0.
        groups: shape (rows,), each row's prompt.
        pairs: shape (pairs, 2), rows of the better and the worse response to one prompt.
    """

    vectors: NDArray[Any]
    rewards: Array
    labels: Array
    groups: Groups
    pairs: Ids

    def of_prompts(self, prompts: Ids) -> "Material":
        """The part that belongs to some prompts."""
        rows = np.flatnonzero(np.isin(self.groups, prompts))
        place = np.full(len(self.groups), -1)
        place[rows] = np.arange(len(rows))
        pairs = place[self.pairs]
        return Material(
            self.vectors[rows],
            self.rewards[rows],
            self.labels[rows],
            self.groups[rows],
            pairs[(pairs >= 0).all(axis=1)],
        )

    def by_prompt(self) -> tuple[Array, Array, NDArray[Any]]:
        """Share of good responses and number of responses of each prompt, and its first vector."""
        _, first, number, count = np.unique(
            self.groups, return_index=True, return_inverse=True, return_counts=True
        )
        return np.bincount(number, self.labels) / count, count.astype(float), self.vectors[first]


def make_material(
    data: Scored | Preferences, embed: Embed, pairs_per_prompt: int, seed: int
) -> Material:
    """Embed the data and find its pairs.

    Args:
        data: as read.
        embed: makes vectors of prompts and responses.
        pairs_per_prompt: at most so many pairs of each prompt, where pairs are made from rewards.
        seed: of these pairs.
    """
    if isinstance(data, Preferences):
        count = len(data.chosen)
        vectors = embed([*data.prompts, *data.prompts], [*data.chosen, *data.rejected])
        labels = np.repeat([1.0, 0.0], count)
        rows = np.arange(count)
        pairs = np.stack([rows, rows + count], axis=1)
        return Material(vectors, labels, labels, np.tile(data.groups, 2), pairs)
    vectors = embed(data.prompts, data.responses)
    pairs = sample_pairs(data.rewards, data.groups, pairs_per_prompt, seed)
    return Material(vectors, data.rewards, data.labels, data.groups, pairs)


def sample_pairs(rewards: Array, groups: Groups, most: int, seed: int) -> Ids:
    """Pairs of responses to one prompt with different rewards, the better one first.

    Args:
        rewards, groups: shape (rows,).
        most: pairs of a prompt; drawn without replacement where there are more.
        seed: of the draws.

    Returns:
        Shape (pairs, 2), row numbers.

    Source: random pairs inside a prompt, at most ten of each, as in the paper's code
    (holarissun/embedding-based-llm-alignment, V); that equal rewards make no pair is ours.
    """
    rng = np.random.default_rng(seed)
    found = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        better, worse = np.nonzero(rewards[rows][:, None] > rewards[rows][None, :])
        if len(better) > most:
            kept = np.sort(rng.choice(len(better), most, replace=False))
            better, worse = better[kept], worse[kept]
        found.append(np.stack([rows[better], rows[worse]], axis=1))
    return np.concatenate(found)


def split_prompts(groups: Groups, held_out: float, seed: int) -> tuple[Ids, Ids]:
    """Prompts to train on, and prompts held out; at least one of either.

    Args:
        groups: shape (rows,), each row's prompt.
        held_out: share of the prompts.
        seed: of the draw.
    """
    prompts = np.random.default_rng(seed).permutation(np.unique(groups))
    count = min(max(1, round(held_out * len(prompts))), len(prompts) - 1)
    return np.sort(prompts[count:]), np.sort(prompts[:count])


def flip_pairs(pairs: Ids, share: float, seed: int) -> Ids:
    """The pairs with a share of them reversed; a larger share reverses the same ones and more."""
    wrong = np.random.default_rng(seed).random(len(pairs)) < share
    return np.where(wrong[:, None], pairs[:, ::-1], pairs)


def flip_labels(labels: Array, share: float, seed: int) -> Array:
    """The labels with a share of them wrong; a larger share spoils the same ones and more."""
    wrong = np.random.default_rng(seed).random(len(labels)) < share
    return np.where(wrong, 1 - labels, labels)

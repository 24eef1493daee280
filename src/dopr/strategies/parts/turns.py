"""Seeded ways of drawing prompts from a set: in turn, or by weight."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream


def in_turn(
    ids: NDArray[np.int64], count: int, ledger: Ledger, prompts: PromptStream
) -> NDArray[np.int64]:
    """Up to `count` different prompts of a set, those least often visited first, ties at random.

    Prompts whose rollouts are on their way come after all others.

    Where all were visited equally often this is a random order without replacement, epoch after
    epoch, over the set alone.

    Args:
        ids: the set, shape (k,), each prompt once.
        prompts: whose generator breaks ties.

    Returns:
        Shape (min(count, k),).
    """
    withheld = np.isin(ids, list(prompts.withheld))
    order = np.lexsort((prompts.rng.random(len(ids)), ledger.visits[ids], withheld))
    return ids[order[:count]]


def draw_by_weight(
    log_weights: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions drawn one after another without replacement, in proportion to exp(log_weights).

    The largest of the logarithms plus Gumbel noise are such a draw, and no weight can overflow.

    Args:
        log_weights: shape (k,).

    Returns:
        Shape (min(count, k),).
    """
    keys = log_weights + rng.gumbel(size=len(log_weights))
    if count >= len(keys):
        return np.argsort(-keys)
    best = np.argpartition(-keys, count)[:count]
    return best[np.argsort(-keys[best])]


def softmax(scores: Any, temperature: float) -> NDArray[np.float64]:
    """exp(scores / temperature), normalised to sum 1; shape as given."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()

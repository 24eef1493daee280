"""Serve the whole pool: what a prompt is worth falls as its like have had their share."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.moves import no_prompts
from dopr.core.strategy import require
from dopr.strategies.parts.features import PromptFeatures

Array = NDArray[np.float64]

LATELY = 64  # choices behind a share
NARROWER = 4.0  # likeness of a kind, against that of success rates; see `likeness`


@dataclass(frozen=True, slots=True)
class Picked:
    """What was chosen of the candidates of a step.

    Attributes:
        positions: the first chosen first, shape (n,).
        counted: what each counted when it was chosen, shape (n,).
        spread: how varied the last choices are: the mean likeness between candidates over that
            between the last prompts chosen. 1 is as varied as the pool, less is narrower; None
            without features.
    """

    positions: NDArray[np.int64]
    counted: Array
    spread: float | None


@dataclass
class EvenShares(PromptFeatures):
    """Base of strategies whose choice is not to go through a pool's kinds one after another.

    Of a candidate i let d_i be the mean likeness to it of the last `LATELY` prompts chosen, and m_i
    that of the candidates. Its worth v then counts as

        v ((m_i + 1/64) / (d_i + 1/64))^balance

    so that a kind of prompts is chosen in proportion to its part of the pool times the worth of its
    best to the power of 1 / balance. Prompts are chosen one by one and each counts for the next: a
    step holds different ones. Without features the best are chosen.

    Args:
        balance: exponent of the share; 0 chooses the best.

    Source: ours.
    """

    balance: float = 0.25
    # Features of the last prompts chosen, newest last, shape (n, FEATURES).
    _lately: Array = field(
        default_factory=lambda: np.empty((0, 0)), init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        require(self.balance >= 0, f"balance is {self.balance}; it must not be negative")

    def choose_evenly(
        self,
        features: Array | None,
        worth: Array,
        count: int,
        rng: np.random.Generator,
    ) -> Picked:
        """Choose `count` candidates, all where there are fewer.

        Args:
            features: of the candidates, shape (k, FEATURES), or None.
            worth: v, not negative, shape (k,).
            count: prompts wanted.
            rng: ties fall by it.
        """
        fixed = np.log(np.maximum(worth, 1e-9)) + 1e-9 * rng.random(len(worth))
        alike, had = np.zeros((len(worth), len(worth))), np.zeros(len(worth))
        if features is not None:
            known = self._lately if len(self._lately) else features[:0]
            found = self.likeness(features, np.concatenate([features, known]), NARROWER)
            alike, had = found[:, : len(features)], found[:, len(features) :].sum(axis=1)
        due = np.log(alike.mean(axis=1) + 1 / LATELY)
        chosen: list[int] = []
        counted = np.empty(min(count, len(worth)))
        for number in range(len(counted)):
            value = fixed + self.balance * (due - np.log((had + 1) / LATELY))
            value[chosen] = -np.inf
            best = int(value.argmax())
            chosen.append(best)
            counted[number] = np.exp(value[best])
            had = had + alike[:, best]
        positions = np.array(chosen, dtype=np.int64)
        if features is None:
            return Picked(positions, counted, None)
        self._lately = np.concatenate([known, features[positions]])[-LATELY:]
        between = self.likeness(self._lately, self._lately, NARROWER)
        return Picked(positions, counted, float(alike.mean() / between.mean()))

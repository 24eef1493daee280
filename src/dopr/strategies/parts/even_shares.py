"""Serve the whole pool: what a prompt is worth falls as its like have had their share."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.moves import prompt_ids
from dopr.core.strategy import require
from dopr.strategies.parts.features import PromptFeatures

Array = NDArray[np.float64]

LATELY = 64  # choices behind a share
NARROWER = 4.0  # likeness of a kind, against that of success rates; see `likeness`


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
    # The last prompts chosen, newest last, and their features, shape (n, FEATURES).
    _lately: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids("_lately_features"),
    )
    _lately_features: Array = field(
        default_factory=lambda: np.empty((0, 0)), init=False, repr=False
    )

    def __post_init__(self) -> None:
        require(self.balance >= 0, f"balance is {self.balance}; it must not be negative")

    def choose_evenly(
        self,
        ids: NDArray[np.int64],
        features: Array | None,
        worth: Array,
        count: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], Array]:
        """Positions of `count` candidates (all where there are fewer), the first chosen first, and
        what each counted when it was chosen.

        Args:
            ids: of the candidates, shape (k,).
            features: shape (k, FEATURES), or None.
            worth: v, not negative, shape (k,).
            count: prompts wanted.
            rng: ties fall by it.
        """
        fixed = np.log(np.maximum(worth, 1e-9)) + 1e-9 * rng.random(len(ids))
        alike = np.zeros((len(ids), len(ids)))
        had = np.zeros(len(ids))
        if features is not None and self.balance:
            alike = self.likeness(features, features, NARROWER)
            if len(self._lately):
                had = self.likeness(features, self._lately_features, NARROWER).sum(axis=1)
        due = np.log(alike.mean(axis=1) + 1 / LATELY)
        chosen: list[int] = []
        counted = np.empty(min(count, len(ids)))
        for number in range(len(counted)):
            value = fixed + self.balance * (due - np.log((had + 1) / LATELY))
            value[chosen] = -np.inf
            best = int(value.argmax())
            chosen.append(best)
            counted[number] = np.exp(value[best])
            had = had + alike[:, best]
        positions = np.array(chosen, dtype=np.int64)
        self._note(ids[positions], None if features is None else features[positions])
        return positions, counted

    def _note(self, ids: NDArray[np.int64], features: Array | None) -> None:
        self._lately = np.concatenate([self._lately, ids])[-LATELY:]
        if features is None:
            features = np.zeros((len(ids), self._lately_features.shape[1]))
        before = self._lately_features
        if before.shape[1] != features.shape[1]:
            before = np.zeros((len(before), features.shape[1]))
        self._lately_features = np.concatenate([before, features])[-LATELY:]

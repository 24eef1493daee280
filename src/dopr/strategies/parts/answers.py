"""What the policy says of reference answers before anything is rolled out, as forecasts."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import no_prompts, per_prompt
from dopr.core.strategy import Measure, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.fading import no_observations, whitening
from dopr.strategies.parts.gaussian_process import squared_distances

Array = NDArray[np.float64]

# What the likelihood itself is worth as a forecast, in rollouts: of 1, 2, 4, ... 32 this and 4
# foretold groups of four of SmolLM2-135M best (docs/results/answer-likelihood).
ANSWER_WORTH = 8.0
_SCALE = 0.15  # length of likeness, of the two numbers in [0, 1] that an answer is known by
_RANKS, _HIGH = 16, (0.2, 0.4, 0.6, 0.8, 1.0)  # landmarks: among the first answers, and above


@dataclass
class ReferenceAnswers(Strategy):
    """Base of strategies that read how likely the policy finds the reference answers of prompts.

    A prompt's answer is read when it is a candidate, and again after `reread` steps: one forward
    pass over prompt and answer, which counts as tokens read. For answers given at once its
    likelihood is nearly the success rate. Where the policy reasons first it is no more than a sign
    of how hard a prompt is, so the regression goes by two numbers: the likelihood, and which share
    of the first answers read is less likely.

    Args:
        answers: read them. Needs a reference in the column `answer` that is a text or a number.
        reread: steps after which what was read of a prompt is old.

    Source: ours.
    """

    answers: bool = False
    reread: int = 1

    # Log-likelihoods and the steps in which they were read, shape (size,); NaN and -1 before.
    _said: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32),
        init=False,
        repr=False,
        metadata=per_prompt(np.nan),
    )
    _said_at: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=per_prompt(-1),
    )
    # Log-likelihoods of the first answers read, in order.
    _first_said: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=no_prompts()
    )
    # The regression on answers, and what makes likeness to its landmarks its input.
    _answer_sums: Array = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=no_prompts()
    )
    _answer_landmarks: Array = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=no_prompts()
    )
    _answer_whitening: Array = field(
        default_factory=lambda: np.empty((0, 0)), init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        require(self.reread >= 1, f"reread is {self.reread}; it must be at least 1")
        require(self.answers or self.reread == 1, "reread is of reference answers; set answers too")
        if self.answers:
            self.measures = self.measures | {"answer_likelihood"}

    def read_answers(
        self, prompts: PromptStream, ids: NDArray[np.int64], ledger: Ledger
    ) -> Generator[Measure, Any, Array | None]:
        """Log-likelihoods of reference answers, shape (k,), None without `answers`; use `yield
        from`.

        Args:
            prompts: gives the size of the pool.
            ids: shape (k,); those not read yet, or too long ago, are asked for.
            ledger: tells the step.
        """
        if not self.answers:
            return None
        if not len(self._said):
            self._said = np.full(prompts.size, np.nan, np.float32)
            self._said_at = np.full(prompts.size, -1, np.int64)
        at = self._said_at[ids]
        old = np.unique(ids[(at < 0) | (ledger.step - at >= self.reread)])
        if old.size:
            answer = yield Measure(tuple(old.tolist()), "answer_likelihood")
            self._said[old] = np.asarray(answer)
            self._said_at[old] = ledger.step
        said = self._said[ids].astype(np.float64)
        if not len(self._first_said) and not np.isnan(said).all():
            self._frame_answers(said[~np.isnan(said)])
        return said

    def _frame_answers(self, said: Array) -> None:
        """Set the landmarks by the first answers read."""
        self._first_said = np.sort(said)
        spaced = np.linspace(0, len(said) - 1, min(_RANKS, len(said)))
        high = np.stack([np.ones(len(_HIGH)), np.array(_HIGH)], axis=1)
        known = self._answer_places(self._first_said[spaced.astype(np.int64)])
        self._answer_landmarks = np.concatenate([known, high])
        self._answer_whitening = whitening(self._answer_likeness(self._answer_landmarks))
        self._answer_sums = no_observations(len(self._answer_landmarks))

    def _answer_places(self, said: Array) -> Array:
        """The two numbers of each answer, shape (k, 2)."""
        rank = np.searchsorted(self._first_said, said, side="right") / len(self._first_said)
        return np.stack([rank, np.exp(said)], axis=1)

    def _answer_likeness(self, places: Array) -> Array:
        distances = squared_distances(places, self._answer_landmarks)
        return np.asarray(np.exp(distances / (-2 * _SCALE**2)))

    def answer_inputs(self, said: Array) -> Array:
        """What the regression goes by, shape (k, landmarks); 0 where no answer was read."""
        if not len(self._first_said):
            return np.zeros((len(said), 0))
        known = np.nan_to_num(said, nan=0.0)
        inputs = self._answer_likeness(self._answer_places(known)) @ self._answer_whitening
        return np.where(np.isnan(said)[:, None], 0.0, inputs)

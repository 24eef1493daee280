"""How many tokens a rollout of a prompt will take, from its own and like prompts' lengths."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import no_prompts
from dopr.core.strategy import Group
from dopr.strategies.parts.fading import no_observations, observe, predict
from dopr.strategies.parts.one_thread import on_one_thread

Array = NDArray[np.float64]

SPREAD = 0.5  # standard deviation of the logarithm of lengths over a pool
NOISE = 0.3  # and of a single rollout's, about its prompt's


@dataclass
class ExpectedTokens:
    """Base of strategies that weigh what a prompt costs. For use beside `SharedRates`.

    Lengths are compared by their logarithms: a regression on the same inputs as that of the success
    rates, to which a prompt's own mean length is added as so many rollouts as it had. Nothing
    fades: which prompts have long answers changes slowly.

    Source: ours.
    """

    # Sums of the regression, shape (landmarks, landmarks + 2), and of logarithms of lengths seen
    # (how many groups, their sum); without inputs the second alone is gone by.
    _length_sums: Array = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=no_prompts()
    )
    _lengths: Array = field(
        default_factory=lambda: np.zeros(2), init=False, repr=False, metadata=no_prompts()
    )

    @on_one_thread
    def expected_tokens(
        self, ids: NDArray[np.int64], inputs: Array | None, ledger: Ledger
    ) -> Array:
        """Tokens of a rollout of each prompt, shape (k,); all alike before anything is seen.

        Args:
            ids: shape (k,).
            inputs: of the regression, shape (k, landmarks), or None.
            ledger: knows the tokens spent on each prompt.
        """
        groups, total = self._lengths.tolist()
        if not groups:
            return np.ones(len(ids))
        usual = total / groups
        mean, variance = np.full(len(ids), usual), np.full(len(ids), SPREAD**2)
        if inputs is not None and len(self._length_sums):
            mean, variance = predict(self._length_sums, inputs, usual, SPREAD**2)
        rollouts = ledger.rollouts[ids].astype(np.float64)
        own = np.log(np.maximum(ledger.tokens[ids], 1) / np.maximum(rollouts, 1))
        believed = variance * rollouts / (variance * rollouts + NOISE**2)
        return np.exp(mean + believed * (own - mean))

    def note_lengths(
        self, groups: list[Group], ids: NDArray[np.int64], inputs: Array | None
    ) -> None:
        """Take in the lengths of finished groups.

        Args:
            groups: of `ids` alone.
            ids: shape (k,).
            inputs: of these prompts, shape (k, landmarks), or None.
        """
        place = {int(prompt): position for position, prompt in enumerate(ids)}
        for group in groups:
            if not group.num_rollouts or group.prompt_id not in place:
                continue
            length = math.log(max(float(group.tokens.mean()), 1.0))
            self._lengths += (1.0, length)
            if inputs is None:
                continue
            if not len(self._length_sums):
                self._length_sums = no_observations(inputs.shape[1])
            noise = np.array([NOISE**2 / group.num_rollouts])
            row = inputs[[place[group.prompt_id]]]
            observe(self._length_sums, row, np.array([length]), noise)

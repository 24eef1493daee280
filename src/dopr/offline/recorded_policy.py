"""A recorded history in the place of a policy: it answers requests, no model is run."""

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.strategy import Group, Measure, Request
from dopr.offline.histories import History

CAN_MEASURE = frozenset({"success_rate"})
_SHUFFLES = 1024  # made at once


class RecordedPolicy:
    """Answers requests from a history; its time moves with the rollouts spent.

    Within a step a prompt's first rollouts are those recorded, in random order and without
    replacement; a whole group is thus the recorded outcome. Any further ones are coin flips with
    the recorded rate, smoothed by one imaginary rollout at the prompt's mean rate over its record.

    Args:
        history: the record.
        budget: rollouts over which the recorded epochs are spread.
        seed: of shuffles and coin flips.
        recorded_once: hand out each recorded rollout once an epoch, not anew in every step; the
            further ones of the epoch are coin flips.

    Attributes:
        epoch: the recorded epoch that stands for the present.
        spread: p(1 - p) of every prompt at that epoch.
        best: mean of the k highest of these at position k - 1.
    """

    def __init__(
        self, history: History, budget: int, seed: int, recorded_once: bool = False
    ) -> None:
        self._history, self._budget, self._once = history, budget, recorded_once
        self._rng = np.random.default_rng([seed, 2])
        size = history.group_size
        self._counts = history.counts
        solved = (self._counts * history.recorded).sum(axis=1)
        overall = (solved + 0.5) / (history.lengths * size + 1)
        self._smoothed = (self._counts + overall[:, None]) / (size + 1)
        self._ones: dict[int, NDArray[np.int64]] = {}
        self._shuffles, self._next = np.empty((0, size), dtype=np.int64), 0
        # Of each prompt that was asked for: the order of its recorded rollouts, how many are used.
        self._begun: dict[int, tuple[NDArray[np.int64], int]] = {}
        self._step, self.epoch = 0, -1
        self.begin_step(0, 0)

    def begin_step(self, step: int, spent: int) -> None:
        """Move to the epoch of `spent` rollouts; within a step a policy does not change."""
        self._step = step
        epochs = self._history.epochs
        epoch = min(spent * epochs // self._budget, epochs - 1)
        if not self._once or epoch != self.epoch:
            self._begun.clear()
        if epoch != self.epoch:
            self.epoch = epoch
            self._now: list[int] = self._counts[:, epoch].tolist()
            rates = self._history.rates[:, epoch]
            spread = rates * (1 - rates)
            self.spread: list[float] = spread.tolist()
            means = np.cumsum(np.sort(spread)[::-1]) / np.arange(1, len(spread) + 1)
            self.best: list[float] = means.tolist()

    def roll_out(self, requests: list[Request]) -> list[Group]:
        """Finished groups: rewards 0 or 1, one token a rollout."""
        groups = []
        for request in requests:
            i, n = request.prompt_id, request.num_rollouts
            groups.append(Group(i, self._outcomes(i, n), self._tokens(n), self._step))
        return groups

    def measure(self, asked: Measure) -> tuple[NDArray[np.float64], int]:
        """The success rates recorded for this time, shape (k,); they cost no token.

        Raises:
            UserError: the record does not hold that quantity.
        """
        if asked.quantity not in CAN_MEASURE:
            raise UserError(f"a history holds no {asked.quantity}; only success rates")
        return self._history.rates[np.asarray(asked.prompt_ids, dtype=np.int64), self.epoch], 0

    def _outcomes(self, i: int, n: int) -> NDArray[np.float64]:
        order, used = self._begun.get(i) or (self._shuffle(), 0)
        recorded = order[used : used + n] < self._now[i]
        self._begun[i] = order, used + n
        further = n - len(recorded)
        if not further:
            return recorded.astype(np.float64)
        flips = self._rng.random(further) < self._smoothed[i, self.epoch]
        return np.concatenate([recorded, flips]).astype(np.float64)

    def _shuffle(self) -> NDArray[np.int64]:
        """A random order of a group's rollouts, of which the lowest numbers count as solved."""
        if self._next == len(self._shuffles):
            size = self._history.group_size
            plain = np.broadcast_to(np.arange(size), (_SHUFFLES, size))
            self._shuffles, self._next = self._rng.permuted(plain, axis=1), 0
        self._next += 1
        return self._shuffles[self._next - 1]

    def _tokens(self, n: int) -> NDArray[np.int64]:
        if n not in self._ones:
            self._ones[n] = np.ones(n, dtype=np.int64)
            self._ones[n].setflags(write=False)
        return self._ones[n]

"""The ledger as it was when a step in flight was begun."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger

Change = tuple[NDArray[np.int64], dict[str, Any]]  # rows, and what they held before


class LedgerPast:
    """What the ledger's rows held before they were changed, as far back as a step in flight began.

    Args:
        ledger: whose changes are followed; a position is a count of them.
        changes: before now, in their order.
    """

    def __init__(self, ledger: Ledger, changes: Iterable[Change] = ()) -> None:
        self._ledger = ledger
        self._changes: deque[Change] = deque(changes)
        self._first = 0
        ledger.before_change = self._remember

    @property
    def now(self) -> int:
        """The present position."""
        return self._first + len(self._changes)

    def _remember(self, ids: NDArray[np.int64]) -> None:
        ids = np.unique(ids)
        self._changes.append((ids, self._ledger.rows(ids)))

    def forget_before(self, position: int) -> None:
        """Drop what is older than any step in flight."""
        while self._changes and self._first < position:
            self._changes.popleft()
            self._first += 1

    def since(self, position: int) -> Change:
        """The rows that have changed since, with what they held then."""
        changes = list(self._changes)[position - self._first :]
        if not changes:
            none = np.empty(0, dtype=np.int64)
            return none, self._ledger.rows(none)
        ids = np.concatenate([ids for ids, _ in changes])
        ids, first = np.unique(ids, return_index=True)
        rows: dict[str, Any] = {"scalars": changes[0][1]["scalars"]}
        for column in changes[0][1].keys() - {"scalars"}:
            rows[column] = np.concatenate([held[column] for _, held in changes])[first]
        return ids, rows

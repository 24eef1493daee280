"""A streaming dataset as a window of rows to choose among.

Choosing needs to look prompts up and to come back to them, which a stream cannot do. So a window of
its next rows is held in memory. When all of them have been offered to the strategy once, the next
rows take their place, and what was known of the old ones is forgotten. A stream that fits into the
window is never forgotten: it is a dataset like any other.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

from datasets import Dataset, IterableDataset

from dopr.core.errors import UserError

logger = logging.getLogger(__name__)


class Window:
    """The rows of a stream, `size` at a time, from its beginning again after its end.

    Args:
        stream: read in its own order, by every process alike.
        size: most rows held; at least 1.

    Attributes:
        rows: those held now.
        number: how often the rows were replaced.
        whole: the window holds all there is.

    Raises:
        UserError: the stream has no row.
    """

    def __init__(self, stream: IterableDataset, size: int) -> None:
        self._stream, self._size = stream, size
        self._rows: Iterator[dict[str, Any]] = iter(stream)
        self._read = 0  # rows of the stream before those held, counted over all its rounds
        self.number = -1
        self.rows = self.refill()
        self.whole = not self._has_more()
        if not self.whole:
            logger.warning(
                "train_dataset is a stream: prompts are chosen among %d of its rows at a time "
                "(stream_window)",
                size,
            )

    def _has_more(self) -> bool:
        """Whether the stream has a row behind those held; it stays there."""
        further = list(itertools.islice(self._rows, 1))
        self._rows = itertools.chain(further, self._rows)
        return bool(further)

    def refill(self) -> Dataset:
        """Put the next rows into the place of those held."""
        if self.number >= 0:
            self._read += len(self.rows)
        held = list(itertools.islice(self._rows, self._size))
        if not held and self.number >= 0:
            self._rows = iter(self._stream)
            held = list(itertools.islice(self._rows, self._size))
        if not held:
            raise UserError("train_dataset is empty; give at least one prompt")
        self.number += 1
        self.rows = Dataset.from_list(held, features=self._stream.features)
        return self.rows

    def state_dict(self) -> dict[str, int]:
        """Where the window stands in the stream."""
        return {"number": self.number, "read": self._read, "held": len(self.rows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Hold what the saved window held.

        Raises:
            UserError: the stream no longer has those rows.
        """
        if state["number"] == self.number:
            return
        while self.number < state["number"]:
            self.refill()
        if (self._read, len(self.rows)) != (state["read"], state["held"]):
            raise UserError(
                "the checkpoint was made on a stream of another length or with another "
                "stream_window; resume with the same"
            )

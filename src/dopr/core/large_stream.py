"""A stream for pools of millions: no order is held in memory, and no epoch begins with a pause."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.moves import Moves
from dopr.core.stream import PromptStream

_BLOCK = 1 << 15
_ROUNDS = 4


class LargeStream(PromptStream):
    """Every prompt once an epoch in an order that is computed as it is drawn.

    The order is that of a Feistel network over the row numbers, with new keys each epoch: a
    permutation, of which any part can be had without the rest. `PromptStream` shuffles the whole
    pool at the start of an epoch, which takes 8 bytes a prompt and, for 10^7 prompts, about a
    second.

    Args:
        size: number of prompts in the pool.
        seed: the same seed gives the same order.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, seed)
        self.categories = np.broadcast_to(np.int64(0), (size,))
        bits = max(2, (size - 1).bit_length())
        self._half = np.uint64((bits + 1) // 2)
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._domain = 1 << (2 * int(self._half))
        self._next = self._domain  # of the network's inputs, which not all stand for a prompt
        self._keys = np.zeros(_ROUNDS, dtype=np.uint64)

    def _draw_next(self, count: int) -> NDArray[np.int64]:
        epoch = self.epoch
        drawn = super()._draw_next(count)
        # A draw over the end of an epoch may reach further into the next than its first block.
        while self.epoch > epoch and count <= self.size:
            first = np.unique(drawn, return_index=True)[1]
            if len(first) == count:
                break
            again = np.ones(count, dtype=bool)
            again[first] = False
            self._put_off += drawn[again].tolist()
            drawn = np.concatenate([drawn[~again], super()._draw_next(int(again.sum()))])
        return drawn

    def _start_epoch(self, avoid: NDArray[np.int64] | None) -> None:
        """Go on with the next block of the order, in a new epoch where this one is used up."""
        ids = np.empty(0, dtype=np.int64)
        while not len(ids):
            if self._next >= self._domain:
                self.epoch += 1
                self._next = 0
                self._keys = self._order.integers(1 << 62, size=_ROUNDS).astype(np.uint64)
            block = np.arange(self._next, min(self._next + _BLOCK, self._domain), dtype=np.uint64)
            self._next += len(block)
            ids = self._permuted(block)
        if avoid is not None and len(avoid) < self.size:
            drawn = np.isin(ids, avoid)  # where a draw spans two epochs
            ids = np.concatenate([ids[~drawn], ids[drawn]])
        self._ahead, self._position = ids, 0

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The prompts at these places of the order; fewer where some places stand for none."""
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & self._mask)
        ids = ((left << self._half) | right).astype(np.int64)
        return ids[ids < self.size]

    @property
    def offered_all(self) -> bool:
        """Whether every prompt of the pool was drawn at least once."""
        used_up = self._next >= self._domain and self._position >= len(self._ahead)
        return self.epoch > 0 or (self.epoch == 0 and used_up)

    def state_dict(self) -> dict[str, Any]:
        """What is left of the block, where the next begins, and the state of both generators."""
        order = {"next": self._next, "keys": self._keys.copy()}
        return super().state_dict() | {"large": order}

    def load_state_dict(self, state: dict[str, Any], moves: Moves | None = None) -> None:
        """Continue where the saved stream stood.

        With moves a new epoch begins: the order of the old one was of other row numbers.
        """
        super().load_state_dict(state, moves)
        self._next = int(state["large"]["next"])
        self._keys = np.asarray(state["large"]["keys"], dtype=np.uint64)
        if moves is not None:
            self._ahead, self._next = np.empty(0, dtype=np.int64), self._domain

"""A cache of keys and values with room for more tokens, so that none are copied to add one."""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer with room for more tokens.

    Args:
        limit: the most tokens that will come.
    """

    keys: Any  # tensors from the first `update` on
    values: Any

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.length = limit, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens, each (rows, heads, tokens, width); returns all so far."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self.is_initialized = True
        start = self._make_room(key_states.shape[2])
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one token, each (rows, heads, width), after the first ones came by `update`."""
        start = self._make_room(1)
        self.keys[:, :, start] = key
        self.values[:, :, start] = value
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _make_room(self, tokens: int) -> int:
        """Count `tokens` more; returns how many there were."""
        start, self.length = self.length, self.length + tokens
        if self.length > self.keys.shape[2]:
            room = min(max(self.limit, self.length), 2 * self.length + 64)
            self.keys, self.values = (self._moved(x, start, room) for x in (self.keys, self.values))
        return start

    def _moved(self, states: torch.Tensor, used: int, room: int) -> torch.Tensor:
        rows, heads, _, width = states.shape
        if states.device.type == "cpu":
            # A head's tokens lie behind each other: a CPU fetches ahead what it reads in order.
            larger = states.new_empty(rows, heads, room, width)
        else:
            # Tokens of a row lie apart by heads x width, as the projections write them.
            larger = states.new_empty(rows, room, heads, width).transpose(1, 2)
        larger[:, :, :used] = states[:, :, :used]
        return larger

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length

    def take_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may come several times."""
        used = self.length
        self.keys, self.values = (
            self._moved(x[:, :, :used][rows], used, x.shape[2]) for x in (self.keys, self.values)
        )

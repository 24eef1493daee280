"""The order in which prompts are drawn: without replacement, epoch after epoch, never dry."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.moves import Moves


class PromptStream:
    """Draws prompt ids from a seeded permutation and starts a new one when it is used up.

    Args:
        size: number of prompts in the pool.
        seed: the same seed gives the same order.
        shuffle: draw at random; else in the order of the pool, epoch after epoch.

    Attributes:
        rng: generator for tie breaks and draws of the strategies; saved with the stream.
        categories: shape (size,), a number for the kind of each prompt (its source or subject); all
            0 where nothing is known.
        withheld: prompts that are not offered now, such as those whose rollouts are on their way;
            their turn comes when they are free again. Where not even half of a draw is free they
            are offered all the same: a stream never runs dry.

    Raises:
        UserError: the pool is empty.
    """

    def __init__(self, size: int, seed: int = 0, shuffle: bool = True) -> None:
        if size < 1:
            raise UserError("the pool of prompts is empty; give a dataset with at least one row")
        self.size = size
        self.shuffle = shuffle
        self.categories = np.zeros(size, dtype=np.int64)
        self.epoch = -1
        self._order = np.random.default_rng([seed, 0])
        self.rng = np.random.default_rng([seed, 1])
        self._ahead = np.empty(0, dtype=np.int64)
        self._position = 0
        self.withheld: dict[int, int] = {}
        self._put_off: list[int] = []  # offered to nobody yet, since they were withheld

    def draw(self, count: int) -> NDArray[np.int64]:
        """The next `count` prompt ids; distinct while `count` is at most the pool's size.

        Fewer, but at least half of them, where no others are free of those withheld.
        """
        if self.withheld or self._put_off:
            return self._draw_free(count)
        return self._draw_next(count)

    def _draw_free(self, count: int) -> NDArray[np.int64]:
        """The next prompts that are not withheld, first those whose turn was before."""
        if not self._put_off and 0 < count <= len(self._ahead) - self._position:
            drawn = self._draw_next(count)
            if self.withheld.keys().isdisjoint(drawn.tolist()):
                return drawn
            turn = deque(drawn.tolist())
        else:
            turn = deque(self._put_off)
        self._put_off = []
        chosen: list[int] = []
        met: set[int] = set()
        left = 2 * self.size  # draws that start in the middle of an epoch still see every prompt
        while turn or (len(chosen) < count and left > 0 and len(met) < self.size):
            if not turn:
                turn.extend(self._draw_next(min(count - len(chosen), left)).tolist())
                left -= len(turn)
            i = turn.popleft()
            if i not in met:
                free = i not in self.withheld and len(chosen) < count
                (chosen if free else self._put_off).append(i)
            met.add(i)
        lacking = count - len(chosen)
        # All others are withheld: those, and where the pool is small it again.
        if lacking > len(chosen):
            chosen += self._put_off[:lacking]
            del self._put_off[:lacking]
            chosen += self._draw_next(count - len(chosen)).tolist()
        return np.array(chosen, dtype=np.int64)

    def put_back(self, ids: list[int]) -> None:
        """Offer prompts again, before all others: what was asked of them never came."""
        self._put_off = list(dict.fromkeys([*ids, *self._put_off]))

    def _draw_next(self, count: int) -> NDArray[np.int64]:
        if 0 < count <= len(self._ahead) - self._position:
            self._position += count
            return self._ahead[self._position - count : self._position]
        taken: list[NDArray[np.int64]] = []
        missing = count
        while missing > 0:
            if self._position == len(self._ahead):
                self._start_epoch(avoid=np.concatenate(taken) if taken else None)
            batch = self._ahead[self._position : self._position + missing]
            self._position += len(batch)
            missing -= len(batch)
            taken.append(batch)
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)

    def _start_epoch(self, avoid: NDArray[np.int64] | None) -> None:
        self.epoch += 1
        order = self._order.permutation(self.size) if self.shuffle else np.arange(self.size)
        if avoid is not None and len(avoid) < self.size:
            # A draw that spans two epochs must not hold a prompt twice: those just drawn go last.
            was_drawn = np.zeros(self.size, dtype=bool)
            was_drawn[avoid] = True
            drawn = was_drawn[order]
            order = np.concatenate([order[~drawn], order[drawn]])
        self._ahead = order
        self._position = 0

    @property
    def offered_all(self) -> bool:
        """Whether every prompt of the pool was drawn at least once."""
        return self.epoch > 0 or (self.epoch == 0 and self._position >= len(self._ahead))

    def state_dict(self) -> dict[str, Any]:
        """What is left of the epoch, and the state of both generators."""
        state = {
            "size": self.size,
            "epoch": self.epoch,
            # Half the bytes: of a million prompts eight megabytes would be the order alone.
            "ahead": self._ahead[self._position :].astype(np.uint32),
            "order_rng": self._order.bit_generator.state,
            "choice_rng": self.rng.bit_generator.state,
        }
        return state | ({"put_off": list(self._put_off)} if self._put_off else {})

    def load_state_dict(self, state: dict[str, Any], moves: Moves | None = None) -> None:
        """Continue where the saved stream stood.

        Args:
            moves: where the prompts of the saved pool are now. New ones are put among what is left
                of the epoch, or after it where nothing is shuffled.

        Raises:
            UserError: the saved stream belongs to a pool of another size, and there are no moves.
        """
        if moves is None and state["size"] != self.size:
            raise UserError(
                f"the checkpoint was made with {state['size']} prompts but the dataset has "
                f"{self.size}; resume with the same dataset"
            )
        self.epoch = int(state["epoch"])
        self._ahead = np.asarray(state["ahead"], dtype=np.int64)
        self._position = 0
        self._put_off = [int(i) for i in state.get("put_off", ())]
        self._order.bit_generator.state = state["order_rng"]
        self.rng.bit_generator.state = state["choice_rng"]
        if moves is not None:
            self._ahead, _ = moves.ids(self._ahead)
            put_off, _ = moves.ids(np.array(self._put_off, dtype=np.int64))
            self._put_off = put_off.tolist()
            if self.epoch >= 0 and len(moves.new):
                self._ahead = np.concatenate([self._ahead, moves.new])
                if self.shuffle:
                    self._ahead = self._order.permutation(self._ahead)


class OfferedStream(PromptStream):
    """A stream whose order comes from outside: the trainer's own data loader offers each batch."""

    def offer(self, ids: NDArray[np.int64]) -> None:
        """Set what the next draws give, shape (k,)."""
        self._ahead = np.asarray(ids, dtype=np.int64)
        self._position = 0

    def draw(self, count: int) -> NDArray[np.int64]:
        """The next of the offered ids, at most `count`."""
        batch = self._ahead[self._position : self._position + count]
        self._position += len(batch)
        return batch

"""A stream in ascending order and rollouts whose outcomes are written down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dopr.core.driver import Driver, StepOutcome
from dopr.core.stream import PromptStream
from dopr.strategies import Group, Measure, Request, Strategy
from pools import group


class Ascending(PromptStream):
    """Every epoch offers 0, 1, 2, ..."""

    def _start_epoch(self, avoid: np.ndarray | None) -> None:
        self.epoch += 1
        self._ahead, self._position = np.arange(self.size), 0


def shares(rates: Sequence[float]) -> Callable[[int, int], list[float]]:
    """Outcomes in which the first n * rate of n rollouts are right."""
    return lambda prompt, n: [float(k < round(n * rates[prompt])) for k in range(n)]


@dataclass
class Game:
    """Runs a strategy on written outcomes and notes what it asked for.

    Args:
        strategy: the one to run.
        outcomes: rewards of a prompt's next n rollouts.
        size: prompts in the pool.
        embeddings: shape (size, width), for strategies that measure.
    """

    strategy: Strategy
    outcomes: Callable[[int, int], Sequence[float]]
    size: int
    embeddings: np.ndarray | None = None
    asked: list[list[tuple[int, int]]] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        stream = Ascending(self.size, seed=0)
        self.driver = Driver(self.strategy, stream, can_measure=frozenset({"embedding"}))
        self.strategy = self.driver.strategy  # the copy that runs

    def roll_out(self, requests: list[Request]) -> list[Group]:
        self.asked.append([(r.prompt_id, r.num_rollouts) for r in requests])
        step = self.driver.ledger.step
        return [group(i, self.outcomes(i, n), step=step) for i, n in self.asked[-1]]

    def measure(self, asked: Measure) -> tuple[np.ndarray, int]:
        assert self.embeddings is not None and asked.quantity == "embedding"
        self.measured += asked.prompt_ids
        return self.embeddings[list(asked.prompt_ids)], len(asked.prompt_ids)

    def step(self) -> StepOutcome:
        """One step; `asked` then holds the rounds of this step alone."""
        self.asked.clear()
        return self.driver.step(self.roll_out, self.measure)

    def kept(self) -> list[int]:
        """One step; the prompts of the groups it trains on."""
        return [g.prompt_id for g in self.step().kept]

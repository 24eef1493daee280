"""Strategies to whom the policy's reading of the prompts tells nothing, or the wrong thing.

    dopr compare --config configs/studies/lying-likeness.yaml --jobs 2
    pool=hard/leg_counting
    python benchmarks/rivals_study.py runs/studies/lying/$pool docs/results/lying/$pool
    python benchmarks/rivals_study.py docs/results/lying

`Shuffled...` are given the embedding of another prompt, always the same one: what is alike by
surface is not alike in difficulty, and nothing says so but what comes out. `Same...` are given one
prompt's embedding for all: a pool of one wording, whose difficulty cannot be seen.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import Measure, StepPlan, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.methods.dopr import DoPR
from dopr.strategies.methods.gps import GPS
from dopr.strategies.methods.graph import Graph


@dataclass
class Deceived(Strategy):
    """Base: asks for the embeddings of other prompts than the strategy means."""

    def stand_ins(self, size: int) -> NDArray[np.int64]:
        """For each prompt of the pool the one that is read in its place, shape (size,)."""
        raise NotImplementedError

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        plan = super().step(prompts, ledger)
        read = self.stand_ins(prompts.size)
        answer: Any = None
        while True:
            try:
                asked = plan.send(answer)
            except StopIteration as stop:
                return stop.value
            if isinstance(asked, Measure) and asked.quantity == "embedding":
                asked = replace(asked, prompt_ids=tuple(read[list(asked.prompt_ids)].tolist()))
            answer = yield asked


@dataclass
class Shuffled(Deceived):
    def stand_ins(self, size: int) -> NDArray[np.int64]:
        return np.random.default_rng(0).permutation(size)


@dataclass
class Same(Deceived):
    def stand_ins(self, size: int) -> NDArray[np.int64]:
        return np.zeros(size, dtype=np.int64)


@dataclass
class ShuffledDoPR(Shuffled, DoPR):
    pass


@dataclass
class SameDoPR(Same, DoPR):
    pass


@dataclass
class ShuffledGPS(Shuffled, GPS):
    pass


@dataclass
class ShuffledGraph(Shuffled, Graph):
    pass

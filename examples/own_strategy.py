"""An own strategy: of a batch of candidates, the prompts that are solved about half of the time."""

from dataclasses import dataclass

import numpy as np

from dopr import Ledger, PromptStream, Request, StepPlan, Strategy, require, success_rates


@dataclass
class NearHalf(Strategy):
    """Roll out the candidates whose estimated success rate is nearest to one half."""

    name = "near-half"
    summary = "of the candidates, those solved about half of the time"

    candidates: int = 32
    prompts_per_step: int = 4

    def __post_init__(self) -> None:
        require(self.candidates >= 1, f"candidates is {self.candidates}; it must be at least 1")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        candidates = prompts.draw(min(self.candidates, prompts.size))
        distance = np.abs(success_rates(ledger, candidates) - 0.5)
        tie_break = prompts.rng.random(len(candidates))
        nearest = np.lexsort((tie_break, distance))[: self.prompts_per_step]
        groups = yield [Request(int(i), self.num_generations) for i in candidates[nearest]]
        return [group for group in groups if group.informative] or groups

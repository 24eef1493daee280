"""Uniform choice: the next prompts of a random order, the same number of rollouts for each."""

from dataclasses import dataclass

from dopr.ledger import Ledger
from dopr.strategies.base import Request, StepPlan, Strategy, require
from dopr.stream import PromptStream


@dataclass
class Uniform(Strategy):
    """GRPO's own choice, the reference for all others.

    Args:
        prompts_per_step: prompts in a step, one is allowed. None takes the trainer's batch shape
            and the trainer's own prompt order, and then equals plain GRPO exactly.

    Source: GRPO [2402.03300]. Cost: every prompt drawn is paid for, informative or not.
    """

    name = "uniform"
    summary = "the next prompts of a random order, equal groups"
    source = "GRPO, arXiv 2402.03300"
    mark = "V"

    prompts_per_step: int | None = None

    def __post_init__(self) -> None:
        require(
            self.prompts_per_step is None or self.prompts_per_step >= 1,
            f"prompts_per_step is {self.prompts_per_step}; it must be at least 1",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(self.prompts_per_step or 1)
        groups = yield [Request(int(i), self.num_generations) for i in chosen]
        return groups

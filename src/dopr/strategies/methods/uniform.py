"""Uniform choice: the next prompts of a random order, the same number of rollouts for each."""

from dataclasses import dataclass

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, requests_for


@dataclass
class Uniform(Strategy):
    """GRPO's own choice, the reference for all others.

    Args:
        prompts_per_step: prompts in a step, one is allowed. None takes the trainer's batch shape
            and the trainer's own prompt order, and then equals plain GRPO exactly; where there is
            no trainer, one prompt.

    Source: GRPO [2402.03300]. Cost: every prompt drawn is paid for, informative or not.
    """

    name = "uniform"
    summary = "the next prompts of a random order, equal groups"
    source = "GRPO, arXiv 2402.03300"
    mark = "V"
    fills_batch = True

    prompts_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.prompts_per_step is not None:
            at_least_one(prompts_per_step=self.prompts_per_step)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(self.prompts_per_step or 1)
        groups = yield requests_for(chosen, self.num_generations)
        return groups

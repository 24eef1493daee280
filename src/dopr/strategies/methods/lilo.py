"""Learnability: roll out more prompts than needed, train on those of highest outcome variance."""

from dataclasses import dataclass

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, continued, requests_for, split_group
from dopr.strategies.parts.posterior import outcome_variance


@dataclass
class LILO(Strategy):
    """Pilots on 4B candidates; the B of highest p(1-p) are trained on.

    p(1-p) is taken as the variance of the outcomes in [0, 1], the same for verdicts and right for
    any other reward.

    Args:
        prompts_per_step: B.
        candidates_factor: candidates for each prompt of the step.
        pilots: rollouts of a candidate (8 in the source). None takes num_generations; with fewer,
            the chosen prompts are rolled out further until their group is whole.

    Source: LILO [2502.12272, T]: a third party's note, by which the pilots are trained on.
    """

    name = "lilo"
    summary = "pilots on many candidates, train on those of highest p(1-p)"
    source = "LILO, arXiv 2502.12272"
    mark = "T"
    pays = "post"

    prompts_per_step: int = 8
    candidates_factor: int = 4
    pilots: int | None = None

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step, candidates_factor=self.candidates_factor
        )
        require(
            self.pilots is None or self.pilots >= 2,
            f"pilots is {self.pilots}; it must be at least 2, since a single rollout has no "
            "variance",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        pilots, rest = split_group(self.num_generations, 1.0, self.pilots, None)
        count = self.candidates_factor * self.prompts_per_step
        candidates = prompts.draw(min(count, prompts.size))
        piloted = yield requests_for(candidates, pilots)
        learnability = np.array([outcome_variance(group, ledger) for group in piloted])
        order = np.lexsort((prompts.rng.random(len(piloted)), -learnability))
        chosen = order[: self.prompts_per_step]
        self._last = {
            "select/learnability": float(learnability[chosen].mean()),
            "select/candidate_learnability": float(learnability.mean()),
        }
        taken = [piloted[i] for i in chosen]
        requests = requests_for([group.prompt_id for group in taken], rest)
        return continued(taken, (yield requests)) if requests else taken

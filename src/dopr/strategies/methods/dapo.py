"""Dynamic sampling: resample until the batch is full of prompts with mixed outcomes."""

from dataclasses import dataclass

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, draw_new, informative_first, requests_for


@dataclass
class DAPO(Strategy):
    """Roll out whole batches until enough groups have reward variance; the rest is thrown away.

    Args:
        prompts_per_step: B, groups with reward variance to train on.
        prompts_per_round: prompts rolled out in each round; None takes prompts_per_step. The
            official scripts take three times as many, which fills the batch in fewer rounds and
            throws more away.
        min_reward_std: standard deviation (divisor n) that a group's rewards must exceed to count
            as having variance. 0 drops groups of equal rewards only, right for verdicts; a dense
            reward nearly always differs a little, and groups below the threshold are then neither
            kept nor fallen back on. Dynamic sampling of SRL [2510.25992, T], for which a third
            party's code has 0.1.
        max_rounds: rounds after which the step goes on with what there is (10 in the official
            scripts, which stop the run there).

    Source: DAPO [2503.14476, V], dynamic sampling only: its clipping, token-mean loss and overlong
    penalty are settings of the loss and of the reward.
    """

    name = "dapo"
    summary = "resample until the batch is full of prompts with mixed outcomes"
    source = "DAPO, arXiv 2503.14476"
    mark = "V"
    pays = "post"

    prompts_per_step: int = 8
    prompts_per_round: int | None = None
    max_rounds: int = 10
    min_reward_std: float = 0.0

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, max_rounds=self.max_rounds)
        if self.prompts_per_round is not None:
            at_least_one(prompts_per_round=self.prompts_per_round)
        require(self.min_reward_std >= 0, "min_reward_std must not be negative")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        mixed: list[Group] = []
        blank: list[Group] = []
        rounds = 0
        while len(mixed) < self.prompts_per_step and rounds < self.max_rounds:
            count = self.prompts_per_round or self.prompts_per_step
            chosen = draw_new(prompts, count, (group.prompt_id for group in mixed))
            if not chosen:
                break  # the whole pool is in the batch
            rounds += 1
            for group in (yield requests_for(chosen, self.num_generations)):
                (mixed if self._spread_enough(group) else blank).append(group)
        self._last = {"select/rounds": float(rounds), "select/discarded_groups": float(len(blank))}
        fallback = [group for group in blank if not group.informative]
        return informative_first(mixed or fallback, self.prompts_per_step)

    def _spread_enough(self, group: Group) -> bool:
        return group.informative and float(np.std(group.scored)) > self.min_reward_std

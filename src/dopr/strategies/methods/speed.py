"""Pilot rollouts, and the rest of the group only where the pilot is mixed."""

from dataclasses import dataclass, field

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import (
    at_least_one,
    check_pilots,
    continued,
    draw_new,
    requests_for,
    split_group,
)


@dataclass
class SPEED(Strategy):
    """A few rollouts of many prompts; those with mixed outcomes are continued to whole groups.

    Each round rolls out the pilots of new prompts together with the continuations of the prompts
    whose pilot was mixed in the round before, until B groups are whole. Whole groups that are left
    over are the first of the next step, and pilots that wait are continued in it.

    Args:
        prompts_per_step: B.
        candidates_factor: pilots of a round for each prompt of the step (64 for 16 in the official
            script).
        pilots: rollouts of a pilot, at least 2 (4 in the source). None takes half of
            num_generations.
        continuation: further rollouts where it is mixed (20, or 12, in the source). None fills up
            to num_generations.
        max_rounds: rounds after which the step goes on with what there is (the official script
            stops the run after 50).

    Source: SPEED [2506.09016; Zanette-Labs/speed-rl, V]. There the pilots of a waiting prompt count
    as if sampled by the current policy; here the driver corrects by the importance ratio.
    """

    name = "speed"
    summary = "pilot rollouts, continued only where the outcomes are mixed"
    source = "SPEED, arXiv 2506.09016"
    mark = "V"
    pays = "post"
    replays = True

    prompts_per_step: int = 8
    candidates_factor: int = 4
    pilots: int | None = None
    continuation: int | None = None
    max_rounds: int = 10
    _waiting: list[Group] = field(default_factory=list, init=False, repr=False)
    _whole: list[Group] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step, candidates_factor=self.candidates_factor
        )
        check_pilots(self.pilots, self.continuation, self.max_rounds)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        pilots, rest = split_group(self.num_generations, 0.5, self.pilots, self.continuation)
        blank: list[Group] = []
        rounds = passed = 0
        while len(self._whole) < self.prompts_per_step and rounds < self.max_rounds:
            # Out of the common list, or another step in flight would continue them too.
            pilots_at_hand, self._waiting = self._waiting, []
            waiting = [group.prompt_id for group in pilots_at_hand]
            busy = [*waiting, *(group.prompt_id for group in self._whole)]
            new = draw_new(prompts, self.candidates_factor * self.prompts_per_step, busy)
            if not waiting and not new:
                break  # the whole pool is in the batch
            rounds += 1
            requests = requests_for(waiting, rest)
            try:
                groups = yield requests + requests_for(new, pilots)
            except GeneratorExit:
                self._waiting = pilots_at_hand + self._waiting
                raise
            fresh = groups[len(requests) :]
            self._whole += continued(pilots_at_hand, groups[: len(requests)])
            fit = [group for group in fresh if group.informative]
            self._waiting += fit
            blank += [group for group in fresh if not group.informative]
            passed += len(fit)
        batch = self._whole[: self.prompts_per_step]
        self._whole = self._whole[self.prompts_per_step :]
        self._last = {"select/rounds": float(rounds), "select/kept_over": float(len(self._whole))}
        if passed or blank:
            self._last["select/pilots_passed"] = passed / (passed + len(blank))
        return batch or blank[: self.prompts_per_step]

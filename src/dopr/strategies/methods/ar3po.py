"""Roll out until a right answer appears; where none does, reuse an earlier right answer."""

from dataclasses import dataclass, field, replace

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import REWARD_TOLERANCE, Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for


@dataclass
class AR3PO(Strategy):
    """Stages of rollouts, further ones only for prompts without a right answer so far.

    A prompt without one after the last stage gets the best rollout of the last step in which it had
    one. The driver supplies the log-probabilities under which that was sampled.

    Args:
        prompts_per_step: B.
        round_size: rollouts of a prompt in a stage. None takes half of num_generations.
        max_rounds: stages; with the defaults a prompt gets num_generations rollouts at most, and at
            least one in each stage.
        right_from: reward in [0, 1] from which an answer is right.
        memory: prompts whose right answers are remembered; 0 reuses nothing.

    Source: AR3PO [2509.25808, S]. The sizes of its stages and of its memory are not known to us:
    these defaults agree with the 4 to 8 rollouts a prompt (5.7 at the end) that it reports. Scaling
    by the group's standard deviation also counts rewards of the remembered group.
    """

    name = "ar3po"
    summary = "rollouts until a right answer appears, else an earlier right answer is reused"
    source = "AR3PO, arXiv 2509.25808"
    mark = "S"
    pays = "post"
    replays = True

    prompts_per_step: int = 8
    round_size: int | None = None
    max_rounds: int = 2
    right_from: float = 0.5
    memory: int = 512
    _right: dict[str, Group] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, max_rounds=self.max_rounds)
        if self.round_size is not None:
            at_least_one(round_size=self.round_size)
        require(0 < self.right_from <= 1, f"right_from is {self.right_from}; it must lie in (0, 1]")
        require(self.memory >= 0, f"memory is {self.memory}; it must not be negative")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size)).tolist()
        size = self.round_size or max(1, self.num_generations // 2)
        pooled: dict[int, Group] = {}
        active = chosen
        for _ in range(self.max_rounds):
            for group in (yield requests_for(active, size)):
                i = group.prompt_id
                pooled[i] = pooled[i].join(group) if i in pooled else group
            active = [i for i in active if not self._has_right(pooled[i], ledger)]
            if not active:
                break
        reused = 0
        for i in active:
            earlier = self._right.get(str(i))
            if earlier is not None:
                pooled[i], found = reuse(pooled[i], earlier)
                reused += found
        self._remember([pooled[i] for i in chosen if i not in active])
        self._last = {
            "select/solved_share": 1 - len(active) / len(chosen),
            "select/reused_answers": float(reused),
        }
        return [pooled[i] for i in chosen]

    def _has_right(self, group: Group, ledger: Ledger) -> bool:
        return bool((to_unit(group.scored, ledger) >= self.right_from).any())

    def _remember(self, solved: list[Group]) -> None:
        for group in solved:
            # Taken out first, so that the oldest memory is always at the front.
            self._right.pop(str(group.prompt_id), None)
            self._right[str(group.prompt_id)] = group
        while len(self._right) > self.memory:
            del self._right[next(iter(self._right))]


def reuse(group: Group, earlier: Group) -> tuple[Group, bool]:
    """The group with the best rollout of an earlier one added, and whether that helped.

    The earlier rollouts are joined whole, since they are stored together, but only the best of them
    is trained on; the baseline is the mean reward of those trained on.

    Args:
        group: this step's rollouts of a prompt.
        earlier: a group of the same prompt with at least one scored rollout.
    """
    best = int(np.nanargmax(earlier.rewards))
    scored = group.scored
    if not scored.size or earlier.rewards[best] <= scored.max() + REWARD_TOLERANCE:
        return group, False
    joined = earlier.join(group)
    kept = np.append(best, earlier.num_rollouts + np.arange(group.num_rollouts))
    baseline = float(np.nanmean(joined.rewards[kept]))
    return replace(joined.keep(kept), baseline=baseline), True

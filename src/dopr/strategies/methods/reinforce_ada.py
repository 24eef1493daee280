"""Roll out in rounds until a prompt has right and wrong answers; train on a few of each."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for


@dataclass
class ReinforceAda(Strategy):
    """Each round rolls out the prompts that still lack right or wrong answers.

    A prompt is done once half of `keep` is right and half wrong. Of all its rollouts `keep` are
    trained on, as evenly split as they allow, the first of each kind; the baseline is the mean
    reward of all of them.

    Args:
        prompts_per_step: B.
        round_size: rollouts of a prompt in a round (8 in the source). None takes num_generations.
        max_rounds: rounds after which a prompt is taken as it is (4 in the source).
        keep: rollouts of a prompt to train on, at least 2 (4 in the source). None takes half of
            num_generations.
        right_above: reward in [0, 1] above which an answer is right.

    Source: Reinforce-Ada [2510.04996; RLHFlow/Reinforce-Ada, V], its balanced variant with global
    statistics. The source does not divide by a standard deviation: train with scale_rewards="none".
    """

    name = "reinforce-ada"
    summary = "rounds of rollouts until right and wrong answers are found, train on a few of each"
    source = "Reinforce-Ada, arXiv 2510.04996"
    mark = "V"
    pays = "post"

    prompts_per_step: int = 8
    round_size: int | None = None
    max_rounds: int = 4
    keep: int | None = None
    right_above: float = 0.7

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, max_rounds=self.max_rounds)
        if self.round_size is not None:
            at_least_one(round_size=self.round_size)
        require(
            self.keep is None or self.keep >= 2,
            f"keep is {self.keep}; it must be at least 2, a right answer and a wrong one",
        )
        require(
            0 <= self.right_above < 1, f"right_above is {self.right_above}; it must lie in [0, 1)"
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size)).tolist()
        pooled: dict[int, Group] = {}
        active = chosen
        for _ in range(self.max_rounds):
            groups = yield requests_for(active, self.round_size or self.num_generations)
            for group in groups:
                i = group.prompt_id
                pooled[i] = pooled[i].join(group) if i in pooled else group
            active = [i for i in active if not self._is_done(pooled[i], ledger)]
            if not active:
                break
        rollouts = sum(group.num_rollouts for group in pooled.values())
        self._last = {
            "select/rollouts_per_prompt": rollouts / len(chosen),
            "select/balanced_share": 1 - len(active) / len(chosen),
        }
        return [self.balance(pooled[i], ledger) for i in chosen]

    def balance(self, group: Group, ledger: Ledger) -> Group:
        """The group with the rollouts to train on, and the mean of all as its baseline.

        Where nothing could be scored the first rollouts are kept and there is no baseline.
        """
        right, wrong = self._split(group, ledger)
        if not len(right) + len(wrong):
            return group.keep(np.arange(min(self._keep, group.num_rollouts)))
        num_right = min(self._keep // 2, len(right))
        num_wrong = min(self._keep - num_right, len(wrong))
        num_right = min(self._keep - num_wrong, len(right))
        kept = np.sort(np.concatenate([right[:num_right], wrong[:num_wrong]]))
        return replace(group.keep(kept), baseline=group.mean)

    @property
    def _keep(self) -> int:
        return max(2, self.num_generations // 2) if self.keep is None else self.keep

    def _is_done(self, group: Group, ledger: Ledger) -> bool:
        right, wrong = self._split(group, ledger)
        half = self._keep // 2
        return len(right) >= half and len(wrong) >= self._keep - half

    def _split(self, group: Group, ledger: Ledger) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the right rollouts and of the wrong ones; unscored ones are neither."""
        rewards = to_unit(group.rewards, ledger)
        right, wrong = rewards > self.right_above, rewards <= self.right_above
        return np.flatnonzero(right), np.flatnonzero(wrong)

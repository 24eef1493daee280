"""Train on groups of high reward variance; a memory of such groups fills up the batch."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    informative_first,
    requests_for,
)
from dopr.strategies.parts.posterior import outcome_variance


def normalised_variance(group: Group, ledger: Ledger) -> float:
    """The group's reward variance over the largest that its number of rollouts allows, in [0, 1].

    For k right verdicts of an even number G: 4 k (G - k) / G^2. Source: VCRL [2509.19803, S].
    """
    scored = group.scored.size
    largest = (scored // 2) * ((scored + 1) // 2) / scored**2 if scored else 0.0
    return min(outcome_variance(group, ledger) / largest, 1.0) if largest else 0.0


@dataclass
class VCRL(Strategy):
    """Of a batch keep the groups of high reward variance; replay earlier ones for the others.

    The memory holds one group a prompt with a priority, its normalised variance. When a prompt that
    is still there is rolled out again, priority <- momentum priority + (1 - momentum) variance, or
    it is forgotten if it fell below the threshold. The highest are replayed first and leave the
    memory then. Where nothing reaches the threshold and nothing is remembered, the batch is trained
    on as it is.

    Args:
        prompts_per_step: B.
        kappa: least normalised variance to train on, in [0, 1].
        kappa_early: the same in the first steps.
        early_steps: how many steps those are.
        memory: groups remembered; the lowest priorities are forgotten.
        momentum: in [0, 1].

    Source: VCRL [2509.19803, S]; the values of its thresholds and momentum, the size of its memory
    and that it replays rollouts rather than prompts are inferred [I].
    """

    name = "vcrl"
    summary = "groups of high reward variance, the batch filled from a memory of them"
    source = "VCRL, arXiv 2509.19803"
    mark = "S"
    pays = "post"
    replays = True

    prompts_per_step: int = 8
    kappa: float = 0.8
    kappa_early: float = 0.3
    early_steps: int = 20
    memory: int = 64
    momentum: float = 0.9
    _groups: list[Group] = field(
        default_factory=list, init=False, repr=False, metadata=prompt_ids("_priorities")
    )
    _priorities: NDArray[np.float64] = field(
        default_factory=lambda: np.empty(0), init=False, repr=False
    )

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step)
        in_unit_interval(kappa=self.kappa, kappa_early=self.kappa_early, momentum=self.momentum)
        require(self.memory >= 0, f"memory is {self.memory}; it must not be negative")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size))
        groups = yield requests_for(chosen, self.num_generations)
        scores = [normalised_variance(group, ledger) for group in groups]
        kappa = self.kappa_early if ledger.step < self.early_steps else self.kappa
        kept = [
            group
            for group, score in zip(groups, scores, strict=True)
            if group.informative and score >= kappa
        ]
        replayed = self._recall(self.prompts_per_step - len(kept), {g.prompt_id for g in groups})
        self._remember(groups, scores, kappa)
        self._last = {
            "select/kappa": kappa,
            "select/normalised_variance": float(np.mean(scores)),
            "select/replayed_groups": float(len(replayed)),
        }
        return kept + replayed or informative_first(groups, self.prompts_per_step)

    def _recall(self, count: int, present: set[int]) -> list[Group]:
        """Take out the `count` groups of highest priority, of prompts not in the batch anyway."""
        order = np.argsort(-self._priorities, kind="stable")
        taken = [int(i) for i in order if self._groups[i].prompt_id not in present][:count]
        recalled = [self._groups[i] for i in taken]
        self._forget(taken)
        return recalled

    def _remember(self, groups: list[Group], scores: list[float], kappa: float) -> None:
        """Add groups above the threshold; renew what is remembered of their prompts."""
        for group, score in zip(groups, scores, strict=True):
            known = [i for i, old in enumerate(self._groups) if old.prompt_id == group.prompt_id]
            priority = score
            if known:
                old = float(self._priorities[known[0]])
                priority = self.momentum * old + (1 - self.momentum) * score
                self._forget(known)
            if group.informative and score >= kappa:
                self._groups.append(group)
                self._priorities = np.append(self._priorities, priority)
        excess = max(len(self._groups) - self.memory, 0)
        self._forget(np.argsort(self._priorities, kind="stable")[:excess].tolist())

    def _forget(self, positions: list[int]) -> None:
        gone = set(positions)
        self._groups = [group for i, group in enumerate(self._groups) if i not in gone]
        self._priorities = np.delete(self._priorities, positions)

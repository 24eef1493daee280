"""VIGOR: a few rollouts for all, then more and more for those whose rewards vary most."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, requests_for
from dopr.strategies.parts.posterior import outcome_variance


@dataclass
class VIGOR(Strategy):
    """Rounds of rollouts; after each the prompts of highest reward variance so far go on.

    All of a step's prompts get `first` rollouts; then the share `keep` with the highest variance of
    all their rewards so far gets `growth` times as many as in the round before, and so on. Where
    keep * growth is 1 every round costs alike. All rollouts are trained on, each prompt's as one
    group of its own size.

    Args:
        prompts_per_step: B.
        rounds: T; with the defaults prompts end with 2, 6, 14 or 30 rollouts, 8 on average.
        first: m0, rollouts of the first round. None takes num_generations / rounds, at least 1, so
            that the average is about num_generations (2 of 8 in the source).
        keep: alpha, share of the prompts that go on, rounded up; ties fall at random (the source
            says nothing of them).
        growth: gamma, factor on the rollouts of the round before.

    Source: VIGOR [2607.22002, S]: two notes that agree; no code. Its other setting is 2 rounds, 4
    first, a quarter kept, growth 4.
    """

    name = "vigor"
    summary = "rounds of rollouts, each larger and for the half whose rewards vary most"
    source = "VIGOR, arXiv 2607.22002"
    mark = "S"
    pays = "post"

    prompts_per_step: int = 8
    rounds: int = 4
    first: int | None = None
    keep: float = 0.5
    growth: float = 2.0

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, rounds=self.rounds)
        if self.first is not None:
            at_least_one(first=self.first)
        require(0 < self.keep <= 1, f"keep is {self.keep}; it must lie in (0, 1]")
        require(self.growth >= 1, f"growth is {self.growth}; it must be at least 1")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size)).tolist()
        more: float = self.first or max(1, self.num_generations // self.rounds)
        pooled: dict[int, Group] = {}
        active = chosen
        for turn in range(self.rounds):
            for group in (yield requests_for(active, round(more))):
                i = group.prompt_id
                pooled[i] = pooled[i].join(group) if i in pooled else group
            if turn < self.rounds - 1:
                variances = np.array([outcome_variance(pooled[i], ledger) for i in active])
                order = np.lexsort((prompts.rng.random(len(active)), -variances))
                # The small part taken off keeps 0.1 * 30 from being rounded up to 4.
                active = [active[j] for j in order[: ceil(self.keep * len(active) - 1e-9)]]
                more *= self.growth
        self._last = {"select/largest_group": float(max(g.num_rollouts for g in pooled.values()))}
        return [pooled[i] for i in chosen]

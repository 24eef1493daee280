"""A policy that is only its success rates, under the real driver and the real strategies.

It learns as fast as the trust region allows and never unlearns, so that what a run costs here shows
how a strategy spends rollouts, and nothing of optimisation. No model is run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, rel_entr

from dopr.core.driver import Driver
from dopr.core.strategy import Group, Measure, Request, Strategy
from dopr.core.stream import PromptStream
from dopr.offline.bounds import Array
from dopr.offline.trust_region import highest_rate

_FARTHEST = 60.0  # logits


class SimulatedPolicy:
    """Verdicts of independent coins, one a prompt, and updates of the largest size allowed.

    Args:
        rates: success rates at the start, shape (k,).
        kl: divergence (new against old, in nats) that an update may have: of one informative group
            on its prompt, or with `shared` of `groups` informative ones on average over the pool.
        shared: one shift of all prompts' logits instead of a move of each prompt by itself. An
            update of b of the `groups` informative groups then has (b / groups)^2 kl.
        groups: B, see `shared`.
        embeddings: of the prompts, shape (k, width); None where they cannot be read.
        seed: of the coins.

    Attributes:
        rates: success rates now.
        updates: groups (or with `shared`, whole batches) learned from.
    """

    def __init__(
        self,
        rates: Array,
        kl: float,
        *,
        shared: bool = False,
        groups: int = 1,
        embeddings: Array | None = None,
        seed: int = 0,
    ) -> None:
        self.rates = np.array(rates, dtype=np.float64)
        self.updates = 0.0
        self._kl, self._shared, self._groups = kl, shared, groups
        self._rng = np.random.default_rng([seed, 4])
        self._embeddings = embeddings
        self._ones: dict[int, NDArray[np.int64]] = {}

    def roll_out(self, requests: list[Request]) -> list[Group]:
        """Finished groups: rewards 0 or 1, one token a rollout."""
        return [self._group(request.prompt_id, request.num_rollouts) for request in requests]

    def _group(self, prompt: int, count: int) -> Group:
        rewards = (self._rng.random(count) < self.rates[prompt]).astype(np.float64)
        tokens = self._ones.setdefault(count, np.ones(count, dtype=np.int64))
        return Group(prompt, rewards, tokens)

    @property
    def can_measure(self) -> frozenset[str]:
        """What `measure` answers."""
        return frozenset(
            {"success_rate"} if self._embeddings is None else {"success_rate", "embedding"}
        )

    def measure(self, asked: Measure) -> tuple[Array, int]:
        """The true success rates, shape (k,), or embeddings, (k, width); they cost no token."""
        values = self._embeddings if asked.quantity == "embedding" else self.rates
        assert values is not None  # `can_measure` says so
        return values[np.asarray(asked.prompt_ids, dtype=np.int64)], 0

    def learn(self, groups: list[Group]) -> None:
        """Update on the groups of a step; those without variance change nothing."""
        informative = [group for group in groups if group.informative]
        if not informative:
            return
        if self._shared:
            share = min(1.0, len(informative) / self._groups)
            self._shift(share**2 * self._kl)
            self.updates += share
            return
        for group in informative:
            i = group.prompt_id
            self.rates[i] = highest_rate(float(self.rates[i]), self._kl)
            self.updates += 1

    def _shift(self, kl: float) -> None:
        """Move all logits up alike, as far as the mean divergence allows."""
        old = np.clip(self.rates, 1e-12, 1 - 1e-12)
        start = logit(old)

        def excess(z: float) -> float:
            new = expit(start + z)
            return float(np.mean(rel_entr(new, old) + rel_entr(1 - new, 1 - old))) - kl

        farthest = _FARTHEST
        z = farthest if excess(farthest) <= 0 else float(brentq(excess, 0.0, farthest))
        moved = expit(start + z)
        self.rates = np.where((self.rates > 0) & (self.rates < 1), moved, self.rates)


@dataclass(frozen=True, slots=True)
class Simulated:
    """One run.

    Attributes:
        rollouts: generated until the target was reached; None if it was not.
        generated: rollouts generated in all.
        groups: groups generated in all.
        informative_groups: those with both outcomes.
        steps: optimiser steps.
        final: mean success rate at the end.
    """

    rollouts: int | None
    generated: int
    groups: int
    informative_groups: int
    steps: int
    final: float


def run_to_target(
    strategy: Strategy,
    policy: SimulatedPolicy,
    target: float,
    *,
    max_groups: int = 20_000,
    seed: int = 0,
    watch: Callable[[SimulatedPolicy], None] | None = None,
) -> Simulated:
    """Run a strategy until the mean success rate of the pool reaches a target.

    Args:
        strategy: a fresh one.
        policy: what answers and learns.
        target: mean success rate.
        max_groups: groups after which the run gives up.
        seed: of the stream of prompts.
        watch: called after every step.
    """
    stream = PromptStream(len(policy.rates), seed)
    driver = Driver(strategy, stream, can_measure=policy.can_measure)
    steps = 0
    while policy.rates.mean() < target and driver.spent.groups < max_groups:
        outcome = driver.step(policy.roll_out, policy.measure)
        policy.learn(outcome.kept)
        steps += 1
        if watch is not None:
            watch(policy)
        if steps > 10 * max_groups:  # a strategy that asks for nothing never ends
            break
    spent = driver.spent
    reached = bool(policy.rates.mean() >= target)
    return Simulated(
        spent.rollouts if reached else None,
        spent.rollouts,
        spent.groups,
        spent.informative_groups,
        steps,
        float(policy.rates.mean()),
    )

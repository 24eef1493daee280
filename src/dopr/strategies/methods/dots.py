"""Difficulty predicted by attention over a few rolled-out reference prompts, and rollout replay."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import Group, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    nearest,
    requests_for,
    withheld_ids,
)
from dopr.strategies.parts.prediction import Array, EmbeddingStrategy, attend


@dataclass
class DOTS(EmbeddingStrategy):
    """Choose by softmax(-|p - target| / tau), p predicted from reference prompts; replay the rest.

    Every `refresh_every` steps some random prompts are rolled out as references. A candidate's p is
    the attention-weighted mean of their success rates. Part of the batch is fresh, the rest are
    groups with mixed outcomes from a queue of the latest ones; while the queue is short, more is
    fresh.

    Args:
        prompts_per_step: B.
        references: prompts rolled out to predict from (256 at a B of 512 in the official script);
            they are paid for and not trained on.
        refresh_every: steps between new references (2 in the official script). The defaults spend
            on references what the source does: half as many rollouts as on fresh groups.
        candidates: prompts drawn to choose from each step. None takes the whole pool as the source
            does, which embeds it all at the first step.
        target: success rate to be near to.
        tau: temperature of the choice, in units of the success rate.
        attention_temperature: temperature of the attention; see `attend`.
        fresh_share: sigma in (0, 1], part of the batch that is rolled out anew.
        queue: groups that can be replayed. None takes prompts_per_step, the source's 512 at its B
            of 512.

    Source: DOTS with rollout replay [2506.05316; ASTRAL-Group/data-efficient-llm-rl, V]. There a
    trained adapter projects the embeddings of a frozen model and calibrates p; here the attention
    is over standardised embeddings of the policy, neither projected nor calibrated.
    """

    name = "dots"
    summary = "difficulty predicted from a few reference prompts, with replay of mixed groups"
    source = "DOTS + rollout replay, arXiv 2506.05316"
    mark = "V"
    replays = True

    prompts_per_step: int = 8
    references: int = 16
    refresh_every: int = 8
    candidates: int | None = 256
    target: float = 0.5
    tau: float = 1e-3
    attention_temperature: float = 1.0
    fresh_share: float = 0.5
    queue: int | None = None
    _references: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids("_reference_rewards"),
    )
    _reference_rewards: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    _queue: list[Group] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step,
            references=self.references,
            refresh_every=self.refresh_every,
        )
        if self.candidates is not None:
            require(
                self.candidates >= self.prompts_per_step,
                f"candidates is {self.candidates}; it must be at least prompts_per_step "
                f"({self.prompts_per_step})",
            )
        in_unit_interval(target=self.target)
        require(self.tau > 0, f"tau is {self.tau}; it must be positive")
        require(self.attention_temperature > 0, "attention_temperature must be positive")
        require(
            0 < self.fresh_share <= 1, f"fresh_share is {self.fresh_share}; it must lie in (0, 1]"
        )
        require(self.queue is None or self.queue >= 0, "queue must not be negative")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if ledger.step % self.refresh_every == 0:
            drawn = prompts.draw(min(self.references, prompts.size))
            answered = yield requests_for(drawn, self.num_generations)
            scored = [group for group in answered if group.scored.size]
            self._references = np.array([group.prompt_id for group in scored], dtype=np.int64)
            self._reference_rewards = np.array([group.mean for group in scored])
        candidates = (
            np.arange(prompts.size)
            if self.candidates is None
            else prompts.draw(min(self.candidates, prompts.size))
        )
        features = yield from self.embed(prompts, np.concatenate([candidates, self._references]))
        predicted = self._predict(features, len(candidates), ledger)
        replayed = self._replay(prompts)
        count = self.prompts_per_step - len(replayed)
        if self.candidates is None:
            predicted[withheld_ids(prompts, count)] = np.inf
        chosen = nearest(predicted, self.target, count, prompts.rng, self.tau)
        groups = yield requests_for(candidates[chosen], self.num_generations)
        self._queue_up(groups)
        self._last = {
            "select/predicted_success": float(predicted[chosen].mean()),
            "select/replayed_groups": float(len(replayed)),
        }
        return groups + replayed

    def _predict(self, features: Array, num_candidates: int, ledger: Ledger) -> Array:
        """Predicted success rates of the candidates, whose features come first."""
        if not len(self._references):
            return np.full(num_candidates, 0.5)
        rates = to_unit(self._reference_rewards, ledger)
        queries, references = features[:num_candidates], features[num_candidates:]
        return attend(queries, references, rates, self.attention_temperature)

    def _replay(self, prompts: PromptStream) -> list[Group]:
        fresh = int(np.ceil(self.fresh_share * self.prompts_per_step))
        picked = prompts.rng.permutation(len(self._queue))[: self.prompts_per_step - fresh]
        return [self._queue[i] for i in picked]

    def _queue_up(self, groups: list[Group]) -> None:
        """Add the mixed groups; of a prompt only the newest stays."""
        mixed = [group for group in groups if group.informative]
        renewed = {group.prompt_id for group in mixed}
        kept = [group for group in self._queue if group.prompt_id not in renewed] + mixed
        size = self.prompts_per_step if self.queue is None else self.queue
        self._queue = kept[max(len(kept) - size, 0) :]

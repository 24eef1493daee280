"""The limit of choosing by success rate: every rate is known, and knowing it costs nothing."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, Measure, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for, withheld_ids


@dataclass
class Oracle(Strategy):
    """The prompts of highest p (1 - p), with p measured by rollouts that nobody pays for.

    This is no competitor: its measurements are not counted, so nobody can run it for the price it
    shows. It is the reference that says how much any choice by success rate could save on a pool.
    (It is not a bound on everything: p (1 - p) need not be the best thing to choose by.)

    Every `refresh` steps the success rate of every prompt is measured anew. In between, a prompt
    rolled out takes the mean of its measured rate and its new group, weighted by their rollouts.
    Equal scores are decided at random.

    Args:
        prompts_per_step: prompts in a step, the best ones.
        refresh: steps between two measurements.
        samples: rollouts a prompt in a measurement.
        candidates: prompts measured each time, and chosen from until the next; None takes all.
        target: exponent a of the score p (1 - p)^a, best at p = 1 / (1 + a); more than 1 prefers
            harder prompts.

    Source: none, a reference of our own; p (1 - p) as learnability [2504.03380, S].
    """

    name = "oracle"
    summary = "the limit: best p(1-p) with all success rates known for free; no competitor"
    source = "dopr's own reference; p(1-p) as learnability: arXiv 2504.03380"
    mark = "I"
    measures = frozenset({"success_rate"})

    prompts_per_step: int = 1
    refresh: int = 16
    samples: int = 8
    candidates: int | None = None
    target: float = 1.0
    _rates: NDArray[np.float64] | None = field(
        default=None, init=False, repr=False, metadata=per_prompt(np.nan)
    )
    _measured_at: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step, refresh=self.refresh, samples=self.samples
        )
        require(
            self.candidates is None or self.candidates >= self.prompts_per_step,
            f"candidates is {self.candidates}; it must be at least prompts_per_step "
            f"({self.prompts_per_step})",
        )
        require(self.target > 0, f"target is {self.target}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self._rates is None or ledger.step - self._measured_at >= self.refresh:
            count = min(self.candidates or prompts.size, prompts.size)
            ids = np.sort(prompts.draw(count))
            found = yield Measure(tuple(ids.tolist()), "success_rate", samples=self.samples)
            self._rates = np.full(prompts.size, np.nan)
            self._rates[ids] = found
            self._measured_at = ledger.step
        withheld = withheld_ids(prompts, self.prompts_per_step)
        chosen = self.choose(ledger, prompts.rng, withheld)
        groups = yield requests_for(chosen, self.num_generations)
        for group in groups:
            self._mix_in(group)
        return groups

    def choose(
        self,
        ledger: Ledger,
        rng: np.random.Generator,
        withheld: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """The `prompts_per_step` best of the prompts measured, best first.

        Args:
            ledger: with the range of the rewards.
            rng: the stream's generator.
            withheld: prompts to leave out, see `withheld_ids`.
        """
        assert self._rates is not None
        # Rewards of a kind not rolled out yet may have been measured already.
        known = self._rates[~np.isnan(self._rates)]
        ends = (float(known.min()), float(known.max())) if known.size else ()
        rates = to_unit(self._rates, ledger, *ends)
        away = 1 - rates if self.target == 1.0 else np.power(1 - rates, self.target)
        scores = rates * away
        scores[np.isnan(scores)] = -1.0
        if withheld is not None:
            scores[withheld] = -1.0
        if self.prompts_per_step == 1:
            best = np.flatnonzero(scores == scores.max())
            chosen = best[rng.integers(len(best), size=1)]
        else:
            order = np.lexsort((rng.random(len(scores)), -scores))
            chosen = order[: self.prompts_per_step]
        self._last = {
            "select/score": float(scores[chosen].mean()),
            "select/known_success": float(np.nan_to_num(rates[chosen]).mean()),
            "select/steps_since_measured": float(ledger.step - self._measured_at),
        }
        return chosen

    def _mix_in(self, group: Group) -> None:
        """Move a measured rate towards what the prompt's new rollouts show."""
        assert self._rates is not None
        scored = group.scored
        if not scored.size:
            return
        measured = self._rates[group.prompt_id]
        if np.isnan(measured):
            measured = group.mean
        total = self.samples * measured + float(scored.sum())
        self._rates[group.prompt_id] = total / (self.samples + scored.size)

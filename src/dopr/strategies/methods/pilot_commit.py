"""Pilot rollouts estimate each prompt's success rate; only the promising ones get the rest."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import (
    at_least_one,
    check_pilots,
    continued,
    draw_new,
    requests_for,
    split_group,
)
from dopr.strategies.parts.posterior import outcome_variance, sized, success_rate

ORDERS = ("random", "variance")


@dataclass
class PilotCommit(Strategy):
    """Explore many prompts with a quarter of a group, commit the rest where it pays.

    Each round pilots new prompts and, in the same request, commits to prompts whose pilot passed in
    an earlier round; so the first round of a run only pilots. A pilot passes where its success rate
    lies in [defer_below, skip_above]; any other prompt waits for its next turn in the random order
    (the same step still, where the pool is that small), and solved ones are never drawn again. At
    the end of a step pilots older than `max_staleness` steps are thrown away, so those committed to
    are one step older at most, as in the official code.

    Args:
        prompts_per_step: B, prompts committed to.
        candidates_factor: prompts piloted in a round for each prompt of the step.
        pilots: rollouts of a pilot, at least 2. None takes 16/64 of num_generations.
        continuation: rollouts of a commit. None takes the other 48/64.
        skip_above: success rate above which a prompt is passed over.
        defer_below: success rate below which it is left for later.
        drop_from: success rate of a pilot from which it counts as solved, None for never.
        drop_after: pilot rollouts of such pilots in a row after which the prompt is dropped for
            good. The source drops after one pilot, and its pilots have 16 or more rollouts; 2 of 2
            right would drop a quarter of the very prompts that are worth most. Once all prompts are
            dropped, all come back.
        max_staleness: see above.
        order: which of the waiting prompts are committed to first, `random` ones (official default)
            or those whose pilot had the highest `variance` (official script of the 1.5B model).
        max_rounds: rounds after which the step goes on with what there is (the official code stops
            the run).

    Source: Pilot-Commit [2605.26606; databricks/pilot-commit, V]. It empties the waiting list at
    the end of an epoch; here staleness alone bounds it, since small pools end an epoch every step.
    """

    name = "pilot-commit"
    summary = "pilots on many prompts, the rest of the group where the success rate promises most"
    source = "Pilot-Commit, arXiv 2605.26606"
    mark = "V"
    pays = "post"
    replays = True

    prompts_per_step: int = 8
    candidates_factor: int = 3
    pilots: int | None = None
    continuation: int | None = None
    skip_above: float = 0.75
    defer_below: float = 0.125
    drop_from: float | None = 1.0
    drop_after: int = 16
    max_staleness: int = 4
    order: Literal["random", "variance"] = "random"
    max_rounds: int = 10
    _waiting: list[Group] = field(default_factory=list, init=False, repr=False)
    # Rollouts of each prompt's solved pilots in a row, shape (size,).
    _solved: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=per_prompt(0),
    )

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step,
            candidates_factor=self.candidates_factor,
            drop_after=self.drop_after,
        )
        check_pilots(self.pilots, self.continuation, self.max_rounds)
        require(
            0 <= self.defer_below <= self.skip_above <= 1,
            f"defer_below ({self.defer_below}) and skip_above ({self.skip_above}) must be in order "
            "and in [0, 1]",
        )
        require(
            self.drop_from is None or self.drop_from > self.skip_above,
            f"drop_from is {self.drop_from}; it must lie above skip_above ({self.skip_above})",
        )
        require(
            self.max_staleness >= 0,
            f"max_staleness is {self.max_staleness}; it must not be negative",
        )
        if self.order not in ORDERS:
            raise unknown_name("order of commits", self.order, ORDERS)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        pilots, rest = split_group(self.num_generations, 16 / 64, self.pilots, self.continuation)
        self._solved = sized(self._solved, prompts.size, 0)
        batch: list[Group] = []
        unfit: list[Group] = []
        rounds = passed = 0
        while len(batch) < self.prompts_per_step and rounds < self.max_rounds:
            committed = self._ordered(prompts, ledger)[: self.prompts_per_step - len(batch)]
            new = self._draw(prompts, batch)
            if not committed and not new:
                break  # the whole pool is in the batch
            rounds += 1
            # Out of the common list, or another step in flight would commit to them too.
            self._waiting = [group for group in self._waiting if group not in committed]
            requests = requests_for([group.prompt_id for group in committed], rest)
            try:
                groups = yield requests + requests_for(new, pilots)
            except GeneratorExit:
                self._waiting = committed + self._waiting
                raise
            batch += continued(committed, groups[: len(requests)])
            for group in groups[len(requests) :]:
                fit = self._passes(group, ledger)
                (self._waiting if fit else unfit).append(group)
                passed += fit
        oldest = ledger.step - self.max_staleness
        self._waiting = [group for group in self._waiting if group.step >= oldest]
        self._last = {
            "select/rounds": float(rounds),
            "select/pilots_passed": passed / max(passed + len(unfit), 1),
            "select/waiting": float(len(self._waiting)),
            "select/dropped_share": float(np.mean(self._solved >= self.drop_after)),
        }
        return batch or unfit[: self.prompts_per_step]

    def _ordered(self, prompts: PromptStream, ledger: Ledger) -> list[Group]:
        """The waiting pilots, those to commit to first at the front."""
        if self.order == "variance":
            return sorted(self._waiting, key=lambda g: (-outcome_variance(g, ledger), -g.step))
        return [self._waiting[i] for i in prompts.rng.permutation(len(self._waiting))]

    def _draw(self, prompts: PromptStream, batch: list[Group]) -> list[int]:
        dropped = np.flatnonzero(self._solved >= self.drop_after)
        if len(dropped) == prompts.size:
            self._solved[:], dropped = 0, dropped[:0]
        busy = [group.prompt_id for group in batch + self._waiting]
        excluded = {*busy, *dropped.tolist()}
        return draw_new(prompts, self.candidates_factor * self.prompts_per_step, excluded)

    def _passes(self, pilot: Group, ledger: Ledger) -> bool:
        """Whether to commit to the prompt; also notes whether it is solved."""
        rate, i = success_rate(pilot, ledger), pilot.prompt_id
        if self.drop_from is not None and not np.isnan(rate):
            self._solved[i] = self._solved[i] + pilot.scored.size if rate >= self.drop_from else 0
        return self.defer_below <= rate <= self.skip_above

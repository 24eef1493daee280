"""Base of the strategies that watch a pre-run over the whole pool, then train on part of it."""

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, per_prompt, prompt_ids
from dopr.core.strategy import Group, StepPlan, Strategy
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for
from dopr.strategies.parts.learning_curves import as_table, load_history, recorded_entries
from dopr.strategies.parts.turns import in_turn


@dataclass
class PreRun(Strategy):
    """Select prompts by their learning curves, then train on these alone.

    The curves come from a file, or from a pre-run inside the run: the first `prerun_epochs` passes
    over the pool are uniform training, whose groups' mean rewards are recorded. The papers go back
    to the base model after their pre-run; a run cannot, so it goes on from where it stands.

    A pre-run costs what it costs: the one inside the run like any rollouts, that of a file is added
    to the run's rollouts at the start (one group of `history_group_size` for each accuracy in it;
    its tokens are not known and not added).

    Attributes:
        history: JSON file, prompt index -> list of per-epoch accuracies; None for a pre-run here.
        history_group_size: rollouts behind each accuracy in the file.
        prerun_epochs: passes over the pool in a pre-run here.
        prompts_per_step: prompts in a step. A selection smaller than that is repeated to fill the
            step, as in 1-shot RLVR; a pre-run never repeats a prompt within a step.
    """

    history: str | None = None
    history_group_size: int = 8
    prerun_epochs: int = 4
    prompts_per_step: int = 8
    _entries: int = field(default=0, init=False, repr=False)
    _drawn: int = field(default=0, init=False, repr=False)
    _arrived: int = field(default=0, init=False, repr=False)
    _further: int = field(default=0, init=False, repr=False)
    _curves: NDArray[np.float64] | None = field(
        default=None, init=False, repr=False, metadata=per_prompt(np.nan)
    )
    _selected: NDArray[np.int64] | None = field(
        default=None, init=False, repr=False, metadata=prompt_ids()
    )

    def __post_init__(self) -> None:
        at_least_one(
            history_group_size=self.history_group_size,
            prompts_per_step=self.prompts_per_step,
            prerun_epochs=self.prerun_epochs,
        )

    def read_history(self) -> None:
        """Select by the history file, if there is one; for the end of `__post_init__`."""
        if self.history is not None:
            history = load_history(self.history)
            prompts, accuracies = as_table(history)
            self._entries = recorded_entries(history)
            # An accuracy lies in [0, 1]; a file of other rewards is brought there by its range.
            low = min(float(np.nanmin(accuracies)), 0.0)
            high = max(float(np.nanmax(accuracies)), 1.0)
            self._selected = prompts[self.select((accuracies - low) / (high - low))]

    @property
    def prepaid_rollouts(self) -> int:
        return self._entries * self.history_group_size

    @abstractmethod
    def select(self, accuracies: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows to train on, at least one.

        Args:
            accuracies: in [0, 1], shape (k, epochs), NaN where a prompt could not be scored.
        """

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self._selected is None:
            return (yield from self._watch(prompts, ledger))
        if self._selected.max() >= prompts.size:
            raise UserError(
                f"the history {self.history!r} selects prompt {self._selected.max()}, which is not "
                f"in the pool of {prompts.size} prompts"
            )
        chosen = in_turn(self._selected, self.prompts_per_step, ledger, prompts)
        chosen = np.resize(chosen, self.prompts_per_step)
        groups = yield requests_for(chosen, self.num_generations)
        return groups

    def _watch(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        """One step of the pre-run; the last one selects."""
        if self._curves is None:
            self._curves = np.full((prompts.size, self.prerun_epochs), np.nan)
        total = self.prerun_epochs * prompts.size
        # Where steps overlap all may be drawn and not all be there: then there is more of the same.
        left = total - self._drawn or self.prompts_per_step
        ids = prompts.draw(min(self.prompts_per_step, prompts.size, left))
        # The stream gives every prompt once in each stretch of the pool's size.
        epochs = (self._drawn + np.arange(len(ids))) // prompts.size
        drawn = int((epochs < self.prerun_epochs).sum())
        self._drawn += drawn
        try:
            groups = yield requests_for(ids, self.num_generations)
        except GeneratorExit:  # the step is given up
            self._drawn -= drawn
            raise
        if self._selected is None:
            self._record(groups, epochs)
            # What a restart made of a step may never be told here: as much again stands for it.
            if self._arrived >= total or self._further >= total:
                self._selected = self.select(to_unit(self._curves, ledger))
        return groups

    def _record(self, groups: list[Group], epochs: NDArray[np.int64]) -> None:
        assert self._curves is not None
        for group, epoch in zip(groups, epochs.tolist(), strict=True):
            curve = self._curves[group.prompt_id]
            if epoch < self.prerun_epochs:
                curve[epoch] = group.mean
                self._arrived += 1
            else:
                curve[np.flatnonzero(np.isnan(curve))[:1]] = group.mean
                self._further += 1

    def move(self, moves: Moves) -> None:
        """Follow the prompts to other rows.

        Raises:
            UserError: the pre-run is not over and its pool is another one, or no selected prompt
                is there any more.
        """
        if self._selected is None and self._drawn and (moves.gone or len(moves.new)):
            raise UserError(
                f"{moves.told}, in the middle of the pre-run of {self.name!r}, which compares all "
                "prompts of one pool; resume with the same prompts"
            )
        super().move(moves)
        if self._selected is not None and not len(self._selected):
            raise UserError(
                f"{moves.told}, and none of those that {self.name!r} selected is there; resume "
                "with a dataset that has them"
            )

    def metrics(self) -> dict[str, float]:
        done = self._selected is not None
        return {
            "select/prerun": 0.0 if done else 1.0,
            "select/selected": float(len(self._selected)) if self._selected is not None else 0.0,
        }

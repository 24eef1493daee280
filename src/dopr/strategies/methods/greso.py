"""Skip prompts that were all right or all wrong the last times, more surely each time."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    informative_first,
    requests_for,
)
from dopr.strategies.parts.posterior import sized, success_rate

STEP = 0.01  # by how much the exploration factors move in a step
LOWEST, HIGHEST = 0.05, 0.95  # and how far
LEAST_KEPT = 0.01  # no prompt is skipped more surely than this leaves
REFILL_MARGIN = 1.25


@dataclass
class GRESO(Strategy):
    """Skip a prompt with probability 1 - max(p^z, 0.01), z its last groups in a row without signal.

    p is `p_easy` where they were all right and `p_hard` where they were all wrong; both move by
    0.01 a step, from the second epoch on, so that the share of such groups among those generated
    keeps to its target. What is generated is then filtered as in DAPO, and refilled by

        need / (1 - share of groups without variance in the last round) * 1.25

    prompts: at least `min_refill`, at most the first round's size; once that formula asks for no
    more than the first round's size, the next round is the last and the batch may stay short.

    Args:
        prompts_per_step: B, groups with reward variance to train on.
        oversample: prompts of the first round over B (384 for 256 in the official scripts).
        min_refill: fewest prompts of a further round. None takes a quarter of B, which is the
            source's 64 at its B of 256.
        max_rounds: rounds after which the step goes on with what there is; not in the source.
        p_easy: exploration factor of solved prompts at the start, in [0, 1].
        p_hard: the same of prompts never solved.
        target_easy: wanted share of generated groups that are all right.
        target_hard: wanted share of those all wrong. The source splits 25% one to two.
        solved_from: success rate from which a group counts as all right.
        hopeless_to: success rate up to which it counts as all wrong. With more than 9 rollouts a
            group this value takes in groups with one right answer; lower it.

    Source: GRESO [2506.02177; Infini-AI-Lab/GRESO, V].
    """

    name = "greso"
    summary = "skip prompts that were all right or all wrong, more surely each time"
    source = "GRESO, arXiv 2506.02177"
    mark = "V"

    prompts_per_step: int = 8
    oversample: float = 1.5
    min_refill: int | None = None
    max_rounds: int = 10
    p_easy: float = 0.5
    p_hard: float = 0.5
    target_easy: float = 0.25 / 3
    target_hard: float = 0.5 / 3
    solved_from: float = 0.98
    hopeless_to: float = 0.11
    _easy: float = field(default=0.5, init=False, repr=False)
    _hard: float = field(default=0.5, init=False, repr=False)
    _easy_streak: NDArray[np.int32] = field(
        default_factory=lambda: np.empty(0, np.int32),
        init=False,
        repr=False,
        metadata=per_prompt(0),
    )
    _hard_streak: NDArray[np.int32] = field(
        default_factory=lambda: np.empty(0, np.int32),
        init=False,
        repr=False,
        metadata=per_prompt(0),
    )

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, max_rounds=self.max_rounds)
        require(self.oversample >= 1, f"oversample is {self.oversample}; it must be at least 1")
        if self.min_refill is not None:
            at_least_one(min_refill=self.min_refill)
        in_unit_interval(
            p_easy=self.p_easy,
            p_hard=self.p_hard,
            target_easy=self.target_easy,
            target_hard=self.target_hard,
        )
        require(self.hopeless_to < self.solved_from, "hopeless_to must lie below solved_from")
        self._easy, self._hard = self.p_easy, self.p_hard

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        self._easy_streak = sized(self._easy_streak, prompts.size, 0)
        self._hard_streak = sized(self._hard_streak, prompts.size, 0)
        mixed: list[Group] = []
        generated: list[Group] = []
        wanted, final = self.first_round, False
        for _ in range(self.max_rounds):
            chosen = self._draw(wanted, prompts, {group.prompt_id for group in mixed})
            if not chosen:
                break  # the whole pool is in the batch
            groups = yield requests_for(chosen, self.num_generations)
            self._note_streaks(groups, ledger)
            generated += groups
            mixed += [group for group in groups if group.informative]
            need = self.prompts_per_step - len(mixed)
            if need <= 0 or final:
                break
            blank_share = float(np.mean([not group.informative for group in groups]))
            wanted, final = self.refill(need, blank_share)
        self._adapt(generated, prompts, ledger)
        return informative_first(mixed or generated, self.prompts_per_step)

    @property
    def first_round(self) -> int:
        """Prompts of a step's first round."""
        return int(self.oversample * self.prompts_per_step)

    def refill(self, need: int, blank_share: float) -> tuple[int, bool]:
        """Prompts of the next round, and whether it is the last.

        Args:
            need: groups with reward variance still missing.
            blank_share: share of the last round's groups without variance.
        """
        signal = 1 - blank_share
        estimate = int(need / signal * REFILL_MARGIN) if signal > 0 else self.first_round + 1
        fewest = self.min_refill or max(1, self.prompts_per_step // 4)
        return max(min(estimate, self.first_round), fewest), estimate <= self.first_round

    def skip_probability(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """How surely each prompt is skipped now, shape (k,), for prompt ids of shape (k,)."""
        easy = np.maximum(self._easy ** self._easy_streak[ids], LEAST_KEPT)
        hard = np.maximum(self._hard ** self._hard_streak[ids], LEAST_KEPT)
        return 1 - easy * hard  # at most one of the streaks is not 0

    def _draw(self, count: int, prompts: PromptStream, taken: set[int]) -> list[int]:
        """Up to `count` prompts that are not skipped, or skipped ones where all were."""
        chosen: list[int] = []
        skipped: list[int] = []
        left = prompts.size
        while len(chosen) < count and left > 0:
            ids = prompts.draw(min(count - len(chosen), left))
            left -= max(len(ids), 1)
            skip = prompts.rng.random(len(ids)) < self.skip_probability(ids)
            for i, passed_over in zip(map(int, ids), skip, strict=True):
                if i not in taken:
                    taken.add(i)
                    (skipped if passed_over else chosen).append(i)
        return chosen or skipped[:count]

    def _note_streaks(self, groups: list[Group], ledger: Ledger) -> None:
        for group in groups:
            rate, i = success_rate(group, ledger), group.prompt_id
            if not np.isnan(rate):
                self._easy_streak[i] = self._easy_streak[i] + 1 if rate >= self.solved_from else 0
                self._hard_streak[i] = self._hard_streak[i] + 1 if rate <= self.hopeless_to else 0

    def _adapt(self, generated: list[Group], prompts: PromptStream, ledger: Ledger) -> None:
        rates = np.array([success_rate(group, ledger) for group in generated])
        easy = float(np.mean(rates >= self.solved_from))
        hard = float(np.mean(rates <= self.hopeless_to))
        if prompts.epoch > 0:  # before, nothing can have been skipped
            self._easy = _moved(self._easy, easy >= self.target_easy)
            self._hard = _moved(self._hard, hard >= self.target_hard)
        self._last = {
            "select/p_easy": self._easy,
            "select/p_hard": self._hard,
            "select/easy_share": easy,
            "select/hard_share": hard,
        }


def _moved(p: float, too_many: bool) -> float:
    return max(p - STEP, LOWEST) if too_many else min(p + STEP, HIGHEST)

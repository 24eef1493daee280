"""SEC, a self-evolving curriculum: a bandit that chooses among categories of prompts."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, no_prompts
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, requests_for
from dopr.strategies.parts.turns import in_turn, softmax


@dataclass
class SEC(Strategy):
    """Categories drawn by softmax(Q / temperature); Q follows the mean |advantage| they yield.

    After a step, for each category rolled out, Q <- (1 - learning_rate) Q + learning_rate r, where
    r is the mean |r_i - mean| / std over its groups' rollouts: 2 sqrt(p(1 - p)) for binary rewards,
    0 for a group without variance. Within a category prompts come in random order, those least
    visited first; with a single category that is uniform choice.

    Args:
        prompts_per_step: prompts in a step.
        learning_rate: in (0, 1].
        temperature: of the softmax. The paper's scripts have 1.0 (Countdown), 0.4 (mathematics) and
            0.2 (two-way categories).
        fade_absent: whether Q also moves towards 0 where a step had no prompt of the category, as
            in the paper's code; its batches are so large that this is rare.

    Source: SEC [2505.14970]: rule, learning rate and temperatures V, read in a copy of its code
    (Vincent-La/cofa).
    """

    name = "sec"
    summary = "a bandit over categories of prompts, rewarded by the mean |advantage|"
    source = "SEC, arXiv 2505.14970"
    mark = "V"

    prompts_per_step: int = 8
    learning_rate: float = 0.5
    temperature: float = 1.0
    fade_absent: bool = False
    _values: NDArray[np.float64] | None = field(
        default=None, init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step)
        require(
            0 < self.learning_rate <= 1,
            f"learning_rate is {self.learning_rate}; it must lie in (0, 1]",
        )
        require(self.temperature > 0, f"temperature is {self.temperature}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        kinds, kind_of, sizes = np.unique(
            prompts.categories, return_inverse=True, return_counts=True
        )
        if self._values is None or len(self._values) != len(kinds):
            self._values = np.zeros(len(kinds))
        chances = softmax(self._values, self.temperature)
        counts = self.draw_categories(chances, sizes, prompts.rng)
        chosen = [
            in_turn(np.flatnonzero(kind_of == kind), int(counts[kind]), ledger, prompts)
            for kind in np.flatnonzero(counts)
        ]
        self._last = {
            "select/categories": float(len(chosen)),
            "select/likeliest_category": float(kinds[np.argmax(chances)]),
            "select/likeliest_chance": float(chances.max()),
        }
        mingled = prompts.rng.permuted(np.concatenate(chosen))
        groups = yield requests_for(mingled, self.num_generations)
        self.learn(groups, kind_of)
        return groups

    def draw_categories(
        self, chances: NDArray[np.float64], sizes: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """How many prompts of each category: independent draws, none beyond a category's size.

        Args:
            chances: shape (k,), sum 1.
            sizes: prompts in each category, shape (k,).
        """
        counts = np.zeros(len(chances), dtype=np.int64)
        missing = min(self.prompts_per_step, int(sizes.sum()))
        while missing:
            # Each round spends the step or fills a category, so there are at most k rounds.
            free = np.where(counts < sizes, np.maximum(chances, 1e-300), 0.0)
            drawn = rng.multinomial(missing, free / free.sum())
            counts = np.minimum(counts + drawn, sizes)
            missing = min(self.prompts_per_step, int(sizes.sum())) - int(counts.sum())
        return counts

    def learn(self, groups: list[Group], kind_of: NDArray[np.int64]) -> None:
        """Move the values of the categories rolled out towards what they yielded."""
        assert self._values is not None
        yields: dict[int, list[float]] = {}
        for group in groups:
            if group.scored.size:
                yields.setdefault(int(kind_of[group.prompt_id]), []).append(advantage_size(group))
        if self.fade_absent:
            absent = np.setdiff1d(np.arange(len(self._values)), list(yields))
            self._values[absent] *= 1 - self.learning_rate
        for kind, sizes in yields.items():
            gain = float(np.mean(sizes)) - self._values[kind]
            self._values[kind] += self.learning_rate * gain

    def move(self, moves: Moves) -> None:
        """Follow the categories to their numbers in the pool of now; new ones start at 0."""
        super().move(moves)
        if self._values is None or moves.categories is None:
            return
        before, now = moves.categories
        there = moves.row >= 0
        same = dict(zip(before[there].tolist(), now[moves.row[there]].tolist(), strict=True))
        known = dict(zip(np.unique(before).tolist(), self._values.tolist(), strict=True))
        found = {same[kind]: value for kind, value in known.items() if kind in same}
        self._values = np.array([found.get(kind, 0.0) for kind in np.unique(now).tolist()])


def advantage_size(group: Group) -> float:
    """Mean |advantage| of a group, its rewards scaled to standard deviation 1; 0 without any."""
    if not group.informative:
        return 0.0
    deviations = np.abs(group.scored - group.mean)
    return float(deviations.mean() / group.scored.std())

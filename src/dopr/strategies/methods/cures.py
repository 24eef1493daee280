"""CurES: prompts drawn by the steepness of the reward, rollouts by the spread of the gradient."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import Group, Request, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.allocation import Counts, UnequalGroups, proportional_allocation
from dopr.strategies.parts.candidates import at_least_one, requests_for
from dopr.strategies.parts.turns import draw_by_weight

Array = NDArray[np.float64]


@dataclass
class CurES(UnequalGroups):
    """Pilots say how large each prompt's group is, and a posterior which prompts come first.

    An iteration has `iteration_steps` steps. At its start the prompts of all of them are drawn and
    get `pilots` rollouts each, which are paid for and not trained on. A step draws its prompts from
    those left by weights exp(sqrt(d (1 - d)) / t), d the mean of the pilots' Beta(1, 1) posterior;
    and divides num_generations rollouts a prompt by

        sigma^2 = p q^2 E[g+^2] + p^2 q E[g-^2] - p^2 q^2 (E[g+] - E[g-])^2,   q = 1 - p,

    with p the raw success rate of the pilots and g+, g- the gradient norms of right and wrong ones:
    prompts whose pilots were all right or all wrong get nothing.

    Ours, with the reason: no engine gives gradient norms before an update, so right and wrong
    rollouts count as equally large, which leaves sigma = sqrt(p q); `keep_total`, since the
    source's rounded sizes do not sum to the budget; equal groups where all of a step's prompts are
    at 0 or 1 (the source leaves such a batch out), so that a step has something to train on; and
    sizes are divided within the step, not within blocks of 64 prompts.

    Args:
        pilots: rollouts of each prompt at the start of an iteration, at least 2.
        iteration_steps: steps between two rounds of pilots.
        tau: temperature t of the weights. None takes the source's 100 * (1 + successes), which is
            close to uniform choice; 0.1 (the default of a parameter that its code does not use)
            makes a fair coin exp(5) times as likely as a hopeless prompt.
        right_above: reward in [0, 1] above which a rollout is right, 1 the highest seen.
        keep_total: spend exactly num_generations rollouts a prompt, by largest remainders; False
            rounds each size as the source does.

    Source: CurES [2510.01037; ZexuSun/CurES, V]; not checked against its figures.
    """

    name = "cures"
    summary = "pilots; then rollouts by sqrt(p(1-p)), none where all pilots went the same way"
    source = "CurES, arXiv 2510.01037"
    mark = "V"
    pays = "post"

    pilots: int = 4
    iteration_steps: int = 10
    tau: float | None = None
    right_above: float = 0.5
    keep_total: bool = True
    # Of the iteration's prompts: which, and whether they were trained on, shape (k,); and of their
    # pilots how many were right and how many scored, shape (k, 2).
    _ids: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids("_used", "_counts"),
    )
    _used: NDArray[np.bool_] = field(
        default_factory=lambda: np.empty(0, np.bool_), init=False, repr=False
    )
    _counts: Array = field(default_factory=lambda: np.empty((0, 2)), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(iteration_steps=self.iteration_steps)
        require(self.pilots >= 2, f"pilots is {self.pilots}; it must be at least 2")
        require(self.tau is None or self.tau > 0, f"tau is {self.tau}; it must be positive")
        require(
            0 <= self.right_above < 1,
            f"right_above is {self.right_above}; it must lie in [0, 1)",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        wanted = min(self.prompts_per_step, prompts.size)
        self._last = {}
        if np.count_nonzero(~self._used) < wanted:
            yield from self._start_iteration(prompts, ledger, wanted)
        left = np.flatnonzero(~self._used)
        chosen = left[draw_by_weight(self.log_weights(self._counts[left]), wanted, prompts.rng)]
        self._used[chosen] = True
        right, scored = self._counts[chosen].T
        rates = right / np.maximum(scored, 1)
        spread = np.sqrt(rates * (1 - rates))
        self._last["select/gradient_spread"] = float(spread.mean())
        groups = yield self.ask(self._ids[chosen], self.allocate(spread))
        return groups

    def _start_iteration(
        self, prompts: PromptStream, ledger: Ledger, wanted: int
    ) -> Generator[list[Request], Any, None]:
        """Roll out the pilots, in rounds about as large as a step."""
        ids = prompts.draw(min(wanted * self.iteration_steps, prompts.size)).copy()
        counts = np.zeros((len(ids), 2))  # another step in flight may begin an iteration too
        at_once = max(1, wanted * self.num_generations // self.pilots)
        for start in range(0, len(ids), at_once):
            groups: list[Group] = yield requests_for(ids[start : start + at_once], self.pilots)
            for place, group in enumerate(groups, start):
                outcomes = to_unit(group.scored, ledger)
                right = np.count_nonzero(outcomes > self.right_above)
                counts[place] = right, outcomes.size
        self._ids, self._counts = ids, counts
        self._used = np.zeros(len(ids), dtype=np.bool_)
        self._last["select/pilots"] = float(len(ids) * self.pilots)

    def log_weights(self, counts: Array) -> Array:
        """sqrt(d (1 - d)) / t of prompts with so many right of so many rollouts, shape (k,).

        Args:
            counts: shape (k, 2).
        """
        right, scored = counts.T
        d = (right + 1) / (scored + 2)
        return np.sqrt(d * (1 - d)) / (100 * (right + 1) if self.tau is None else self.tau)

    def allocate(self, spread: Array) -> Counts:
        """Rollouts of each prompt in proportion to its gradient's spread, 0 where that is 0.

        Args:
            spread: sigma, shape (m,).
        """
        budget, some = len(spread) * self.num_generations, spread > 0
        if not some.any():
            return np.full(len(spread), self.num_generations, dtype=np.int64)
        counts = np.zeros(len(spread), dtype=np.int64)
        if not self.keep_total:
            counts[some] = np.round(budget * spread[some] / spread.sum())
            return np.minimum(counts, self.bounds[1])
        taken = min(budget, int(some.sum()) * self.bounds[1])
        low = min(self.bounds[0], taken // int(some.sum()))
        counts[some] = proportional_allocation(spread[some], taken, low, self.bounds[1])
        return counts

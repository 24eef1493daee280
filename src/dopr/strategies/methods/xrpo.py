"""XRPO's allocation: rollouts where they narrow what is known of a prompt's mean the most."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, Request, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for

Array = NDArray[np.float64]
BONUSES = ("linear", "root")


@dataclass
class XRPO(Strategy):
    """A uniform phase, then the rest of the budget by how much one more rollout would tell.

    With n rollouts of standard deviation s a prompt's mean is known to within

        h(n) = t(1 - alpha / 2; n - 1) s / sqrt(n),

    t the quantile of Student's distribution; one more is worth h(n) - h(n + 1) at the same s plus a
    bonus lambda log(1 + T) / n, T the rollouts of the step so far. In each later phase rollouts go
    one by one to the prompt of highest worth, and then s is measured anew.

    The allocation alone: the source also shows solved examples to prompts that were all wrong and
    weighs right answers by their novelty.

    Args:
        prompts_per_step: B; num_generations rollouts a prompt altogether.
        base: rollouts of each prompt in the uniform phase, at least 2. None takes half of
            num_generations.
        phases: later phases, which share the rest evenly; the source has two.
        bonus: lambda.
        bonus_form: `linear`, as above, or `root`, lambda sqrt(log(1 + T) / n): what is known of the
            source disagrees.
        confidence: 1 - alpha.

    Source: XRPO [2510.06672, T]: a review and third parties' descriptions, from which base, bonus
    and confidence are as well; its code and last version were not to be had.
    """

    name = "xrpo"
    summary = "a uniform phase, then rollouts where they narrow the interval of the mean most"
    source = "XRPO (allocation only), arXiv 2510.06672"
    mark = "T"
    pays = "post"

    prompts_per_step: int = 8
    base: int | None = None
    phases: int = 2
    bonus: float = 0.1
    bonus_form: Literal["linear", "root"] = "linear"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, phases=self.phases)
        require(
            self.base is None or self.base >= 2,
            f"base is {self.base}; it must be at least 2, since one rollout has no spread",
        )
        require(self.bonus >= 0, f"bonus is {self.bonus}; it must not be negative")
        require(0 < self.confidence < 1, f"confidence is {self.confidence}; it must lie in (0, 1)")
        if self.bonus_form not in BONUSES:
            raise unknown_name("form of the bonus", str(self.bonus_form), BONUSES)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size)).tolist()
        usual = max(2, self.num_generations // 2) if self.base is None else self.base
        size = min(usual, self.num_generations)
        groups: list[Group] = yield requests_for(chosen, size)
        pooled = {group.prompt_id: group for group in groups}
        left = len(chosen) * (self.num_generations - size)
        for phase in range(self.phases):
            portion = left // (self.phases - phase)
            counts = np.array([pooled[i].num_rollouts for i in chosen])
            stds = np.array([spread(pooled[i], ledger) for i in chosen])
            more = self.divide(counts, stds, portion)
            asked = [Request(i, int(n)) for i, n in zip(chosen, more, strict=True) if n]
            if asked:
                for group in (yield asked):
                    pooled[group.prompt_id] = pooled[group.prompt_id].join(group)
            left -= portion
        sizes = [pooled[i].num_rollouts for i in chosen]
        self._last = {
            "select/largest_group": float(max(sizes)),
            "select/smallest_group": float(min(sizes)),
        }
        return [pooled[i] for i in chosen]

    def divide(self, counts: NDArray[np.int64], stds: Array, portion: int) -> NDArray[np.int64]:
        """Further rollouts of each prompt, one after the other to the highest worth.

        Args:
            counts: rollouts so far, shape (m,).
            stds: their standard deviations, shape (m,).
            portion: rollouts to give.
        """
        now = counts.copy()
        for _ in range(portion):
            now[int(np.argmax(self.worth(now, stds, int(now.sum()))))] += 1
        return now - counts

    def worth(self, counts: NDArray[np.int64], stds: Array, total: int) -> Array:
        """What one more rollout of each prompt is worth, shape (m,).

        Args:
            counts: rollouts so far, shape (m,).
            stds: their standard deviations, shape (m,).
            total: T.
        """
        narrowed = self.half_width(counts, stds) - self.half_width(counts + 1, stds)
        share = np.log1p(total) / np.maximum(counts, 1)
        return narrowed + self.bonus * (share if self.bonus_form == "linear" else np.sqrt(share))

    def half_width(self, counts: NDArray[np.int64], stds: Array) -> Array:
        """h of each prompt, shape (m,); a single rollout is taken for two."""
        n = np.maximum(counts, 2)
        quantiles = [student_quantile(k - 1, self.confidence) for k in n.tolist()]
        return np.array(quantiles) * stds / np.sqrt(n)


@lru_cache(maxsize=4096)
def student_quantile(freedom: int, confidence: float) -> float:
    """The t for which Student's distribution has so much of its mass between -t and t.

    By halving the angle atan(t / sqrt(freedom)), in which the mass is a finite sum [Abramowitz and
    Stegun 26.7.3, 26.7.4].
    """
    low, high = 0.0, np.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _mass(angle, freedom) < confidence else (low, angle)
    return float(np.sqrt(freedom) * np.tan(low))


def _mass(angle: float, freedom: int) -> float:
    cosine = np.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    if odd:
        return float(2 / np.pi * (angle + np.sin(angle) * total))
    return float(np.sin(angle) * total)


def spread(group: Group, ledger: Ledger) -> float:
    """Standard deviation of the group's rewards in [0, 1], with n - 1; 0 for fewer than two."""
    outcomes = to_unit(group.scored, ledger)
    return float(outcomes.std(ddof=1)) if outcomes.size > 1 else 0.0

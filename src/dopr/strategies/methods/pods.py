"""Generate many rollouts of a prompt, train on the few whose rewards differ most."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, requests_for


def max_variance_subset(rewards: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` rewards of highest variance, ascending, shape (count,).

    Some such subset always consists of the highest and the lowest rewards, so only the number taken
    from the top is searched. Source: PODS [2504.13818, V].

    Args:
        rewards: shape (n,), all scored.
        count: how many to keep; all where n is not larger.
    """
    if count >= len(rewards):
        return np.arange(len(rewards))
    order = np.argsort(-rewards, kind="stable")
    # Row t of sums: those of the t highest and the count - t lowest. Rewards are centred first, so
    # that the difference of squares loses no digits.
    ranked = rewards[order] - rewards.mean()
    sums = _ends(ranked, count)
    variances = _ends(np.square(ranked), count) / count - np.square(sums / count)
    top = int(np.argmax(np.round(variances, 12)))
    return np.sort(np.concatenate([order[:top], order[len(order) - (count - top) :]]))


def _ends(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sums of the t first and count - t last values for t = 0 ... count, shape (count + 1,)."""
    totals = np.concatenate([[0.0], np.cumsum(values)])
    tops = np.arange(count + 1)
    return totals[tops] + totals[-1] - totals[len(values) - (count - tops)]


@dataclass
class PODS(Strategy):
    """Max-variance down-sampling: num_generations rollouts, `keep` of them trained on.

    It saves updates, not rollouts. Advantages are those of the rollouts kept among themselves:
    their mean is the baseline and their standard deviation (with m - 1) the scale.

    Args:
        prompts_per_step: prompts in a step.
        keep: m, rollouts of a prompt to train on, at least 2. None takes a quarter of
            num_generations (16 of 64 in the source), at least 2.

    Source: PODS [2504.13818; YixuanEvenXu/pods, V], which has 16 to 512 rollouts a prompt.
    """

    name = "pods"
    summary = "generate many rollouts, train on those of highest reward variance"
    source = "PODS, arXiv 2504.13818"
    mark = "V"
    pays = "post"

    prompts_per_step: int = 8
    keep: int | None = None

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step)
        require(
            self.keep is None or self.keep >= 2,
            f"keep is {self.keep}; it must be at least 2, since a single rollout has no variance",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size))
        groups = yield requests_for(chosen, self.num_generations)
        kept = [self.downsample(group) for group in groups]
        self._last = {
            "select/kept_share": sum(group.num_kept for group in kept)
            / max(1, sum(group.num_rollouts for group in kept))
        }
        return kept

    def downsample(self, group: Group) -> Group:
        """The group with the rollouts to train on; unscored ones only where nothing was scored."""
        count = max(2, self.num_generations // 4) if self.keep is None else self.keep
        scored = np.flatnonzero(~np.isnan(group.rewards))
        if not scored.size:
            return group.keep(np.arange(min(count, group.num_rollouts)))
        kept = scored[max_variance_subset(group.rewards[scored], count)]
        rewards = group.rewards[kept]
        std = float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
        return replace(group.keep(kept), baseline=float(rewards.mean()), std=std)

"""VIP: a Gaussian process predicts success, and rollouts go where they cut gradient variance."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, no_prompts
from dopr.core.strategy import Group, Measure, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.allocation import UnequalGroups, greedy_allocation
from dopr.strategies.parts.gaussian_process import posterior

Array = NDArray[np.float64]
ESTIMATORS = ("dr_grpo", "rloo")


@dataclass
class VIP(UnequalGroups):
    """Unequal groups that minimise the variance of the step's gradient.

    A Gaussian process on the prompts' embeddings predicts each success rate p from the groups of
    the last prompts rolled out. With n rollouts a prompt's gradient has a variance in proportion to

        p (1 - p) (n - 1) / n^2   (`dr_grpo`, convex from 3 rollouts on)
        p (1 - p) / (n - 1)       (`rloo`)

    and the budget, num_generations rollouts a prompt, is divided to minimise their sum. The source
    solves the relaxation to real numbers and rounds; a sum of convex terms is minimised over whole
    numbers by dealing rollouts out one by one, so that is done here.

    What the source leaves open or is not known of it: kernel, noise and memory. Ours regress on
    the mean rewards directly: squared exponential kernel, the prior's mean that of the remembered
    prompts, and a group of n rollouts observed with variance c (1 - c) / n around it, c that mean.

    Args:
        estimator: `dr_grpo` or `rloo`, the advantages that are trained on.
        memory: most recent prompts behind the prediction, each with its last group.
        length_scale: of the kernel, in units of the embeddings; None takes the median distance
            between the remembered prompts.
        signal_std: standard deviation of success rates over the pool that the prior expects.

    Source: VIP [2602.01601, S]; kernel, noise, memory I.
    """

    name = "vip"
    summary = "unequal groups of least gradient variance, success predicted from embeddings"
    source = "VIP, arXiv 2602.01601"
    mark = "S"
    measures = frozenset({"embedding"})

    min_rollouts: int = 3
    estimator: Literal["dr_grpo", "rloo"] = "dr_grpo"
    memory: int = 256
    length_scale: float | None = None
    signal_std: float = 0.3
    # Columns of the remembered groups, the newest last: ids, embeddings, rewards, counts.
    _seen: dict[str, Any] = field(
        default_factory=dict, init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator not in ESTIMATORS:
            raise unknown_name("gradient estimator", str(self.estimator), ESTIMATORS)
        fewest = 3 if self.estimator == "dr_grpo" else 2
        require(
            self.min_rollouts >= fewest,
            f"min_rollouts is {self.min_rollouts}; {self.estimator} needs at least {fewest}",
        )
        require(self.memory >= 1, f"memory is {self.memory}; it must be at least 1")
        require(
            self.length_scale is None or self.length_scale > 0,
            f"length_scale is {self.length_scale}; it must be positive",
        )
        require(self.signal_std > 0, f"signal_std is {self.signal_std}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        ids = prompts.draw(min(self.prompts_per_step, prompts.size))
        measured = yield Measure(tuple(ids.tolist()), "embedding")
        embeddings = np.asarray(measured, dtype=np.float64).reshape(len(ids), -1)
        embeddings = np.nan_to_num(embeddings, nan=0.0, posinf=0.0, neginf=0.0)
        rates = self.predict(embeddings, ledger)
        low, high = self.bounds
        values = -self.variances(rates, np.arange(low, high + 1))
        counts = greedy_allocation(values, len(ids) * self.num_generations, low)
        self._last = {"select/predicted_success": float(rates.mean())}
        groups = yield self.ask(ids, counts)
        self._remember(ids, embeddings, groups)
        return groups

    def variances(self, rates: Array, counts: NDArray[np.int64]) -> Array:
        """Gradient variance of every number of rollouts, shape (len(rates), len(counts))."""
        n = counts.astype(np.float64)
        if self.estimator == "dr_grpo":
            factor = (n - 1) / np.square(n)
        else:
            factor = 1 / np.maximum(n - 1, 0.5)  # one rollout alone: worse than two, yet finite
        return np.outer(rates * (1 - rates), factor)

    def predict(self, embeddings: Array, ledger: Ledger) -> Array:
        """Predicted success rates in [0, 1], shape (k,), of prompts with these embeddings.

        Args:
            embeddings: shape (k, width).
        """
        if not self._seen:
            return np.full(len(embeddings), 0.5)
        known = self._seen["embeddings"].astype(np.float64)
        rates = to_unit(self._seen["rewards"], ledger)
        center = float(rates.mean())
        usual = min(max(center, 0.05), 0.95)  # a pool that looks solved may still surprise
        noise = usual * (1 - usual) / self._seen["counts"]
        squared = None if self.length_scale is None else self.length_scale**2
        found, _ = posterior(embeddings, known, rates, noise, center, self.signal_std, squared)
        return np.clip(found, 0.0, 1.0)

    def _remember(self, ids: NDArray[np.int64], embeddings: Array, groups: list[Group]) -> None:
        """Keep the newest observation of each prompt, the `memory` most recent prompts in all."""
        rows = {int(prompt): row for row, prompt in enumerate(ids)}
        fresh = [group for group in groups if group.scored.size]
        if not fresh:
            return
        new: dict[str, Any] = {
            "ids": np.array([group.prompt_id for group in fresh], dtype=np.int64),
            "embeddings": embeddings[[rows[g.prompt_id] for g in fresh]].astype(np.float32),
            "rewards": np.array([group.mean for group in fresh]),
            "counts": np.array([group.scored.size for group in fresh], dtype=np.float64),
        }
        if self._seen:
            kept = ~np.isin(self._seen["ids"], new["ids"])
            new = {key: np.concatenate([self._seen[key][kept], new[key]]) for key in new}
        self._seen = {key: column[-self.memory :] for key, column in new.items()}

    def move(self, moves: Moves) -> None:
        """Follow the prompts to other rows, and forget those that are gone."""
        super().move(moves)
        if self._seen:
            ids, there = moves.ids(self._seen["ids"])
            self._seen = {key: column[there] for key, column in self._seen.items()} | {"ids": ids}
            self._seen = self._seen if len(ids) else {}

"""A value head on prompt embeddings predicts success rates; those nearest to one half are taken."""

from dataclasses import dataclass

import numpy as np

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, in_unit_interval, nearest, requests_for
from dopr.strategies.parts.prediction import (
    Array,
    EmbeddingStrategy,
    RecentRewards,
    fit_linear_head,
)


@dataclass
class PCL(EmbeddingStrategy, RecentRewards):
    """Of 4B candidates take the B whose predicted success rate is nearest to the target.

    The head is fitted anew each step, by ridge regression of the mean rewards of the prompts rolled
    out last on their standardised embeddings. Before the first rollout all candidates tie.

    Args:
        prompts_per_step: B.
        candidates_factor: candidates for each prompt taken.
        target: success rate to be near to.
        window: prompts rolled out last that the head is fitted to, each with its last mean reward;
            older ones tell of an older policy.
        penalty: ridge penalty, the noise variance of a group's mean over the variance of success
            rates between prompts (about 0.03 over 0.1 for groups of 8).

    Source: PCL [2510.01135, T]: a third party's note. There the value model is a language model
    trained along with the policy, one step behind it; a linear head on the policy's own embeddings,
    its window and its penalty are ours.
    """

    name = "pcl"
    summary = "a value head on prompt embeddings, the prompts predicted nearest to one half"
    source = "PCL, arXiv 2510.01135"
    mark = "T"

    prompts_per_step: int = 8
    candidates_factor: int = 4
    target: float = 0.5
    penalty: float = 0.3

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step,
            candidates_factor=self.candidates_factor,
            window=self.window,
        )
        in_unit_interval(target=self.target)
        require(self.penalty > 0, f"penalty is {self.penalty}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        count = self.candidates_factor * self.prompts_per_step
        candidates = prompts.draw(min(count, prompts.size))
        features = yield from self.embed(prompts, np.concatenate([candidates, self._seen]))
        predicted = self._predict(features, len(candidates), ledger)
        chosen = nearest(predicted, self.target, self.prompts_per_step, prompts.rng)
        groups = yield requests_for(candidates[chosen], self.num_generations)
        self.remember(groups)
        observed = to_unit([group.mean for group in groups], ledger)
        error = np.abs(observed - predicted[chosen])
        self._last = {"select/predicted_success": float(predicted[chosen].mean())}
        if not np.isnan(error).all():
            self._last["select/prediction_error"] = float(np.nanmean(error))
        return groups

    def _predict(self, features: Array, num_candidates: int, ledger: Ledger) -> Array:
        """Predicted success rates of the candidates, whose features come first."""
        if not len(self._seen):
            return np.full(num_candidates, 0.5)
        targets = to_unit(self._rewards, ledger)
        head = fit_linear_head(features[num_candidates:], targets, self.penalty)
        return head.predict(features[:num_candidates])

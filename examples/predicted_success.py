"""An own strategy that guesses a prompt's success rate before its first rollout."""

from dataclasses import dataclass, field

import numpy as np

from dopr import Ledger, Measure, PromptStream, Request, StepPlan, Strategy
from dopr.runs.reward_model import SuccessPredictor


@dataclass
class PredictedHalf(Strategy):
    """Roll out the candidates whose success rate is nearest to one half, predicted and seen."""

    name = "predicted-half"
    summary = "of the candidates, those predicted to be solved about half of the time"
    measures = frozenset({"embedding"})

    predictor: str = "runs/predictor"
    prior_rollouts: float = 4.0  # how many rollouts the prediction is worth
    candidates: int = 64
    prompts_per_step: int = 4
    # Saved with the run: the policy moves, so a prompt measured again would be predicted otherwise.
    _predicted: np.ndarray = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if len(self._predicted) != prompts.size:
            self._predicted = np.full(prompts.size, np.nan)
        ids = prompts.draw(min(self.candidates, prompts.size))
        unknown = ids[np.isnan(self._predicted[ids])]
        if unknown.size:
            embeddings = yield Measure(tuple(unknown.tolist()), "embedding")
            self._predicted[unknown] = SuccessPredictor(self.predictor).rates(embeddings)
        seen = np.where(ledger.visits[ids] > 0, ledger.weight[ids], 0.0)
        known = self.prior_rollouts * self._predicted[ids] + seen * np.nan_to_num(ledger.mean[ids])
        distance = np.abs(known / (self.prior_rollouts + seen) - 0.5)
        nearest = np.argsort(distance, kind="stable")[: self.prompts_per_step]
        groups = yield [Request(int(i), self.num_generations) for i in ids[nearest]]
        return [group for group in groups if group.informative] or groups

"""Thompson sampling of success rates: predict each prompt's difficulty without a rollout."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import StepPlan, Strategy
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, in_unit_interval, nearest, requests_for
from dopr.strategies.parts.posterior import sized, update_posterior


@dataclass
class MoPPS(Strategy):
    """A Beta posterior per prompt; the candidates whose draw is nearest to the target are taken.

    Args:
        prompts_per_step: B.
        candidates_factor: candidates drawn for each prompt taken (16 in the official scripts for
            mathematics, 8 for Countdown and geometry).
        decay: lambda in [0, 1], how past outcomes fade towards the prior at each visit: 1 forgets
            nothing, 0.5 suits a policy that moves fast.
        target: success rate to be near to.

    Source: MoPPS [2507.04632; thu-rllab/MoPPS, V]: Beta(1, 1), and counts of rollouts. Here a
    reward of u in [0, 1] counts as u of a success.
    """

    name = "mopps"
    summary = "Thompson draws of success rates, the prompts nearest to one half"
    source = "MoPPS, arXiv 2507.04632"
    mark = "V"

    prompts_per_step: int = 8
    candidates_factor: int = 16
    decay: float = 1.0
    target: float = 0.5
    _counts: NDArray[np.float64] = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=per_prompt(1)
    )

    def __post_init__(self) -> None:
        at_least_one(
            prompts_per_step=self.prompts_per_step, candidates_factor=self.candidates_factor
        )
        in_unit_interval(decay=self.decay, target=self.target)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        self._counts = sized(self._counts, prompts.size, 1.0)
        count = self.candidates_factor * self.prompts_per_step
        candidates = prompts.draw(min(count, prompts.size))
        alpha, beta = self._counts[candidates].T
        drawn = prompts.rng.beta(alpha, beta)
        chosen = nearest(drawn, self.target, self.prompts_per_step, prompts.rng)
        expected = (alpha / (alpha + beta))[chosen]
        self._last = {
            "select/drawn_success": float(drawn[chosen].mean()),
            "select/expected_success": float(expected.mean()),
        }
        groups = yield requests_for(candidates[chosen], self.num_generations)
        for group in groups:
            update_posterior(self._counts, group, ledger, self.decay)
        return groups

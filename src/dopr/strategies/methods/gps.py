"""GPS, reconstructed: predicted success rates over the whole pool, and a diverse batch."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    requests_for,
    withheld_ids,
)
from dopr.strategies.parts.prediction import PoolEmbeddings, RecentRewards, fit_linear_head

Array = NDArray[np.float64]


@dataclass
class GPS(PoolEmbeddings, RecentRewards):
    """Prompts of medium predicted success that differ from each other and from the step before.

    A batch maximises the sum of -(p - target)^2 plus `diversity` times its dispersion inside and
    its distance to the batch before, greedily over the whole pool; p is predicted from the
    history of all prompts, so that like ones share it.

    Reconstructed: neither the paper nor its code could be read, only a note on it. Its predictor, a
    Transformer of 20M parameters with a latent state of the policy, is here a ridge regression on
    the last prompts rolled out; its embeddings (WordLlama) are the policy's own; the weight and the
    distances (half the Euclidean one between embeddings of unit length) are ours. Its figures are
    no measure of this.

    Args:
        prompts_per_step: B.
        target: success rate to be near to.
        diversity: lambda, per prompt.
        window: prompts rolled out last that the prediction rests on.
        penalty: of the ridge, see `fit_linear_head`.

    Source: GPS [2602.01970, S], reconstructed [I].
    """

    name = "gps"
    summary = "predicted success nearest to one half, in a batch that is diverse (reconstructed)"
    source = "GPS, arXiv 2602.01970, reconstructed"
    mark = "I"

    prompts_per_step: int = 8
    target: float = 0.5
    diversity: float = 0.05
    penalty: float = 0.3
    _before: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids(),
    )

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, window=self.window)
        in_unit_interval(target=self.target)
        require(self.diversity >= 0, f"diversity is {self.diversity}; it must not be negative")
        require(self.penalty > 0, f"penalty is {self.penalty}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        yield from self.embed_pool(prompts)
        rates = self.predict(ledger)
        wanted = min(self.prompts_per_step, prompts.size)
        chosen = self.choose(rates, wanted, prompts.rng, withheld_ids(prompts, wanted))
        self._last = {"select/predicted_success": float(rates[chosen].mean())}
        self._before = chosen
        groups = yield requests_for(chosen, self.num_generations)
        self.remember(groups)
        return groups

    def predict(self, ledger: Ledger) -> Array:
        """Predicted success rates of the whole pool, shape (size,); 1/2 before any was seen."""
        if not len(self._seen):
            return np.full(len(self._embeddings), 0.5)
        features = self._embeddings.astype(np.float64)
        features = features * np.sqrt(features.shape[1])  # a mean square of 1, as standardised
        head = fit_linear_head(features[self._seen], to_unit(self._rewards, ledger), self.penalty)
        return head.predict(features)

    def choose(
        self,
        rates: Array,
        count: int,
        rng: np.random.Generator,
        withheld: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """A batch, one prompt after the other, shape (count,); ties fall by `rng`.

        Args:
            rates: predicted, shape (size,).
            count: prompts wanted, at most the pool's size.
            rng: the stream's generator.
            withheld: prompts to leave out, see `withheld_ids`.
        """
        worth = -np.square(rates - self.target) + 1e-9 * rng.random(len(rates))
        if len(self._before):
            worth = worth + self.diversity * self._distances(self._before).mean(axis=1)
        if withheld is not None:
            worth[withheld] = -np.inf
        inside, chosen = np.zeros(len(rates)), np.empty(0, np.int64)
        for taken in range(count):
            score = worth + self.diversity * inside / max(taken, 1)
            score[chosen] = -np.inf
            best = int(np.argmax(score))
            chosen = np.append(chosen, best)
            inside = inside + self._distances(chosen[-1:])[:, 0]
        return chosen

    def _distances(self, ids: NDArray[np.int64]) -> Array:
        """Half the distance of every prompt to these, in [0, 1], shape (size, k)."""
        cosines = self._embeddings.astype(np.float64) @ self._embeddings[ids].T.astype(np.float64)
        return np.sqrt(np.maximum(2 - 2 * cosines, 0)) / 2

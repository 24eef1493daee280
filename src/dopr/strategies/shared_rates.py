"""Success rates as they are now, of prompts seen and unseen: what was seen of a prompt, faded by
age, shrunk to what like prompts did lately.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.ledger import Ledger
from dopr.strategies.base import Group
from dopr.strategies.gaussian_process import posterior_mean
from dopr.strategies.prediction import EmbeddingStrategy
from dopr.strategies.success import to_unit

Array = NDArray[np.float64]


@dataclass
class SharedRates(EmbeddingStrategy):
    """Base of strategies that estimate success rates with the help of like prompts.

    Let prompt i have been rolled out last a steps ago, with discounted mean reward m_i in [0, 1]
    from w_i rewards (the ledger's). Its success rate now is estimated as

        p_i = (u_i m_i + k c_i) / (u_i + k),  u_i = w_i exp(-a / patience)

    where c_i is predicted from the last groups of any prompts: Gaussian process regression on the
    prompts' embeddings, a group of n rewards observed with variance v exp(a / patience) / n. Where
    the driver gives no embeddings, c_i is the mean of these groups, weighted in the same way.

    Args:
        patience: steps after which what was seen counts 1/e.
        prior_rollouts: k, how many rollouts the prediction is worth.
        memory: groups behind the prediction, the newest ones.

    Source: ours; empirical Bayes with a Gaussian process, as VIP [2602.01601, S] uses one.
    """

    measures = frozenset()
    may_measure = frozenset({"embedding"})

    patience: float = 30.0
    prior_rollouts: float = 4.0
    memory: int = 256
    # Newest last: prompt, mean reward, rewards, step.
    _ids: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), init=False, repr=False
    )
    _means: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    _counts: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    _steps: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    # Standard deviation of success rates over a pool: solved and hopeless prompts are 1 apart.
    signal_std: float = 0.35

    def remember(self, groups: list[Group]) -> None:
        """Keep finished groups for the prediction."""
        scored = [group for group in groups if group.scored.size]
        new = {
            "_ids": np.array([group.prompt_id for group in scored], dtype=np.int64),
            "_means": np.array([group.mean for group in scored], dtype=np.float64),
            "_counts": np.array([group.scored.size for group in scored], dtype=np.float64),
            "_steps": np.array([group.step for group in scored], dtype=np.float64),
        }
        for name, values in new.items():
            setattr(self, name, np.concatenate([getattr(self, name), values])[-self.memory :])

    def success_now(
        self, ids: NDArray[np.int64], embeddings: Array | None, ledger: Ledger
    ) -> Array:
        """Estimated success rates in [0, 1], shape (k,).

        Args:
            ids: shape (k,).
            embeddings: of the remembered prompts followed by those of `ids`, shape (n + k, width),
                or None.
            ledger: what is known.
        """
        predicted = self._predict(len(ids), embeddings, ledger)
        age = ledger.step - ledger.last_step[ids]
        weight = ledger.weight[ids] * np.exp(-age / self.patience)
        weight = np.where(ledger.visits[ids] > 0, weight, 0.0)
        own = to_unit(ledger.mean[ids], ledger)
        return (weight * own + self.prior_rollouts * predicted) / (weight + self.prior_rollouts)

    def _predict(self, count: int, embeddings: Array | None, ledger: Ledger) -> Array:
        if not len(self._ids):
            return np.full(count, 0.5)
        rates = to_unit(self._means, ledger)
        # Half a success and half a failure more: eight of eight right is no certainty.
        smoothed = (rates * self._counts + 0.5) / (self._counts + 1)
        faded = np.exp(np.minimum((ledger.step - self._steps) / self.patience, 30.0))
        noise = smoothed * (1 - smoothed) / self._counts * faded
        # One imaginary fair coin: the first group alone must not decide for the whole pool.
        weights = self._counts / faded
        center = (float(weights @ rates) + 0.5) / (float(weights.sum()) + 1)
        if embeddings is None:
            return np.full(count, center)
        known, asked = embeddings[: len(rates)], embeddings[len(rates) :]
        found = posterior_mean(asked, known, rates, noise, center, self.signal_std)
        return np.clip(found, 0.0, 1.0)

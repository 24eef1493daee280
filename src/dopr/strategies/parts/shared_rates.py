"""Success rates as they are now, of prompts seen and unseen: what was seen of a prompt, faded by
age, shrunk to what like prompts did lately.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import Group, require
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.gaussian_process import posterior
from dopr.strategies.parts.prediction import EmbeddingStrategy

Array = NDArray[np.float64]


# Where patience is found from the data: what to begin with (steps), its weight in prompts met
# again, and how far back that goes.
FIRST_PATIENCE, FIRST_WEIGHT, KEEP_DRIFT = 30.0, 8.0, 0.99

# Bounds of what a prediction may be worth, in rollouts: never nothing, never beyond doubt.
FEWEST, MOST = 0.25, 32.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knew of some prompts; arrays of shape (k,).

    Attributes:
        ids: the prompts.
        mean: mean reward in [0, 1].
        weight: rewards behind it, 0 for a prompt never visited.
        age: steps since.
    """

    ids: NDArray[np.int64]
    mean: Array
    weight: Array
    age: Array

    @classmethod
    def of(cls, ids: NDArray[np.int64], ledger: Ledger) -> "Known":
        """What is known of the prompts `ids`, of shape (k,), now."""
        weight = np.where(ledger.visits[ids] > 0, ledger.weight[ids], 0.0)
        age = np.asarray(ledger.step - ledger.last_step[ids], dtype=np.float64)
        return cls(ids, to_unit(ledger.mean[ids], ledger), weight, age)


@dataclass(frozen=True, slots=True)
class Rates:
    """Beta posteriors over success rates, alpha and beta of shape (k,)."""

    alpha: Array
    beta: Array

    @property
    def mean(self) -> Array:
        """Expected success rate p, in [0, 1]."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def volatility(self) -> Array:
        """Expected 4 p (1 - p): 1 for a prompt known to be a fair coin, less where p is unsure."""
        total = self.alpha + self.beta
        return 4 * self.alpha * self.beta / (total * (total + 1))


@dataclass
class SharedRates(EmbeddingStrategy):
    """Base of strategies that estimate success rates with the help of like prompts.

    Let prompt i have been rolled out last a steps ago, with discounted mean reward m_i in [0, 1]
    from w_i rewards (the ledger's). Its success rate now has the posterior

        Beta(k c + u m, k (1 - c) + u (1 - m)),  u = w exp(-a / patience),  k = c (1 - c) / s^2 - 1

    where c and s^2, mean and variance of the prediction, come from the newest groups of the prompts
    rolled out last: Gaussian process regression on their embeddings, a group of n rewards observed
    with variance v exp(a / patience) / n. A sure prediction is worth many rollouts, an unsure one
    few. Where the driver gives no embeddings, c and s^2 are mean and variance of these success
    rates over prompts.

    Args:
        patience: steps after which what was seen counts 1/e; None finds it from how far prompts
            that are met again have moved.
        prior_rollouts: k, how many rollouts the prediction is worth; None takes it from s^2.
        memory: prompts behind the prediction, those rolled out last.
        signal_std: spread of success rates over a pool that the regression expects.

    Source: ours; empirical Bayes with a Gaussian process, as VIP [2602.01601, V] uses one.
    """

    measures = frozenset()
    may_measure = frozenset({"embedding"})

    patience: float | None = None
    prior_rollouts: float | None = None
    memory: int = 256
    signal_std: float = 0.35
    # Newest last: prompt, mean reward, rewards, step.
    _ids: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids("_means", "_counts", "_steps"),
    )
    _means: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    _counts: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    _steps: Array = field(default_factory=lambda: np.empty(0), init=False, repr=False)
    # Sums over prompts met again: squared moves beyond chance, and what these would be at a
    # patience of one step.
    _moved: float = field(default=0.0, init=False, repr=False)
    _movable: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("patience", "prior_rollouts", "signal_std"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} is {value}; it must be positive")
        require(self.memory >= 1, f"memory is {self.memory}; it must be at least 1")

    def remember(self, groups: list[Group]) -> None:
        """Keep finished groups for the prediction, of each prompt the newest."""
        scored = {group.prompt_id: group for group in groups if group.scored.size}.values()
        new = {
            "_ids": np.array([group.prompt_id for group in scored], dtype=np.int64),
            "_means": np.array([group.mean for group in scored], dtype=np.float64),
            "_counts": np.array([group.scored.size for group in scored], dtype=np.float64),
            "_steps": np.array([group.step for group in scored], dtype=np.float64),
        }
        kept = ~np.isin(self._ids, new["_ids"])
        for name, values in new.items():
            known = np.concatenate([getattr(self, name)[kept], values])
            setattr(self, name, known[-self.memory :])

    @property
    def patience_now(self) -> float:
        """Steps after which what was seen counts 1/e, as given or as found so far."""
        if self.patience is not None:
            return self.patience
        first = FIRST_WEIGHT * 2 * self.signal_std**2
        moved = max(self._moved, 0.0) + first
        return (self._movable + first * FIRST_PATIENCE) / moved

    def watch_drift(self, groups: list[Group], before: "Known", ledger: Ledger) -> None:
        """Learn from prompts met again how fast success rates move.

        A rate that returns to the pool's mean within `patience` steps has moved after a steps by
        2 s^2 a / patience in the mean square (Ornstein-Uhlenbeck, a small against it), where s is
        the spread of the pool. What was seen differs by chance besides, which is taken off.

        Args:
            groups: finished ones.
            before: what was known of their prompts before.
            ledger: scale of the rewards.
        """
        for group in groups:
            place = np.flatnonzero(before.ids == group.prompt_id)
            if not group.scored.size or not place.size or before.weight[place[0]] <= 0:
                continue
            old, weight, age = (
                float(c[place[0]]) for c in (before.mean, before.weight, before.age)
            )
            new, count = float(to_unit(group.mean, ledger)), group.scored.size
            middle = (old * weight + new * count + 0.5) / (weight + count + 1)
            chance = middle * (1 - middle) * (1 / weight + 1 / count)
            self._moved = KEEP_DRIFT * self._moved + (new - old) ** 2 - chance
            self._movable = KEEP_DRIFT * self._movable + 2 * self.signal_std**2 * age

    def rates_now(self, ids: NDArray[np.int64], embeddings: Array | None, ledger: Ledger) -> Rates:
        """Posteriors of the success rates of prompts, ids of shape (k,).

        Args:
            ids: shape (k,).
            embeddings: of the remembered prompts followed by those of `ids`, shape (n + k, width),
                or None.
            ledger: what is known.
        """
        center, variance = self._predict(len(ids), embeddings, ledger)
        center = np.clip(center, 0.01, 0.99)
        if self.prior_rollouts is None:
            spread = center * (1 - center)
            worth = np.clip(spread / np.maximum(variance, 1e-9) - 1, FEWEST, MOST)
        else:
            worth = np.full(len(ids), self.prior_rollouts)
        known = Known.of(ids, ledger)
        weight, own = known.weight * np.exp(-known.age / self.patience_now), known.mean
        return Rates(worth * center + weight * own, worth * (1 - center) + weight * (1 - own))

    def _predict(self, count: int, embeddings: Array | None, ledger: Ledger) -> tuple[Array, Array]:
        """Mean and variance of the predicted success rates, both (count,)."""
        if not len(self._ids):
            return np.full(count, 0.5), np.full(count, self.signal_std**2)
        rates = to_unit(self._means, ledger)
        # Half a success and half a failure more: eight of eight right is no certainty.
        smoothed = (rates * self._counts + 0.5) / (self._counts + 1)
        sampling = smoothed * (1 - smoothed) / self._counts
        # One imaginary fair coin: the first group alone must not decide for the whole pool. Age
        # does not count here, or the pool would seem to consist of the prompts chosen lately.
        center = (float(rates.sum()) + 0.5) / (len(rates) + 1)
        if embeddings is None:
            # What the success rates vary beyond what their own sampling explains.
            beyond = float(np.square(rates - center).sum() - sampling.sum())
            variance = (max(beyond, 0.0) + self.signal_std**2) / (len(rates) + 1)
            return np.full(count, center), np.full(count, variance)
        faded = np.exp(np.minimum((ledger.step - self._steps) / self.patience_now, 30.0))
        known, asked = embeddings[: len(rates)], embeddings[len(rates) :]
        return posterior(asked, known, rates, sampling * faded, center, self.signal_std)

"""VIP: a Gaussian process predicts success, and rollouts go where they cut gradient variance."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.allocation import Counts, UnequalGroups
from dopr.strategies.parts.gaussian_process import carried_on
from dopr.strategies.parts.posterior import sized
from dopr.strategies.parts.prediction import PoolEmbeddings

Array = NDArray[np.float64]
ESTIMATORS = ("rloo", "grpo")
SOLVERS = ("slsqp", "exact")

RATE_EDGE = 1e-6  # success rates are clipped to so far from 0 and 1
HARDNESS = {"rloo": 7e-4, "grpo": 4e-4}
FEWEST = 4  # a prompt gets so many rollouts or none


@dataclass
class VIP(UnequalGroups, PoolEmbeddings):
    """Unequal groups that minimise the variance of the step's gradient.

    A Gaussian process on the prompts' embeddings predicts each success rate p (logit link, squared
    exponential kernel, no noise). After each step it is fitted to that step's prompts alone, with
    the former prediction as its prior mean; so the mean is carried on over the pool, the
    covariance is not. The budget, num_generations rollouts a prompt, minimises the sum of

        p (1 - p) / (n - 1) + c n ln p        (`rloo`, c = 7e-4; always the source's)
        p (1 - p) (n - 1) / n^2 + c n ln p    (`grpo`, c = 4e-4)

    over real n between the bounds (the second term favours hard prompts), is rounded down, and what
    is missing is dealt one by one. A prompt with fewer than 4 rollouts gets none: it is not trained
    on in this step. The first step is uniform.

    The source minimises by SLSQP at its usual tolerance, from equal groups; the sum is so flat that
    this often stops well before the minimum, and nearer to equal groups. `solver: exact` goes all
    the way. The source divides advantages by no standard deviation: set `scale_rewards: none`.
    Ours, with the reason: embeddings are the policy's own, since a run need not have a sentence
    model beside it; and where all predictions are alike and the budget is below 4 a prompt, what
    the source's units of 4 leave over goes to the last drawn, so that the budget is spent.

    Args:
        estimator: `rloo` or `grpo`.
        solver: `slsqp` (the source's; another SciPy may move a size by one) or `exact`, by the
            multiplier (for `grpo` from 3 rollouts on, where its term is convex), which also stands
            in where SciPy is not installed.
        length_scale: of the kernel, between embeddings of unit length.
        prior_mean: latent mean before anything is seen; -1 in the source's class.
        jitter: added to the kernel of the prompts fitted.
        centered: subtract the pool's mean embedding before scaling to unit length. Ours: hidden
            states of a language model all point one way, a sentence model's do not.

    Source: VIP [2602.01601; HieuNT91/VIP, src/vip and train/vip, V]: all-MiniLM-L6-v2 embeddings,
    the division, its rounding and the process; not checked against its figures.
    """

    name = "vip"
    summary = "unequal groups of least gradient variance, success predicted from embeddings"
    source = "VIP, arXiv 2602.01601"
    mark = "V"

    min_rollouts: int = 1
    max_rollouts: int = 32
    estimator: Literal["rloo", "grpo"] = "rloo"
    solver: Literal["slsqp", "exact"] = "slsqp"
    length_scale: float = 0.4
    prior_mean: float = -5.0
    jitter: float = 1e-4
    centered: bool = True
    # The carried latent mean of the whole pool, shape (size,).
    _latent: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=per_prompt(np.nan)
    )
    _fitted: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator not in ESTIMATORS:
            raise unknown_name("gradient estimator", str(self.estimator), ESTIMATORS)
        if self.solver not in SOLVERS:
            raise unknown_name("solver", str(self.solver), SOLVERS)
        for name in ("length_scale", "jitter"):
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}; it must be positive")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        yield from self.embed_pool(prompts, self.centered)
        known = sized(self._latent, prompts.size, np.nan)
        self._latent = np.where(np.isnan(known), self.prior_mean, known)
        ids = prompts.draw(min(self.prompts_per_step, prompts.size))
        rates = 1 / (1 + np.exp(-self._latent[ids]))
        counts = np.full(len(ids), self.num_generations, dtype=np.int64)
        if self._fitted:
            counts = self.allocate(rates, prompts.rng)
        self._last = {"select/predicted_success": float(rates.mean())}
        groups = yield self.ask(ids, counts)
        self._fit(groups, ledger)
        return groups

    def allocate(self, rates: Array, rng: np.random.Generator) -> Counts:
        """Rollouts of each prompt, shape (m,), summing to m * num_generations.

        Args:
            rates: predicted success rates, shape (m,).
            rng: where all rates are alike and the budget is below 4 a prompt, draws who gets 4.
        """
        rates = np.clip(rates, RATE_EDGE, 1 - RATE_EDGE)
        budget, (low, high) = len(rates) * self.num_generations, self.bounds
        if rates.std() < RATE_EDGE:
            if self.num_generations >= FEWEST:
                return np.full(len(rates), self.num_generations, dtype=np.int64)
            drawn = rng.integers(len(rates), size=max(1, budget // FEWEST))
            counts = FEWEST * np.bincount(drawn, minlength=len(rates)).astype(np.int64)
            counts[drawn[-1]] += budget - int(counts.sum())
            return counts
        relaxed = self.relaxed(rates, low, high)
        return rounded(relaxed, rates * (1 - rates), budget, high)

    def relaxed(self, rates: Array, low: int, high: int) -> Array:
        """The division over real numbers of rollouts, shape (m,).

        Args:
            rates: inside (0, 1), shape (m,).
            low, high: bounds of each.
        """
        if low == self.num_generations:
            return np.full(len(rates), float(low))
        variance = rates * (1 - rates)
        hardness = -HARDNESS[self.estimator] * np.log(rates)
        if self.solver == "exact":
            return self._exact(variance, hardness, low, high)
        return self._by_slsqp(variance, hardness, low, high)

    def _by_slsqp(self, variance: Array, hardness: Array, low: int, high: int) -> Array:
        try:
            from scipy.optimize import minimize  # takes a while, and only this needs it
        except ImportError:
            return self._exact(variance, hardness, low, high)
        budget = len(variance) * self.num_generations

        def total(n: Array) -> float:
            factor = 1 / (n - 1) if self.estimator == "rloo" else (n - 1) / np.square(n)
            return float((variance * factor - hardness * n).sum())

        with np.errstate(divide="ignore", invalid="ignore"):
            found = minimize(
                total,
                np.full(len(variance), float(self.num_generations)),
                method="SLSQP",
                bounds=[(low, high)] * len(variance),
                constraints={"type": "eq", "fun": lambda n: n.sum() - budget},
            ).x
        if not np.isfinite(found).all():
            return self._exact(variance, hardness, low, high)
        return np.clip(found, low, high)

    def _exact(self, variance: Array, hardness: Array, low: int, high: int) -> Array:
        budget = len(variance) * self.num_generations
        if self.estimator == "grpo":
            low = min(max(low, 3), self.num_generations)
        # The gain from one more falls in n, so where it equals a price is found by halving; and the
        # price at which the budget is spent likewise.
        cheap, dear = 0.0, float(hardness.max() + variance.max() * 1e6)
        for _ in range(100):
            price = (cheap + dear) / 2
            n = self._bought(price, variance, hardness, low, high)
            cheap, dear = (price, dear) if n.sum() > budget else (cheap, price)
        return self._bought(dear, variance, hardness, low, high)

    def _bought(self, price: float, variance: Array, hardness: Array, low: int, high: int) -> Array:
        """Rollouts whose gain is at least the price, between the bounds."""
        few, many = np.full(len(variance), float(low)), np.full(len(variance), float(high))
        for _ in range(50):
            n = (few + many) / 2
            fall = 1 / np.square(n - 1) if self.estimator == "rloo" else (n - 2) / n**3
            worth = variance * fall + hardness >= price
            few, many = np.where(worth, n, few), np.where(worth, many, n)
        return many

    def _fit(self, groups: list[Group], ledger: Ledger) -> None:
        """Condition the process on this step's success rates."""
        scored = [group for group in groups if group.scored.size]
        if not scored:
            return
        seen = np.array([group.prompt_id for group in scored], dtype=np.int64)
        rates = np.array([to_unit(group.scored, ledger).mean() for group in scored])
        rates = np.clip(rates, RATE_EDGE, 1 - RATE_EDGE)
        observed = np.log(rates / (1 - rates))
        self._latent = carried_on(
            self._latent, self._embeddings, seen, observed, self.length_scale, self.jitter
        )
        self._fitted = True


def rounded(relaxed: Array, variance: Array, budget: int, high: int) -> Counts:
    """Whole numbers of rollouts from real ones, summing to the budget; none between 0 and 4.

    Rounded down, below 4 to 0; what is missing goes one by one where the sum of
    a (n + 3) / (n + 4)^2 falls most; a prompt still below 4 then loses its own to the largest.

    Args:
        relaxed: shape (m,).
        variance: a = p (1 - p), shape (m,).
        budget: rollouts in all, at most m * high.
        high: most of one prompt.
    """
    counts = np.floor(relaxed + 1e-6).astype(np.int64)
    counts[counts < FEWEST] = 0
    while counts.sum() > budget:  # real numbers that sum to a little more
        counts[_last_best(counts.astype(float))] -= 1
    for _ in range(budget - int(counts.sum())):
        fall = variance * (_remaining(counts) - _remaining(counts + 1))
        counts[_last_best(np.where(counts < high, fall, -np.inf))] += 1
    few = counts < FEWEST
    freed = int(counts[few].sum())
    counts[few] = 0
    for _ in range(freed):
        counts[_last_best(np.where(counts < high, counts.astype(float), -np.inf))] += 1
    return counts


def _remaining(counts: Counts) -> Array:
    return (counts + 3) / np.square(counts + 4.0)


def _last_best(values: Array) -> int:
    """Position of the highest value, the last of equal ones."""
    return len(values) - 1 - int(np.argmax(values[::-1]))

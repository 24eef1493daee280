"""Success rates as they are now, of prompts seen and unseen: several forecasts, each weighed by how
well it has foretold what came out.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import no_prompts
from dopr.core.strategy import Group, require
from dopr.core.success_rates import reward_range, to_unit
from dopr.strategies.parts.answers import ANSWER_WORTH, ReferenceAnswers
from dopr.strategies.parts.fading import no_observations, observe, predict, whitening
from dopr.strategies.parts.features import PromptFeatures
from dopr.strategies.parts.one_thread import on_one_thread

Array = NDArray[np.float64]

# What a forecast starts from, and after how many steps it counts 1/e of what was seen of a prompt.
STARTS = ("coin", "pool", "pool at first", "like", "like at first")
ANSWER_STARTS = ("like its answer", "its answer")  # come last, where reference answers are read
MEMORIES = (8.0, 32.0, 128.0, math.inf)

KEEP_EVIDENCE = 0.98  # a step
KEEP_POOL = 1 - 1 / 256  # a group

# Sums of success rates follow the range of rewards where it becomes so many times as wide.
WIDER = 2.0

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# Bounds of what a start may be worth, in rollouts: never nothing, never beyond doubt.
FEWEST, MOST = 0.25, 32.0


@dataclass(frozen=True, slots=True)
class Forecasts:
    """Beta distributions of success rates, several for each prompt.

    Attributes:
        alpha, beta: shape (forecasts, k).
        weights: how much each is believed, shape (forecasts, k), columns of sum 1.
        inputs: what the regressions on likeness went by, shape (k, landmarks); None without any.
        answer_inputs: what that on reference answers went by; None without one.
    """

    alpha: Array
    beta: Array
    weights: Array
    inputs: Array | None = None
    answer_inputs: Array | None = None

    @property
    def mean(self) -> Array:
        """Expected success rate, in [0, 1], shape (k,)."""
        return np.asarray((self.weights * (self.alpha / (self.alpha + self.beta))).sum(axis=0))

    @property
    def volatility(self) -> Array:
        """Expected 4 p (1 - p), shape (k,): 1 for a prompt known to be a fair coin, less where p is
        unsure.
        """
        total = self.alpha + self.beta
        each = 4 * self.alpha * self.beta / (total * (total + 1))
        return np.asarray((self.weights * each).sum(axis=0))

    def of(self, positions: NDArray[np.int64]) -> "Forecasts":
        """Those of the prompts at some positions."""
        return Forecasts(
            self.alpha[:, positions],
            self.beta[:, positions],
            self.weights[:, positions],
            None if self.inputs is None else self.inputs[positions],
            None if self.answer_inputs is None else self.answer_inputs[positions],
        )


@dataclass
class SharedRates(PromptFeatures, ReferenceAnswers):
    """Base of strategies that forecast success rates with the help of other prompts.

    Let prompt i have been rolled out last a steps ago, with discounted mean reward m_i in [0, 1]
    from w_i rewards (the ledger's). A forecast of its success rate now is

        Beta(k c + u m, k (1 - c) + u (1 - m)),  u = w exp(-a / memory),  k = c (1 - c) / s^2 - 1

    for each memory of `MEMORIES` and each start (c, s^2) of `STARTS`: a fair coin (k = 2); mean and
    variance of the success rates seen lately, or of those of prompts seen for the first time; and
    the same two questions asked of like prompts alone, by Gaussian process regression on features
    of their embeddings. In the first, older groups fade. Where reference answers are read, two more
    ask what went like them, and take their likelihood itself for the rate. Each forecast is
    believed in proportion to the likelihood of what came out under it, which fades by
    `KEEP_EVIDENCE` a step, and apart for prompts seen and unseen: likeness that misleads is soon
    disbelieved.

    Args:
        signal_std: spread of success rates over a pool that is expected before any is seen.
        answers, reread: see `ReferenceAnswers`.

    Source: ours; empirical Bayes with a Gaussian process, as VIP [2602.01601, S] uses one.
    """

    signal_std: float = 0.35
    # Log-likelihood of each forecast, for prompts unseen and seen; shape (2, forecasts).
    _evidence: Array = field(
        default_factory=lambda: np.empty((2, 0)), init=False, repr=False, metadata=no_prompts()
    )
    # Groups, their success rates, the squares of these and the variances that rollouts alone give
    # them, faded and summed up: of all groups, and of prompts seen for the first time.
    _pool: Array = field(
        default_factory=lambda: np.zeros((2, 4)), init=False, repr=False, metadata=no_prompts()
    )
    # Sums of the two regressions, shape (2, landmarks, landmarks + 2), and what makes features'
    # likeness to the landmarks their input.
    _regressions: Array = field(
        default_factory=lambda: np.empty((2, 0, 2)), init=False, repr=False, metadata=no_prompts()
    )
    _whitening: Array = field(
        default_factory=lambda: np.empty((0, 0)), init=False, repr=False, metadata=no_prompts()
    )

    # Lowest and highest reward that the sums above are in units of.
    _range: Array = field(
        default_factory=lambda: np.full(2, np.nan), init=False, repr=False, metadata=no_prompts()
    )
    # Rewards, their sum and the sum of their squares, faded.
    _rewards: Array = field(
        default_factory=lambda: np.zeros(3), init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        ReferenceAnswers.__post_init__(self)
        require(self.signal_std > 0, f"signal_std is {self.signal_std}; it must be positive")

    def forecast(
        self,
        ids: NDArray[np.int64],
        features: Array | None,
        ledger: Ledger,
        said: Array | None = None,
    ) -> Forecasts:
        """Forecasts of the success rates of prompts.

        Args:
            ids: of the prompts, shape (k,).
            features: as of `read`.
            ledger: what is known.
            said: as of `read_answers`.
        """
        inputs = None if features is None else self._inputs(features)
        answer_inputs = None if said is None else self.answer_inputs(said)
        center, worth = self._starts(len(ids), inputs, said, answer_inputs)
        seen = ledger.visits[ids] > 0
        known = np.where(seen, ledger.weight[ids], 0.0)
        own = to_unit(ledger.mean[ids], ledger)
        age = (ledger.step - ledger.last_step[ids]).astype(np.float64)
        faded = known * np.exp(-age / np.array(MEMORIES)[:, None])  # (memories, k)
        alpha = (worth * center)[:, None] + faded * own  # (starts, memories, k)
        beta = (worth * (1 - center))[:, None] + faded * (1 - own)
        alpha, beta = alpha.reshape(-1, len(ids)), beta.reshape(-1, len(ids))
        if self._evidence.shape[1] != len(alpha):
            self._evidence = np.zeros((2, len(alpha)))
        weights = self._beliefs()[seen.astype(np.int64)].T
        return Forecasts(alpha, beta, weights, inputs, answer_inputs)

    def _beliefs(self) -> Array:
        """Weights of the forecasts, for prompts unseen and seen, shape (2, forecasts)."""
        likely = np.exp(self._evidence - self._evidence.max(axis=1, keepdims=True))
        return np.asarray(likely / likely.sum(axis=1, keepdims=True))

    @property
    def independence(self) -> float:
        """How far prompts seem not to help each other, in [0, 1].

        The belief that prompts met for the first time go as such prompts did before, whatever was
        trained on since.
        """
        if not self._evidence.shape[1]:
            return 0.0
        starts = self._beliefs()[0].reshape(-1, len(MEMORIES)).sum(axis=1)
        if self.answers:
            starts = starts[: -len(ANSWER_STARTS)]
        return float(starts[2::2].sum())

    @property
    def mean_at_first(self) -> float:
        """Mean success rate of prompts that were met for the first time lately, in (0, 1)."""
        return self._pool_rate(self._pool[1])[0]

    @on_one_thread
    def _starts(
        self,
        count: int,
        inputs: Array | None,
        said: Array | None = None,
        answer_inputs: Array | None = None,
    ) -> tuple[Array, Array]:
        """Mean and worth in rollouts of the starts, both of shape (starts, count)."""
        pools = np.array([self._pool_rate(sums) for sums in self._pool])
        centers, variances = np.repeat(pools.T[:, :, None], count, axis=2)
        if inputs is not None:
            like = predict(self._regressions, inputs, pools[:, 0], self.signal_std**2)
            centers = np.concatenate([centers, like[0]])
            variances = np.concatenate([variances, like[1]])
        if answer_inputs is not None:
            by = predict(self._answer_sums, answer_inputs, pools[0, 0], self.signal_std**2)
            centers, variances = np.vstack([centers, by[0]]), np.vstack([variances, by[1]])
        center, worth = _start(centers, variances)
        coin = np.ones((1, count))
        center, worth = np.vstack([0.5 * coin, center]), np.vstack([2.0 * coin, worth])
        if said is None:
            return center, worth
        silent = np.isnan(said)
        likely = np.clip(np.exp(np.where(silent, 0.0, said)), 0.01, 0.99)
        center = np.vstack([center, np.where(silent, center[1], likely)])
        return center, np.vstack([worth, np.where(silent, worth[1], ANSWER_WORTH)])

    def _inputs(self, features: Array) -> Array:
        """What the regressions go by, shape (k, landmarks)."""
        if not len(self._whitening):
            self._whitening = whitening(self.likeness(self._landmarks, self._landmarks))
            self._regressions = np.stack([no_observations(len(self._landmarks))] * 2)
        return self.likeness(features, self._landmarks) @ self._whitening

    def _pool_rate(self, sums: Array) -> tuple[float, float]:
        """Mean and variance of success rates; one imaginary fair coin is among them, since the
        first group alone must not decide for the whole pool.
        """
        groups, rates, squares, sampling = sums.tolist()
        center = (rates + 0.5) / (groups + 1)
        # What they vary beyond what their own sampling explains.
        beyond = squares - 2 * center * rates + center * center * groups - sampling
        return center, (max(beyond, 0.0) + self.signal_std**2) / (groups + 1)

    def _follow_range(self, ledger: Ledger) -> bool:
        """Keep the sums right where rewards turn out to have a far wider range, or a far narrower
        one than a single value let expect; whether they did.

        What was seen of the pool is mapped to the new range; what rests on more than that is
        forgotten.
        """
        low, high = reward_range(ledger)
        before, after = float(self._range[1] - self._range[0]), high - low
        if math.isnan(before):
            self._range = np.array([low, high])
        if 1 / WIDER < after / before < WIDER or math.isnan(before):
            return False
        share, shift = before / after, (float(self._range[0]) - low) / after
        groups, rates, squares, sampling = self._pool.T.copy()
        self._pool[:, 1] = share * rates + shift * groups
        self._pool[:, 2] = share**2 * squares + 2 * share * shift * rates + shift**2 * groups
        self._pool[:, 3] = share**2 * sampling
        self._regressions[:] = 0.0
        self._answer_sums[:] = 0.0
        self._evidence[:] = 0.0
        self._range = np.array([low, high])
        return True

    def verdict_like(self, ledger: Ledger) -> float:
        """Variance of the rewards seen lately, of what their range allows: little where a few that
        lie far out make the range; shrunk to 1 with the weight of four rollouts.
        """
        low, high = reward_range(ledger)
        count, total, squares = self._rewards.tolist()
        variance = max(squares - total * total / count, 0.0) if count else 0.0
        return (4 * variance / (high - low) ** 2 + 4) / (count + 4)

    def learn(
        self,
        groups: list[Group],
        ids: NDArray[np.int64],
        forecasts: Forecasts,
        ledger: Ledger,
        varied: Array | None = None,
    ) -> Array:
        """Take in what came out, after the ledger has.

        Args:
            groups: finished ones, of `ids` alone.
            ids: of the prompts rolled out, shape (k,).
            forecasts: of these, as they were before.
            ledger: what is known now.
            varied: how far each group's rewards vary, of what verdicts would, in (0, 1], shape
                (groups,). The less, the more a reward tells of what to expect. None takes 1.

        Returns:
            The success rate to expect of each group's prompt, by its forecasts and by what came out
            together, in (0, 1), shape (groups,); NaN where nothing came out, and where the range
            of rewards became so much wider that the forecasts are of another one.
        """
        expected = np.full(len(groups), np.nan)
        followed = self._follow_range(ledger)
        self._evidence *= KEEP_EVIDENCE
        inputs, answer_inputs = forecasts.inputs, forecasts.answer_inputs
        if inputs is not None or answer_inputs is not None:
            beliefs = self._beliefs()[1].reshape(-1, len(MEMORIES))
            fading = math.exp(-float((beliefs / np.array(MEMORIES)).sum()))
            self._regressions[:1] *= fading
            self._answer_sums *= fading
        place = {int(prompt): position for position, prompt in enumerate(ids)}
        rewards = [group.scored for group in groups]
        scored = [i for i, g in enumerate(groups) if rewards[i].size and g.prompt_id in place]
        if not scored:
            return expected
        seen = [groups[i] for i in scored]
        positions = np.array([place[group.prompt_id] for group in seen])
        rates = to_unit([group.mean for group in seen], ledger)
        counts = np.array([rewards[i].size for i in scored])
        new = ledger.visits[ids[positions]] == 1
        # Half a success and half a failure more: eight of eight right is no certainty.
        smoothed = (rates * counts + 0.5) / (counts + 1)
        sampling = smoothed * (1 - smoothed) / counts
        every = np.concatenate([rewards[i] for i in scored])
        self._rewards *= KEEP_POOL ** len(seen)
        self._rewards += (every.size, np.add.reduce(every), every.dot(every))
        if not followed:
            told = counts if varied is None else counts / varied[scored]
            expected[scored] = self._judge(forecasts.of(positions), rates, counts, told, new)
        self._pool[0] = _faded_and_added(self._pool[0], rates, sampling)
        self._pool[1] = _faded_and_added(self._pool[1], rates[new], sampling[new])
        if inputs is not None:
            for sums, rows in zip(self._regressions, (np.ones_like(new), new), strict=True):
                observe(sums, inputs[positions[rows]], rates[rows], sampling[rows] + 1e-6)
        # A step in flight may have begun before the first answer was read.
        if answer_inputs is not None and answer_inputs.shape[1] == len(self._answer_sums):
            observe(self._answer_sums, answer_inputs[positions], rates, sampling + 1e-6)
        return expected

    def _judge(
        self,
        forecasts: Forecasts,
        rates: Array,
        counts: NDArray[np.int64],
        told: Array,
        new: NDArray[np.bool_],
    ) -> Array:
        """Believe forecasts by what came out; the success rates to expect now, shape (k,).

        Args:
            forecasts: of these prompts, as they were before.
            rates, counts: what came out, shape (k,).
            told: how many rollouts' worth it tells, shape (k,).
            new: whether a prompt was met for the first time, shape (k,).
        """
        alpha, beta = forecasts.alpha, forecasts.beta
        likely = log_likelihood(rates * counts, counts, alpha, beta)
        self._evidence += (likely @ np.stack([new, ~new], axis=1)).T
        believed = forecasts.weights * np.exp(likely - likely.max(axis=0))
        means = (alpha + rates * told) / (alpha + beta + told)
        return np.asarray((believed * means).sum(axis=0) / believed.sum(axis=0))


def _faded_and_added(sums: Array, rates: Array, sampling: Array) -> list[float]:
    """Sums of the pool with some more groups, one after another."""
    found = sums.tolist()
    for rate, noise in zip(rates.tolist(), sampling.tolist(), strict=True):
        added = (1.0, rate, rate * rate, noise)
        found = [KEEP_POOL * so_far + more for so_far, more in zip(found, added, strict=True)]
    return found


def _start(center: Array, variance: Array) -> tuple[Array, Array]:
    """Mean and worth in rollouts of Beta distributions with these means and variances."""
    center = np.minimum(np.maximum(center, 0.01), 0.99)
    worth = center * (1 - center) / np.maximum(variance, 1e-9) - 1
    return center, np.minimum(np.maximum(worth, FEWEST), MOST)


def log_likelihood(
    right: Array | float, count: NDArray[np.int64] | int, alpha: Array, beta: Array
) -> Array:
    """Log-likelihood that `right` of `count` rollouts in some order succeed, shape (..., k).

    The success rate is drawn from Beta(alpha, beta). A partial reward counts as a part of a
    success.
    """
    a, b = alpha + right, beta + (count - right)
    # One call for all: their arrays are small. np.stack would take as long as the logarithms.
    gamma = _lgamma(np.array([[a, b, a + b], [alpha, beta, alpha + beta]]))
    after, before = gamma[:, 0] + gamma[:, 1] - gamma[:, 2]
    return np.asarray(after - before)


def _lgamma(x: Array) -> Array:
    """Logarithm of the gamma function of positive numbers, to 1e-12 of it; NumPy has none.

    By Stirling's series at x + 8, from which Gamma(x) is a product of x to x + 7 away.
    """
    t = x * (x + 7)
    product = t * (t + 6) * (t + 10) * (t + 12)
    z = x + 8
    u = 1 / (z * z)
    series = (1 / 12 - u * (1 / 360 - u * (1 / 1260 - u * (1 / 1680 - u / 1188)))) / z
    return np.asarray((z - 0.5) * np.log(z) - z + HALF_LOG_2PI + series - np.log(product))

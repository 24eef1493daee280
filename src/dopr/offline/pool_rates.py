"""The success rates of a pool of prompts, as far as some rollouts tell them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betaln

from dopr.core.errors import UserError
from dopr.core.statistics import mean_interval, middle
from dopr.offline.bounds import Array, check_rate
from dopr.offline.histories import History

_DRAWS = 2000
_REFITS = 200  # of the prior, which takes milliseconds
# Bounds of the prior's parameters: far enough for pools of only solved and hopeless prompts, and
# for pools in which all prompts are alike.
_LIMITS = (1e-2, 1e3)


@dataclass(frozen=True)
class PoolRates:
    """Posteriors Beta(alpha, beta) over the success rates of some prompts.

    Attributes:
        alpha, beta: shape (prompts,); not read where the rate is `known`.
        basis: what the rates rest on, for the reader.
        known: the one rate that all prompts have, or None.
        resampled: whether the prompts are a sample, so that uncertainty includes which were drawn.
        tokens_to_solution: generated tokens per right completion, where measured.
        population: prompts of the pool that these stand for; None: they are the pool.
        solved, tried: the counts behind the posteriors, shape (prompts,), where there are such.
    """

    alpha: Array
    beta: Array
    basis: str
    known: float | None = None
    resampled: bool = True
    tokens_to_solution: float | None = None
    population: int | None = None
    solved: NDArray[np.int64] | None = None
    tried: NDArray[np.int64] | None = None

    @classmethod
    def of_rate(cls, rate: float) -> "PoolRates":
        """A pool in which every prompt has this rate.

        Raises:
            UserError: outside (0, 1).
        """
        check_rate("pass rate", rate)
        one = np.ones(1)
        return cls(one, one, f"every prompt at {rate:g}", known=rate)

    @classmethod
    def of_counts(
        cls,
        solved: NDArray[np.int64],
        tried: NDArray[np.int64],
        basis: str,
        *,
        resampled: bool = True,
        tokens_to_solution: float | None = None,
        population: int | None = None,
    ) -> "PoolRates":
        """From how many of its rollouts each prompt solved.

        The prior is the Beta distribution under which the counts are likeliest (empirical Bayes).

        Args:
            solved: shape (prompts,).
            tried: rollouts of each prompt, shape (prompts,); those without any are left out.

        Raises:
            UserError: nothing was tried, or all rollouts went the same way.
        """
        solved, tried = solved[tried > 0], tried[tried > 0]
        if not len(tried):
            raise UserError("no rollout could be scored; check the reward and the dataset")
        if not 0 < solved.sum() < tried.sum():
            kind = "solved" if solved.sum() else "unsolved"
            raise UserError(
                f"every rollout of the {basis} is {kind}, so no rate can be planned with; take "
                "more rollouts or other prompts"
            )
        a, b = fit_beta(solved, tried)
        return cls(
            np.asarray(a + solved, dtype=np.float64),
            np.asarray(b + tried - solved, dtype=np.float64),
            basis,
            resampled=resampled,
            tokens_to_solution=tokens_to_solution,
            population=population,
            solved=solved,
            tried=tried,
        )

    @classmethod
    def of_history(cls, history: History) -> "PoolRates":
        """From the first epoch of a record: the rates that training begins with.

        Raises:
            UserError: the record has gaps.
        """
        if history.gaps:
            raise UserError(
                f"the history misses {history.gaps} epochs (null); a plan takes rates as "
                "measured, so leave these prompts out"
            )
        tried = np.full(history.size, history.group_size, dtype=np.int64)
        basis = f"history's first epoch, {history.size} prompts x {history.group_size}"
        return cls.of_counts(history.counts[:, 0], tried, basis)

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.alpha)

    @property
    def mean(self) -> float:
        """Expected success rate of a random prompt."""
        if self.known is not None:
            return self.known
        return float(np.mean(self.alpha / (self.alpha + self.beta)))

    @property
    def learnability(self) -> float:
        """Expected p(1-p) of a random prompt."""
        if self.known is not None:
            return self.known * (1 - self.known)
        total = self.alpha + self.beta
        return float(np.mean(self.alpha * self.beta / (total * (total + 1))))

    def informative(self, group_size: int) -> Array:
        """Each prompt's chance of a group with both outcomes, over its posterior."""
        if self.known is not None:
            p = self.known
            return np.array([1 - p**group_size - (1 - p) ** group_size])
        norm = betaln(self.alpha, self.beta)
        all_right = np.exp(betaln(self.alpha + group_size, self.beta) - norm)
        all_wrong = np.exp(betaln(self.alpha, self.beta + group_size) - norm)
        return np.asarray(1 - all_right - all_wrong)

    def informative_interval(
        self, group_size: int, seed: int = 0
    ) -> tuple[float | None, float | None]:
        """95% bounds of the mean of `informative`; None where the rate was given.

        By bootstrap over prompts, the prior fitted to each sample, or, where the prompts are the
        pool itself, over the posterior.
        """
        if self.known is not None:
            return None, None
        rng = np.random.default_rng([seed, 3])
        if self.resampled and self.solved is not None and self.tried is not None:
            return middle(self._refitted(self.solved, self.tried, group_size, rng))
        if self.resampled:
            return mean_interval(self.informative(group_size), rng, _DRAWS)
        rates = rng.beta(self.alpha, self.beta, size=(_DRAWS, self.size))
        return middle((1 - rates**group_size - (1 - rates) ** group_size).mean(axis=1))

    def _refitted(
        self,
        solved: NDArray[np.int64],
        tried: NDArray[np.int64],
        group_size: int,
        rng: np.random.Generator,
    ) -> Array:
        """Mean of `informative` of pilots that might have been, shape (_REFITS,)."""
        found = np.empty(_REFITS)
        for i in range(_REFITS):
            rows = rng.integers(0, self.size, size=self.size)
            a, b = fit_beta(solved[rows], tried[rows])
            alpha = np.asarray(a + solved[rows], dtype=np.float64)
            beta = np.asarray(b + (tried - solved)[rows], dtype=np.float64)
            found[i] = PoolRates(alpha, beta, self.basis).informative(group_size).mean()
        return found

    def draw(self, size: int | None, rng: np.random.Generator) -> Array:
        """Success rates of one pool that may be the real one, shape (size,)."""
        count = size or self.size
        if self.known is not None:
            return np.full(count, self.known)
        same = count == self.size and not self.resampled
        rows = np.arange(count) if same else rng.integers(0, self.size, size=count)
        return rng.beta(self.alpha[rows], self.beta[rows])


def fit_beta(solved: NDArray[np.int64], tried: NDArray[np.int64]) -> tuple[float, float]:
    """Parameters of the Beta prior that makes counts likeliest (the beta-binomial model).

    Args:
        solved, tried: shape (prompts,).
    """

    def loss(logs: Any) -> float:
        a, b = np.exp(logs)
        return float(-np.mean(betaln(a + solved, b + tried - solved) - betaln(a, b)))

    bounds = [(float(np.log(_LIMITS[0])), float(np.log(_LIMITS[1])))] * 2
    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=bounds)
    a, b = np.exp(found.x)
    return float(a), float(b)

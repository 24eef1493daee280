"""How good a reward model is: best-of-n, rank correlation, calibration, accuracy on pairs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import rankdata, spearmanr

Array = NDArray[np.float64]
Groups = NDArray[np.int64]


def best_of_n(scores: Array, rewards: Array, n: int) -> float:
    """Expected true reward of the best-scored of n responses drawn from one prompt's K.

    Drawn without replacement, so the response of rank j (from 0, the highest score first) is the
    best of the draw with probability C(K - 1 - j, n - 1) / C(K, n). Responses of equal score share
    the mean of their rewards.

    Args:
        scores: shape (K,).
        rewards: shape (K,), the true ones.
        n: at most K.

    Source: best-of-n as in Reusing Embeddings [2502.04357, S]; the exact expectation in place of a
    draw is ours.
    """
    count = len(scores)
    _, tied = np.unique(-scores, return_inverse=True)
    shared = np.bincount(tied, rewards) / np.bincount(tied)
    in_order = np.sort(tied)
    below = np.arange(count - 1, -1, -1)  # responses of a lower rank
    able = below >= n - 1
    chance = np.zeros(count)
    chance[able] = np.exp(_log_choose(below[able], n - 1) - _log_choose(count, n))
    return float(chance @ shared[in_order])


def _log_choose(total: Any, part: int) -> Any:
    return gammaln(total + 1) - gammaln(part + 1) - gammaln(total - part + 1)


def best_of_n_table(scores: Array, rewards: Array, groups: Groups) -> list[dict[str, float]]:
    """Best-of-n for n = 1, 2, 4, ... up to the largest group.

    Args:
        scores, rewards: shape (rows,).
        groups: shape (rows,), each row's prompt.

    Returns:
        For each n, means over the prompts with at least n responses: `reward` by these scores,
        `random` by no score, `oracle` by the true rewards; and the number of `prompts`.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    table = []
    n = 1
    while able := [rows for rows in members if len(rows) >= n]:
        table.append(
            {
                "n": n,
                "reward": _mean([best_of_n(scores[rows], rewards[rows], n) for rows in able]),
                "random": _mean([float(rewards[rows].mean()) for rows in able]),
                "oracle": _mean([best_of_n(rewards[rows], rewards[rows], n) for rows in able]),
                "prompts": len(able),
            }
        )
        n *= 2
    return table


def mean_spearman(scores: Array, rewards: Array, groups: Groups) -> float | None:
    """Spearman's rank correlation inside each prompt, averaged over prompts.

    Prompts whose rewards or scores are all equal have none; None where no prompt has one.
    """
    found = []
    for group in np.unique(groups):
        rows = groups == group
        value = spearman(scores[rows], rewards[rows])
        if value is not None:
            found.append(value)
    return _mean(found) if found else None


def spearman(scores: Array, rewards: Array) -> float | None:
    """Spearman's rank correlation, None where one side is constant."""
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(rewards) == 0:
        return None
    return float(spearmanr(scores, rewards).statistic)


def calibration_error(probabilities: Array, labels: Array, bins: int = 10) -> float:
    """Expected calibration error: mean over rows of |mean probability - share of ones| of its bin.

    Args:
        probabilities: shape (rows,), in [0, 1].
        labels: shape (rows,), 0 or 1.
        bins: of equal width over [0, 1].

    Source: Guo et al. 2017 [I].
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(place, probabilities - labels, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def pair_accuracy(margins: Array) -> float:
    """Share of pairs in which the better response scores higher; a tie counts one half.

    Args:
        margins: shape (pairs,), score of the better response minus that of the other.
    """
    return float((margins > 0).mean() + (margins == 0).mean() / 2)


def area_under_curve(scores: Array, labels: Array) -> float | None:
    """Chance that a row of label 1 scores higher than one of label 0; a tie counts one half.

    None where one of the labels is absent.
    """
    positive = labels == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _mean(values: list[float]) -> float:
    return float(np.mean(values))

"""The figures of a reward model, and of a predictor of success, on held-out prompts."""

from typing import Any

import numpy as np

from dopr.rewards.learned.metrics import (
    area_under_curve,
    best_of_n_table,
    calibration_error,
    mean_spearman,
    pair_accuracy,
    spearman,
)
from dopr.rewards.learned.model import RewardModel
from dopr.runs.reward_model.material import Material


def measure_responses(model: RewardModel, test: Material) -> dict[str, Any]:
    """How well a reward model tells responses apart.

    Args:
        model: reads responses.
        test: held-out prompts, with true labels.

    Returns:
        `best_of_n` (a table; see `metrics.best_of_n_table`), `spearman` (inside a prompt, averaged)
        and `spearman_all` (over all rows), `area_under_curve`, `pair_accuracy`, and
        `calibration_error`: of the labels' probability, for `bt` of the pairs', each pair taken
        both ways round. None where there is nothing to measure.
    """
    scores = model.probability(test.vectors)
    found: dict[str, Any] = {
        "best_of_n": best_of_n_table(scores, test.rewards, test.groups),
        "spearman": mean_spearman(scores, test.rewards, test.groups),
        "spearman_all": spearman(scores, test.rewards),
        "area_under_curve": area_under_curve(scores, test.labels),
        "pair_accuracy": None,
        "calibration_error": None,
    }
    if len(test.pairs):
        first, second = test.vectors[test.pairs[:, 0]], test.vectors[test.pairs[:, 1]]
        wins = model.pair_probability(first, second)
        found["pair_accuracy"] = pair_accuracy(wins - 0.5)
        if model.kind == "bt":
            both = np.concatenate([wins, 1 - wins])
            labels = np.repeat([1.0, 0.0], len(wins))
            found["calibration_error"] = calibration_error(both, labels)
    if model.kind != "bt":
        found["calibration_error"] = calibration_error(scores, test.labels)
    return found


def measure_prompts(model: RewardModel, test: Material) -> dict[str, Any]:
    """How well a predictor of success tells prompts apart.

    Args:
        model: reads prompts.
        test: held-out prompts, with true labels.

    Returns:
        Over prompts: `spearman_all` between predicted and observed share of good responses,
        `mean_absolute_error` of the prediction and, beside it, `constant_error` of the held-out
        mean itself; and `calibration_error` weighed by responses.
    """
    shares, counts, vectors = test.by_prompt()
    predicted = model.probability(vectors)
    everything = np.repeat(predicted, counts.astype(int))
    return {
        "spearman_all": spearman(predicted, shares),
        "mean_absolute_error": float(np.abs(predicted - shares).mean()),
        "constant_error": float(np.abs(shares.mean() - shares).mean()),
        "calibration_error": calibration_error(everything, np.repeat(shares, counts.astype(int))),
    }

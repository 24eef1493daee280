"""Tuning: the same number of tries for every strategy, on seeds that are not reported."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dopr.compare.comparison import Comparison
from dopr.compare.summary import final_score
from dopr.core.errors import UserError
from dopr.runs.settings import TrainSettings
from dopr.runs.train import TrainResult

Row = dict[str, Any]
RunOne = Callable[[TrainSettings, str], TrainResult | None]


def tuning_score(evals: Sequence[Row], metric: str, rule: str, window: int) -> float:
    """How good a tuning run is: the metric's end, or its mean over the rollouts spent."""
    if rule == "final":
        return final_score(evals, metric, window)
    x = np.array([row["rollouts_total"] for row in evals], dtype=float)
    y = np.array([row[metric] for row in evals], dtype=float)
    if len(x) < 2 or x[-1] == x[0]:
        return final_score(evals, metric, 1)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))


def tune(comparison: Comparison, run_one: RunOne) -> dict[str, Any] | None:
    """Run every try of every strategy that has several; None when it was interrupted.

    Returns:
        `rule`, `metric`, `seeds`, and for each strategy the `chosen` settings (and their
        `learning_rate`, where that was tuned), the `rollouts` that tuning took, its `tries` and the
        `scores` of each, one a seed, None where that run diverged.

    Raises:
        UserError: all tries of a strategy diverge.
    """
    if comparison.tuning.from_file is not None:
        return comparison.chosen_elsewhere() | {"from_file": comparison.tuning.from_file}
    result: dict[str, Any] = {
        "rule": comparison.tuning.rule,
        "metric": comparison.target.metric,
        "seeds": list(comparison.tuning.seeds),
        "strategies": {},
    }
    for name in comparison.strategies:
        if not comparison.needs_tuning(name):
            continue
        entry = _tune_one(comparison, name, run_one)
        if entry is None:
            return None
        result["strategies"][name] = entry
    return result


def _tune_one(comparison: Comparison, name: str, run_one: RunOne) -> dict[str, Any] | None:
    tries = comparison.tries(name)
    scores: dict[str, list[float | None]] = {}
    spent = 0
    for number in range(len(tries)):
        label = comparison.try_label(name, number)
        for seed in comparison.tuning.seeds:
            settings = comparison.tuning_settings(name, seed, number)
            done = run_one(settings, f"tuning {name} {label} seed {seed}")
            if done is None:
                return None
            spent += done.rollouts
            scores.setdefault(label, []).append(_score(comparison, done))
    best = _best(name, list(scores.values()))
    entry = {"chosen": tries[best], "rollouts": spent, "scores": scores}
    if any(set(tried) != {"learning_rate"} for tried in tries):
        entry["tries"] = {comparison.try_label(name, i): tried for i, tried in enumerate(tries)}
    if "learning_rate" in tries[best]:
        entry["learning_rate"] = tries[best]["learning_rate"]
    return entry


def _score(comparison: Comparison, done: TrainResult) -> float | None:
    if done.diverged:
        return None
    metric, rule = comparison.target.metric, comparison.tuning.rule
    return tuning_score(done.evals, metric, rule, comparison.final_window)


def _best(name: str, scores: Sequence[Sequence[float | None]]) -> int:
    """The try with the best mean over seeds, among those that never diverged."""
    means = {
        number: float(np.mean([score for score in by_seed if score is not None]))
        for number, by_seed in enumerate(scores)
        if None not in by_seed
    }
    means = {number: mean for number, mean in means.items() if not np.isnan(mean)} or means
    if not means:
        raise UserError(f"every try of strategy {name!r} diverged; give it lower learning rates")
    return max(means, key=lambda number: means[number])

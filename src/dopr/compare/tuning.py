"""Learning rates: the same number of tries for every strategy, on seeds that are not reported."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dopr.compare.plan import ComparePlan
from dopr.compare.summary import final_score
from dopr.settings import TrainSettings
from dopr.train import TrainResult

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


def tune(plan: ComparePlan, run_one: RunOne) -> dict[str, Any] | None:
    """Try every rate of every strategy that has several; None when it was interrupted.

    Returns:
        `rule`, `metric`, `seeds`, and for each strategy its `learning_rate`, the `rollouts` that
        tuning took and the `scores` of each rate, one a seed.
    """
    result: dict[str, Any] = {
        "rule": plan.tuning.rule,
        "metric": plan.target.metric,
        "seeds": list(plan.tuning.seeds),
        "strategies": {},
    }
    for name in plan.strategies:
        if not plan.needs_tuning(name):
            continue
        scores: dict[str, list[float]] = {}
        spent = 0
        for rate in plan.learning_rates(name):
            for seed in plan.tuning.seeds:
                settings = plan.tuning_settings(name, seed, rate)
                done = run_one(settings, f"tuning {name} lr {rate:g} seed {seed}")
                if done is None:
                    return None
                spent += done.rollouts
                scores.setdefault(f"{rate:g}", []).append(
                    tuning_score(
                        done.evals, plan.target.metric, plan.tuning.rule, plan.final_window
                    )
                )
        means = {rate: float(np.mean(values)) for rate, values in scores.items()}
        best = max(plan.learning_rates(name), key=lambda rate: means[f"{rate:g}"])
        result["strategies"][name] = {"learning_rate": best, "rollouts": spent, "scores": scores}
    return result

"""From finished runs to comparison.json."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dopr.compare.comparison import Comparison, Try
from dopr.core.statistics import median_with_interval, paired_difference, ratios

# Name in comparison.json -> field of eval.jsonl.
COSTS = {
    "rollouts": "rollouts_total",
    "tokens": "tokens_total",
    "wall_s": "wall_s",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class FinishedRun:
    """One strategy with one seed.

    Attributes:
        evals: lines of eval.jsonl, in order.
        totals: rollouts, tokens and wall_s spent in the whole run.
    """

    strategy: str
    seed: int
    evals: list[Row]
    totals: dict[str, float]


def arrival(evals: Sequence[Row], metric: str, value: float, sustain: int = 1) -> Row | None:
    """The first evaluation at or above the value (with `sustain`, the mean from it on).

    Source: the rule of `Target`.
    """
    scores = [row.get(metric) for row in evals]
    for i in range(len(scores) - sustain + 1):
        window = [-np.inf if score is None else score for score in scores[i : i + sustain]]
        if np.mean(window) >= value:
            return evals[i]
    return None


def final_score(evals: Sequence[Row], metric: str, window: int) -> float:
    """Mean of the last `window` evaluations, NaN where there is none."""
    scores = [row[metric] for row in evals[-window:] if row.get(metric) is not None]
    return float(np.mean(scores)) if scores else float("nan")


def target_value(comparison: Comparison, runs: dict[str, list[FinishedRun]]) -> float:
    """The value to reach; where it is a share of the best, found from the runs."""
    if comparison.target.value is not None:
        return comparison.target.value
    assert comparison.target.fraction_of_best is not None  # checked
    metric = comparison.target.metric
    best = max(
        float(np.median([final_score(run.evals, metric, comparison.final_window) for run in group]))
        for group in runs.values()
    )
    return comparison.target.fraction_of_best * best


def summarise(
    comparison: Comparison,
    runs: dict[str, list[FinishedRun]],
    chosen: dict[str, Try],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The content of comparison.json.

    Args:
        runs: of each strategy, one a seed, in the order of the comparison's seeds.
        chosen: the tuned settings that the runs were made with.
        facts: `pool`, `machine`, `versions` and whatever else stands beside the result.
    """
    value = target_value(comparison, runs)
    costs = {name: _costs(comparison, group, value) for name, group in runs.items()}
    strategies = {
        name: _strategy(comparison, name, group, costs[name], chosen[name])
        for name, group in runs.items()
    }
    pairs = [(a, b) for a in comparison.headline if a in runs for b in runs if a != b]
    return {
        "target": {
            "metric": comparison.target.metric,
            "value": value,
            "rule": comparison.target.rule,
            "k": next((r.evals[0].get("k") for g in runs.values() for r in g if r.evals), None),
        },
        "strategies": strategies,
        "ratios": {f"{a}/{b}": _ratio(comparison, runs, costs, a, b) for a, b in pairs},
        "ratio_rule": (
            "paired by seed; where only the second strategy missed the target, all that it spent "
            "stands for its cost, so the ratio is an upper bound (counted in `bounded`); where the "
            "first missed, the ratio is infinite (null)"
        ),
        "seeds": list(comparison.seeds),
        "final_window": comparison.final_window,
        **facts,
    }


def _costs(
    comparison: Comparison, group: list[FinishedRun], value: float
) -> dict[str, list[float | None]]:
    """What each seed paid up to the target, None for a miss."""
    points = [
        arrival(run.evals, comparison.target.metric, value, comparison.target.sustain)
        for run in group
    ]
    return {
        cost: [None if point is None else float(point[field]) for point in points]
        for cost, field in COSTS.items()
    }


def _strategy(
    comparison: Comparison,
    name: str,
    group: list[FinishedRun],
    costs: dict[str, list[float | None]],
    chosen: Try,
) -> dict[str, Any]:
    settings = comparison.settings(name, comparison.seeds[0], chosen)
    entry: dict[str, Any] = {
        "seeds": [run.seed for run in group],
        "learning_rate": settings.learning_rate,
        "strategy": settings.strategy,
        "strategy_args": settings.strategy_args,
        "num_generations": settings.num_generations,
        "budget": {
            "max_rollouts": settings.max_rollouts,
            "max_tokens": settings.max_tokens,
            "max_seconds": settings.max_seconds,
            "steps": settings.steps,
        },
    }
    if len(comparison.tries(name)) > 1:
        entry["learning_rate_from"] = comparison.tuning.from_file or "tuning.json"
        entry["chosen"] = chosen
    elif comparison.strategies[name].get("learning_rate_from"):
        entry["learning_rate_from"] = comparison.strategies[name]["learning_rate_from"]
    for cost, values in costs.items():
        hits = sum(value is not None for value in values)
        entry[f"{cost}_to_target"] = median_with_interval(values) | {
            "reached": hits,
            "per_seed": values,
        }
    finals = [
        final_score(run.evals, comparison.target.metric, comparison.final_window) for run in group
    ]
    entry["final"] = median_with_interval(finals) | {"per_seed": finals}
    entry["total"] = {cost: [run.totals[cost] for run in group] for cost in COSTS}
    return entry


def _ratio(
    comparison: Comparison,
    runs: dict[str, list[FinishedRun]],
    costs: dict[str, dict[str, list[float | None]]],
    first: str,
    second: str,
) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for cost in COSTS:
        totals = [run.totals[cost] for run in runs[second]]
        values, bounded = ratios(costs[first][cost], costs[second][cost], totals)
        entry[cost] = median_with_interval(values) | {"per_seed": values, "bounded": bounded}
    metric, window = comparison.target.metric, comparison.final_window
    finals = [
        [final_score(r.evals, metric, window) for r in runs[name]] for name in (first, second)
    ]
    entry["final_difference"] = paired_difference(*finals)
    return entry


def comparison_mapping(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return asdict(comparison)

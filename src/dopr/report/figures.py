"""Turns the records of runs into the series that the page draws.

Series are plain JSON-ready objects, thinned so that a page stays small; what was thinned or
averaged is carried along, because the page says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dopr.report.completions import Interner
from dopr.report.data import Record, Run, Source, number, section

Points = list[tuple[float, float]]
COST_AXES = {
    "rollouts": ("rollouts_total", "Rollouts"),
    "tokens": ("tokens_total", "Tokens, generated or read to choose"),
    "wall_s": ("wall_s", "Training seconds"),
}
EVAL_METRICS = ("avg@k", "pass@k")
TRAINING = {
    "reward": "Mean reward",
    "entropy": "Policy entropy",
    "completions/mean_length": "Completion length (tokens)",
    "select/signal_rate": "Signal rate",
}
CURVE_POINTS = 300
TRAINING_BINS = 40
TOP_PROMPTS = 12
SHARES = 6  # sources whose share in the choice is drawn


def clean(value: float | None, digits: int = 5) -> float | int | None:
    """`value` to so many significant digits (whole numbers stay whole); None if not finite."""
    if value is None or not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 1e15:
        return int(value)
    return float(f"{value:.{digits}g}")


def clean_list(values: Any, digits: int = 5) -> list[float | int | None]:
    """`clean` over an array or list."""
    return [clean(None if v is None else float(v), digits) for v in values]


def median_curve(seeds: Sequence[Points], max_points: int = CURVE_POINTS) -> Record | None:
    """The median over seeds with the smallest and largest value, on the seeds' joint grid.

    Each seed is a step function: its value at x is its last one at or before x; before its first
    point it does not count, after its last it holds. Returns None without points, else `x`, `y`,
    `lo`, `hi` (same length), `live` (seeds measured at least as far as x) and `n` (seeds).
    """
    arrays = []
    for points in seeds:
        ordered = sorted(dict(points).items())
        if ordered:
            arrays.append(np.array(ordered, dtype=float).T)
    if not arrays:
        return None
    grid = np.unique(np.concatenate([xs for xs, _ in arrays]))
    if len(grid) > max_points:
        grid = grid[np.linspace(0, len(grid) - 1, max_points).astype(int)]
    values = np.full((len(arrays), len(grid)), np.nan)
    for row, (xs, ys) in enumerate(arrays):
        index = np.searchsorted(xs, grid, side="right") - 1
        values[row, index >= 0] = ys[index[index >= 0]]
    live = sum((grid <= xs[-1]).astype(int) for xs, _ in arrays)
    return {
        "x": clean_list(grid, 8),
        "y": clean_list(np.nanmedian(values, axis=0)),
        "lo": clean_list(np.nanmin(values, axis=0)),
        "hi": clean_list(np.nanmax(values, axis=0)),
        "live": [int(v) for v in np.atleast_1d(live)],
        "n": len(arrays),
    }


def pairs(records: list[Record], x_key: str, y_key: str) -> Points:
    """(x, y) of every record that has a number under both keys."""
    found = ((number(item.get(x_key)), number(item.get(y_key))) for item in records)
    return [(x, y) for x, y in found if x is not None and y is not None]


def _interval_curve(run: Run, x_key: str, metric: str) -> Record | None:
    """One run's evaluations with each evaluation's own interval as the band."""
    curve = median_curve([pairs(run.evals, x_key, metric)])
    low = median_curve([pairs(run.evals, x_key, f"{metric}_low")])
    high = median_curve([pairs(run.evals, x_key, f"{metric}_high")])
    if curve and low and high and low["x"] == high["x"] == curve["x"]:
        curve["lo"], curve["hi"] = low["y"], high["y"]
    return curve


def accuracy_curves(source: Source) -> Record:
    """`{metric: {axis: [series]}}` of evaluated accuracy against each cost, a series a strategy.

    Metrics and axes without any point are left out.
    """
    result: Record = {}
    for metric in EVAL_METRICS:
        axes: Record = {}
        for axis, (x_key, _) in COST_AXES.items():
            series = []
            for strategy in source.strategies:
                runs = source.runs_of(strategy)
                if len(source.runs) == 1 and runs:
                    curve = _interval_curve(runs[0], x_key, metric)
                else:
                    curve = median_curve([pairs(run.evals, x_key, metric) for run in runs])
                if curve:
                    series.append({"name": strategy, **curve})
            if series:
                axes[axis] = series
        if axes:
            result[metric] = axes
    return result


def bin_mean(points: Points, bins: int) -> Points:
    """At most `bins` points: means over equal runs of neighbours, at the last x of each."""
    if len(points) <= bins:
        return points
    chunks = np.array_split(np.array(points, dtype=float), bins)
    return [(float(chunk[-1, 0]), float(chunk[:, 1].mean())) for chunk in chunks]


def _with_signal_rate(record: Record) -> Record:
    """The record with a signal rate: TRL's share of groups without variance gives it if need be."""
    zero = number(record.get("frac_reward_zero_std"))
    if record.get("select/signal_rate") is None and zero is not None:
        return {**record, "select/signal_rate": 1 - zero}
    return record


def training_curves(source: Source) -> Record:
    """`{quantity: {"title", "step": [series], "rollouts": [series]}}` from the training logs.

    Each run is first averaged into at most TRAINING_BINS points.
    """
    logs = {
        strategy: [[_with_signal_rate(r) for r in run.metrics] for run in source.runs_of(strategy)]
        for strategy in source.strategies
    }
    result: Record = {}
    for key, title in TRAINING.items():
        entry: Record = {"title": title}
        for axis, x_key in (("step", "step"), ("rollouts", "rollout/rollouts_total")):
            series = []
            for strategy, runs in logs.items():
                seeds = [bin_mean(pairs(log, x_key, key), TRAINING_BINS) for log in runs]
                curve = median_curve(seeds)
                if curve:
                    series.append({"name": strategy, **curve})
            entry[axis] = series
        if entry["step"]:
            result[key] = entry
    return result


def _visit_list(run: Run) -> list[tuple[int, str, float | None]]:
    """(step, prompt id, mean reward or None) of every group trained on, in order."""
    visits: list[tuple[int, str, float | None]] = []
    for record in run.metrics:
        ids = record.get("select/prompt_ids")
        if not isinstance(ids, list) or not ids:
            continue
        success = record.get("select/success")
        if not isinstance(success, list) or len(success) != len(ids):
            one = record.get("reward") if len(ids) == 1 else None
            success = [one] * len(ids)
        visits.extend(
            (record["step"], str(key), number(value))
            for key, value in zip(ids, success, strict=True)
        )
    return visits


def prompt_visits(run: Run, limit: int, ids: Interner) -> Record | None:
    """Which prompts were chosen when, and how their success moved; None if it was not logged.

    With more than `limit` visits, evenly spaced steps are kept. The object holds `prompts` (numbers
    of ids, in the order in which they were first chosen), `step`, `prompt` (index into `prompts`)
    and `success` of every visit shown, `final` success of each prompt, `range` of success, `shown`
    and `total` visits, `distinct` prompts in all, `moved` and `top`.
    """
    visits = _visit_list(run)
    if not visits:
        return None
    rates = [rate for _, _, rate in visits if rate is not None]
    low, high = (min(rates), max(rates)) if rates else (0.0, 1.0)
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    final: dict[str, float | None] = {}
    for _, key, rate in visits:
        final[key] = rate if rate is not None else final.get(key)
    stride = max(1, math.ceil(len(visits) / max(limit, 1)))
    kept = set(sorted({step for step, _, _ in visits})[::stride])
    shown = [visit for visit in visits if visit[0] in kept]
    row = {key: i for i, key in enumerate(dict.fromkeys(key for _, key, _ in shown))}
    return {
        "prompts": [ids(key) for key in row],
        "step": [step for step, _, _ in shown],
        "prompt": [row[key] for _, key, _ in shown],
        "success": clean_list((rate for _, _, rate in shown), 3),
        "final": clean_list((final[key] for key in row), 3),
        "range": [clean(low), clean(high)],
        "shown": len(shown),
        "total": len(visits),
        "distinct": len(final),
        "moved": _moved(visits, low, high),
        "top": _top_prompts(visits, run, ids),
    }


def _moved(visits: list[tuple[int, str, float | None]], low: float, high: float) -> Record:
    """How many prompts stood at no, some and full success at their latest visit, by step."""
    state: dict[str, int] = {}
    counts = [0, 0, 0]
    by_step: dict[int, list[int]] = {}
    for step, key, rate in visits:
        if rate is not None:
            if key in state:
                counts[state[key]] -= 1
            state[key] = 0 if rate <= low + 1e-6 else 2 if rate >= high - 1e-6 else 1
            counts[state[key]] += 1
            by_step[step] = list(counts)
    steps = list(by_step)
    if len(steps) > 200:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, 200).astype(int)]
    rows = [by_step[step] for step in steps]
    names = ("none", "some", "full")
    return {"step": steps, **{name: [r[i] for r in rows] for i, name in enumerate(names)}}


def _top_prompts(
    visits: list[tuple[int, str, float | None]], run: Run, ids: Interner
) -> list[Record]:
    """The prompts chosen most often: their visits, success at each (at most 40), and cost."""
    history: dict[str, list[tuple[int, float | None]]] = {}
    for step, key, rate in visits:
        history.setdefault(key, []).append((step, rate))
    most = sorted(history, key=lambda key: -len(history[key]))[:TOP_PROMPTS]
    cost: dict[str, Record] = {}
    if run.ledger is not None:
        table = run.ledger[run.ledger["id"].isin(most)]
        cost = {str(r["id"]): r for r in table.to_dict("records")}
    top = []
    for key in most:
        seen = [(step, rate) for step, rate in history[key] if rate is not None]
        if len(seen) > 40:
            seen = [seen[i] for i in np.linspace(0, len(seen) - 1, 40).astype(int)]
        known = cost.get(key, {})
        top.append(
            {
                "id": ids(key),
                "visits": len(history[key]),
                "rollouts": clean(number(known.get("rollouts"))),
                "tokens": clean(number(known.get("tokens"))),
                "step": [step for step, _ in seen],
                "success": clean_list((rate for _, rate in seen), 3),
            }
        )
    return top


def source_shares(run: Run) -> dict[str, Points]:
    """What part of each step's prompts came from each source: the most chosen ones, by name."""
    counts = [
        (float(record["step"]), section(record, "select/sources"))
        for record in run.metrics
        if section(record, "select/sources")
    ]
    totals = Counter[str]()
    for _, row in counts:
        totals.update({name: int(number(value) or 0) for name, value in row.items()})
    return {
        f"share of {name}": [
            (
                step,
                (number(row.get(name)) or 0.0)
                / max(sum(number(v) or 0.0 for v in row.values()), 1.0),
            )
            for step, row in counts
        ]
        for name, _ in totals.most_common(SHARES)
    }


def selection_rates(run: Run, bins: int = TRAINING_BINS) -> Record:
    """Coverage, signal rate and the share of each source in the choice of a run over its steps.

    `{name: {"x", "y"}}`, those logged.
    """
    records = [_with_signal_rate(record) for record in run.metrics]
    result: Record = {}
    lines = {
        "coverage": pairs(records, "step", "select/coverage"),
        "signal rate": pairs(records, "step", "select/signal_rate"),
    } | source_shares(run)
    for name, all_points in lines.items():
        points = bin_mean(all_points, bins)
        if points:
            xs, ys = zip(*points, strict=True)
            result[name] = {"x": clean_list(xs), "y": clean_list(ys, 4)}
    return result


def payload(source: Source, visit_limit: int, ids: Interner) -> Record:
    """Everything the page draws but the completions and the texts of ids.

    Args:
        source: what was read.
        visit_limit: visits shown per run at most.
        ids: receives every prompt id that the object refers to by number.
    """
    runs = []
    for run in source.runs:
        runs.append(
            {
                "strategy": run.strategy,
                "label": run.label,
                "visits": prompt_visits(run, visit_limit, ids),
                "rates": selection_rates(run),
            }
        )
    ks = {number(record.get("k")) for run in source.runs for record in run.evals} - {None}
    target = source.comparison.get("target")
    target = target if isinstance(target, dict) else {}
    return {
        "strategies": source.strategies,
        "single": len(source.runs) == 1,
        "k": clean(ks.pop()) if len(ks) == 1 else None,
        "axes": {axis: title for axis, (_, title) in COST_AXES.items()},
        "accuracy": accuracy_curves(source),
        "target": {"metric": target.get("metric"), "value": clean(number(target.get("value")))},
        "training": training_curves(source),
        "runs": runs,
        "bins": TRAINING_BINS,
    }

"""The words and tables of the page: what was found, what it cost, and against what."""

from collections.abc import Callable
from typing import Any

from dopr.report.data import Record, Run, Source, find_key, number, section

COSTS = (
    ("rollouts", "rollouts_to_target", "Rollouts to target"),
    ("tokens", "tokens_to_target", "Tokens to target"),
    ("wall_s", "wall_s_to_target", "Training seconds to target"),
)
HEADLINE = ("dopr",)
REFERENCES = ("grpo", "uniform-tuned", "uniform")
DASH = "–"


def count(value: float) -> str:
    """A cost for reading: whole with separators from 100 on, fewer digits below."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def share(value: float) -> str:
    """An accuracy or rate with three decimals at most, two at least."""
    text = f"{value:.3f}"
    return text[:-1] if text.endswith("0") else text


def ratio(value: float) -> str:
    """A ratio with two significant digits, or whole from 100 on."""
    size = abs(value)
    if size >= 10:
        return f"{value:,.0f}" if size >= 100 else f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3f}"


def spread(entry: Any, show: Callable[[float], str]) -> tuple[str, str]:
    """A median and its interval as text, from `{"median", "low", "high"}` or a bare number.

    An open end of an interval (null or infinite) is a seed that missed. The median is empty if
    there is none; the interval is empty if both ends are missing.
    """
    if not isinstance(entry, dict):
        value = number(entry)
        return ("" if value is None else show(value)), ""
    median, low, high = (number(entry.get(key)) for key in ("median", "low", "high"))
    text = "" if median is None else show(median)
    if low is None and high is None:
        return text, ""
    ends = ["missed" if end is None else show(end) for end in (low, high)]
    return text, f"{ends[0]} to {ends[1]}"


def reached(entry: Any, seeds: int) -> int | None:
    """How many seeds reached the target; None if that is not said."""
    value = entry.get("reached") if isinstance(entry, dict) else None
    if isinstance(value, list):
        return sum(bool(item) for item in value)
    if isinstance(value, bool):
        return seeds if value else 0
    whole = number(value)
    return None if whole is None else int(whole)


def seed_count(source: Source, strategy: str) -> int:
    """The seeds of a strategy: those comparison.json lists, or else those on disk."""
    seeds = section(section(source.comparison, "strategies"), strategy).get("seeds")
    return len(seeds) if isinstance(seeds, list) and seeds else len(source.runs_of(strategy))


def plural(n: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _last(run: Run, key: str) -> float | None:
    """The last number a run's evaluations have under `key`."""
    values = [number(record.get(key)) for record in run.evals]
    return next((value for value in reversed(values) if value is not None), None)


def _cost_cell(entry: Any, seeds: int) -> Record:
    """One cell of the table of costs: `value`, `interval`, `note`, and whether it is a miss."""
    if not isinstance(entry, dict):
        return {"value": DASH, "interval": "", "note": "", "missed": False}
    value, interval = spread(entry, count)
    hits = reached(entry, seeds)
    note = f"reached {hits} of {plural(seeds, 'seed')}" if hits is not None and seeds else ""
    if hits == 0:
        return {"value": "missed", "interval": "", "note": note, "missed": True}
    if not value:
        return {"value": "median missed", "interval": interval, "note": note, "missed": True}
    partly = hits is not None and hits < seeds
    return {"value": value, "interval": interval, "note": note, "missed": partly}


def _final_cell(source: Source, strategy: str) -> Record:
    """Final accuracy from comparison.json, or the median of the last evaluations on disk."""
    entry = section(section(source.comparison, "strategies"), strategy).get("final")
    value, interval = spread(entry, share)
    if value:
        return {"value": value, "interval": interval, "note": "", "missed": False}
    finals = sorted(
        last for run in source.runs_of(strategy) if (last := _last(run, "avg@k")) is not None
    )
    if not finals:
        return {"value": DASH, "interval": "", "note": "", "missed": False}
    middle = (finals[(len(finals) - 1) // 2] + finals[len(finals) // 2]) / 2
    interval = f"{share(finals[0])} to {share(finals[-1])}" if len(finals) > 1 else ""
    return {
        "value": share(middle),
        "interval": interval,
        "note": "last evaluation",
        "missed": False,
    }


def cost_table(source: Source) -> list[Record]:
    """One row a strategy: `name`, `learning_rate`, `seeds`, `cells` (one a cost), `final`."""
    rows = []
    for strategy in source.strategies:
        entry = section(section(source.comparison, "strategies"), strategy)
        seeds = seed_count(source, strategy)
        rate = entry.get("learning_rate")
        if rate is None:
            runs = source.runs_of(strategy)
            rate = find_key(runs[0].config, "learning_rate") if runs else None
        value = number(rate)
        rows.append(
            {
                "name": strategy,
                "learning_rate": f"{value:g}" if value is not None else str(rate or DASH),
                "seeds": seeds,
                "cells": [_cost_cell(entry.get(key), seeds) for _, key, _ in COSTS],
                "final": _final_cell(source, strategy),
            }
        )
    return rows


def ratio_table(source: Source) -> list[Record]:
    """One row a pair: `name`, and `cells` for rollouts, tokens, seconds and final accuracy."""
    rows = []
    for name, entry in section(source.comparison, "ratios").items():
        entry = entry if isinstance(entry, dict) else {}
        cells = []
        for key, show in (("rollouts", ratio), ("tokens", ratio), ("wall_s", ratio)):
            value, interval = spread(entry.get(key), show)
            cells.append({"value": value or "not defined", "interval": interval})
        value, interval = spread(entry.get("final_difference"), signed)
        cells.append({"value": value or DASH, "interval": interval})
        rows.append({"name": str(name), "cells": cells})
    return rows


def _median_rollouts(source: Source, strategy: str) -> float | None:
    entry = section(section(source.comparison, "strategies"), strategy)
    return number(section(entry, "rollouts_to_target").get("median"))


def _headline(source: Source) -> tuple[str, list[str]]:
    """The strategy the conclusion is about, and those it is held against."""
    names = list(section(source.comparison, "strategies"))
    costs = {name: _median_rollouts(source, name) for name in names}
    best = sorted(names, key=lambda name: (costs[name] is None, costs[name] or 0.0))
    main = next((n for n in HEADLINE if n in names), None)
    main = main or next((n for n in names if n.startswith(HEADLINE)), None) or best[0]
    others = [name for name in REFERENCES if name in names and name != main]
    rest = [name for name in reversed(best) if name != main]
    return main, (others or rest)[:2]


def _against(source: Source, main: str, other: str) -> str:
    """`0.09 of grpo's 5,632`, or what can be said if one of the two has no median."""
    cost = _median_rollouts(source, other)
    entry = section(section(source.comparison, "strategies"), other)
    n = seed_count(source, other)
    hits = reached(section(entry, "rollouts_to_target"), n)
    if cost is None:
        return f"while {other} reached it in {hits or 0} of {plural(n, 'seed')}"
    ratios = section(source.comparison, "ratios")
    value = number(section(section(ratios, f"{main}/{other}"), "rollouts").get("median"))
    own = _median_rollouts(source, main)
    if value is None and own is not None and cost:
        value = own / cost
    if value is None:
        return ""
    misses = f" ({n - hits} of {plural(n, 'seed')} missed)" if hits is not None and hits < n else ""
    return f"{ratio(value)} of {other}'s {count(cost)}{misses}"


def _compared(source: Source) -> str:
    """The conclusion of a comparison in one sentence."""
    names = source.strategies
    if not section(source.comparison, "strategies"):
        done = plural(len(source.runs), "run")
        return f"The comparison is not finished: {done} of {', '.join(names) or 'nothing'} so far."
    main, others = _headline(source)
    target = section(source.comparison, "target")
    value = number(target.get("value"))
    goal = "the target" if value is None else f"{target.get('metric') or 'accuracy'} {share(value)}"
    seeds = seed_count(source, main)
    entry = section(section(section(source.comparison, "strategies"), main), "rollouts_to_target")
    own = number(entry.get("median"))
    hits = reached(entry, seeds)
    if own is None:
        return f"{main} reached {goal} in {hits or 0} of {plural(seeds, 'seed')}."
    basis = f"median of {plural(seeds, 'seed')}" if seeds != 1 else "one seed"
    if hits is not None and hits < seeds:
        basis += f", {seeds - hits} of which missed it"
    text = f"{main} reached {goal} in {count(own)} rollouts ({basis})"
    parts = [part for other in others if (part := _against(source, main, other))]
    return f"{text}{', ' if parts else ''}{' and '.join(parts)}."


def _single(source: Source) -> str:
    """The conclusion of one run in one sentence."""
    run = source.runs[0]
    points = [(r, v) for r in run.evals if (v := number(r.get("avg@k"))) is not None]
    steps = run.metrics[-1]["step"] if run.metrics else points[-1][0]["step"] if points else None
    if not points:
        if steps is None:
            return f"{run.label}: nothing has been logged yet."
        return f"{run.label}: {steps:,} steps logged and no evaluation yet."
    (_, first), (last_record, last) = points[0], points[-1]
    cost = number(last_record.get("rollouts_total"))
    k = number(last_record.get("k"))
    metric = f"avg@{int(k)}" if k is not None else "avg@k"
    spent = f" after {count(cost)} rollouts" if cost is not None else ""
    if len(points) == 1:
        return f"{run.label}: {metric} is {share(last)}{spent}."
    return f"{run.label}: {metric} went from {share(first)} to {share(last)}{spent}."


def conclusion(source: Source) -> str:
    """What the page shows, in one sentence."""
    return _compared(source) if source.is_comparison else _single(source)


def pool_line(source: Source) -> str:
    """The pool's signal rate and size, or what the run itself saw of it; empty if unknown."""
    pool = section(source.comparison, "pool")
    rate, size = number(pool.get("signal_rate")), number(pool.get("size"))
    prompts = f" of {size:,.0f} prompts" if size is not None else ""
    if rate is not None:
        return (
            f"Signal rate of the pool{prompts}: {share(rate)} (share of groups whose rewards "
            "differ when prompts are chosen uniformly). It bounds what choosing can save."
        )
    if size is not None:
        return f"The pool holds {size:,.0f} prompts; its signal rate was not recorded."
    if source.is_comparison:
        return "The signal rate of the pool was not recorded."
    logged = [number(r.get("select/signal_rate")) for r in source.runs[0].metrics]
    present = [value for value in logged if value is not None]
    if not present:
        return ""
    mean = sum(present) / len(present)
    return f"Mean signal rate over this run's steps: {share(mean)} (groups whose rewards differ)."


def facts(source: Source, key: str) -> list[tuple[str, str]]:
    """`versions` or `machine` as pairs of name and value, from the comparison or the config."""
    found = section(source.comparison, key) or section(source.config, key)
    return [(str(name), str(value)) for name, value in found.items()]

"""`dopr` against other strategies: three costs, families and seeds together.

    python benchmarks/rivals_study.py runs/studies/rivals/half/ab docs/results/rivals/half/ab
    python benchmarks/rivals_study.py docs/results/strategies/half/ab docs/results/rivals/half/ab \\
        --borrow grpo speed
    python benchmarks/rivals_study.py docs/results/rivals

The first keeps one comparison, finished or not (for each pool and family): its config and tuning,
and of every run that ended the evaluations and what share of its groups carried a signal. The
second takes over runs of another comparison that is kept, on the same pool and seeds: what rivals
do does not hang on the rule that they are compared with. The third reads all that is kept and
writes summary.json, table.md and costs.svg. Nothing is trained. A family where `dopr` or
`uniform-tuned` has no run yet is left out.

Costs are those of the first evaluation at or above what `uniform-tuned` ends with (the median of
its seeds, family by family), then the mean accuracy on the way, then the cost of the target set
before the runs.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matched import (
    COSTS,
    OURS,
    REFERENCE,
    Run,
    Runs,
    area,
    cost_of,
    cost_ratios,
    final,
    finished,
    lines,
    matched_final,
)
from mixed_study import difference
from picture import COLOURS, pyplot, save
from publish_comparison import spread

from dopr.core.statistics import median_with_interval, paired_difference


def read_runs(folder: Path) -> Runs:
    """The runs of a comparison that came to their end."""
    found: Runs = {}
    for name, seed, run in finished(folder):
        steps = lines(run / "metrics.jsonl")
        rates = [
            row["select/signal_rate"] for row in steps if row.get("select/signal_rate") is not None
        ]
        found.setdefault(name, {})[seed] = {
            "evals": [
                {key: row[key] for key in (*COSTS.values(), "avg@k")}
                for row in lines(run / "eval.jsonl")
            ],
            "informative": float(np.mean(rates)) if rates else None,
        }
    return found


def keep(folder: Path, kept: Path) -> None:
    """Copy what the tables need; strategies that were not run again stay as they were kept."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "tuning.json"):
        if (folder / name).exists():
            _keep_strategies(folder / name, kept / name)
    file = kept / "runs.json"
    runs = json.loads(file.read_text()) if file.exists() else {}
    runs |= read_runs(folder)
    file.write_text(json.dumps(runs, sort_keys=True) + "\n")


def _keep_strategies(source: Path, kept: Path) -> None:
    """Copy a file, with what it said before of strategies that it does not name any more."""
    # YAML takes 8e-05 for a word.
    read = json.loads if kept.suffix == ".json" else yaml.safe_load
    found = read(source.read_text())
    if kept.exists():
        found["strategies"] = read(kept.read_text())["strategies"] | found["strategies"]
    text = json.dumps(found, indent=2) if kept.suffix == ".json" else yaml.safe_dump(found)
    kept.write_text(text.rstrip("\n") + "\n")


def borrow(source: Path, kept: Path, names: Sequence[str]) -> None:
    """Take over the runs of some strategies from another comparison, named in each of them."""
    curves = json.loads((source / "curves.json").read_text())
    file = kept / "runs.json"
    runs = json.loads(file.read_text())
    fields = (*COSTS.values(), "avg@k")
    for name in names:
        runs[name] = {
            seed: {
                "evals": [{field: row[field] for field in fields} for row in rows],
                "informative": None,
                "from": "/".join(source.parts[-3:]),
            }
            for seed, rows in curves[name].items()
        }
    file.write_text(json.dumps(runs, sort_keys=True) + "\n")


def summarise_pool(families: dict[str, tuple[dict[str, Any], Runs]]) -> dict[str, Any]:
    """What each strategy took and how `dopr` stands to it, families and seeds together."""
    goals = {
        family: {
            "matched_final": matched_final(runs[REFERENCE]),
            "target": float(config["target"]["value"]),
        }
        for family, (config, runs) in families.items()
    }
    names = list(dict.fromkeys(n for _, runs in families.values() for n in runs))
    strategies = {
        name: _strategy(families, goals, name) | _against(families, goals, name) for name in names
    }
    return {"families": goals, "strategies": strategies}


def _strategy(families: Any, goals: Any, name: str) -> dict[str, Any]:
    runs = [
        (goals[family]["matched_final"], run)
        for family, (_, by_name) in families.items()
        for run in by_name.get(name, {}).values()
    ]
    costs = {
        cost: [cost_of(run, goal, field) for goal, run in runs] for cost, field in COSTS.items()
    }
    known = [run["informative"] for _, run in runs if run["informative"] is not None]
    return {
        "runs": len(runs),
        "borrowed": any("from" in run for _, run in runs),
        "arrived": sum(value is not None for value in costs["rollouts"]),
        "costs": {cost: median_with_interval(values) for cost, values in costs.items()},
        "area": median_with_interval([area(run) for _, run in runs]),
        "final": median_with_interval([final(run) for _, run in runs]),
        "informative": float(np.mean(known)) if known else None,
    }


def _against(families: Any, goals: Any, name: str) -> dict[str, Any]:
    """Ratios of `dopr`'s costs to a strategy's, for all families and for each, and what it gains;
    and of the strategy's costs to the reference's.
    """
    found: dict[str, Any] = {}
    if name != REFERENCE:
        pairs = _pairs(families, name, REFERENCE)
        found["of_reference"] = {
            cost: _ratio(pairs, goals, "matched_final", cost) for cost in COSTS
        }
    if name == OURS:
        return found
    pairs = _pairs(families, OURS, name)

    def gained(measure: Callable[[Run], float]) -> dict[str, Any]:
        both = [pair for found in pairs.values() for pair in found]
        found = paired_difference([measure(own) for own, _ in both], [measure(o) for _, o in both])
        return {key: found[key] for key in ("mean", "mean_low", "mean_high")}

    return found | {
        "dopr_against": {
            "pairs": sum(len(found) for found in pairs.values()),
            "matched_final": {cost: _ratio(pairs, goals, "matched_final", cost) for cost in COSTS},
            "by_family": {
                family: _ratio({family: found}, goals, "matched_final", "rollouts")
                for family, found in pairs.items()
                if found
            },
            "target": _ratio(pairs, goals, "target", "rollouts"),
            "area": gained(area),
            "final": gained(final),
        }
    }


def _pairs(families: Any, ours: str, theirs: str) -> dict[str, list[tuple[Run, Run]]]:
    """Runs of two strategies with the same seed, by family."""
    return {
        family: [
            (runs[ours][seed], runs[theirs][seed])
            for seed in sorted(runs.get(ours, {}), key=int)
            if seed in runs.get(theirs, {})
        ]
        for family, (_, runs) in families.items()
    }


def _ratio(
    pairs: dict[str, list[tuple[Run, Run]]], goals: Any, goal: str, cost: str
) -> dict[str, Any]:
    """What the first of each pair paid over what the second did, families together."""
    values: list[float | None] = []
    bounded = 0
    for family, runs in pairs.items():
        found, upper = cost_ratios(runs, goals[family][goal], COSTS[cost])
        values, bounded = values + found, bounded + upper
    return median_with_interval(values) | {"per_run": values, "bounded": bounded}


def table(summary: dict[str, Any]) -> str:
    """Markdown: for each pool what the strategies took, then how `dopr` stands to them."""
    rows: list[str] = []
    for pool, entry in summary.items():
        goals = ", ".join(f"`{f}` {g['matched_final']:.3f}" for f, g in entry["families"].items())
        rows += [f"### Pool `{pool}`", "", f"To what `{REFERENCE}` ends with: {goals}.", ""]
        rows += [
            "| strategy | arrived | rollouts | tokens | seconds | "
            f"rollouts / `{REFERENCE}` | tokens / it | mean accuracy | final | "
            "informative groups |",
            "| --- |" + " --- |" * 9,
        ]
        for name in in_order(entry):
            one = entry["strategies"][name]
            costs = [_number(one["costs"][cost]["median"]) for cost in COSTS]
            shares = [
                spread(one["of_reference"][cost], ".2f") if "of_reference" in one else ""
                for cost in ("rollouts", "tokens")
            ]
            share = "" if one["informative"] is None else f"{one['informative']:.2f}"
            arrived = f"{one['arrived']}/{one['runs']}"
            rows.append(
                f"| {_label(entry, name)} | {arrived} | {' | '.join(costs + shares)} | "
                f"{one['area']['median']:.3f} | {one['final']['median']:.3f} | {share} |"
            )
        rows += ["", *_against_table(entry), ""]
    return "\n".join(rows)


def _against_table(entry: dict[str, Any]) -> list[str]:
    families = list(entry["families"])
    rows = [
        f"| `{OURS}` / it | rollouts | tokens | seconds | "
        + " | ".join(f"rollouts, `{family}`" for family in families)
        + " | rollouts to the target | mean accuracy | final |",
        "| --- |" + " --- |" * (len(families) + 6),
    ]
    for name in in_order(entry):
        found = entry["strategies"][name].get("dopr_against")
        if not found or not found["pairs"]:
            continue
        cells = [spread(found["matched_final"][cost], ".2f") for cost in COSTS]
        cells += [
            spread(found["by_family"][f], ".2f") if f in found["by_family"] else ""
            for f in families
        ]
        cells.append(spread(found["target"], ".2f"))
        cells += [difference(found[key]) for key in ("area", "final")]
        rows.append(f"| {_label(entry, name)} | " + " | ".join(cells) + " |")
    return rows


def in_order(entry: dict[str, Any]) -> list[str]:
    """Strategies, those that took the fewest rollouts first."""

    def key(name: str) -> tuple[float, float]:
        one = entry["strategies"][name]
        median = one["costs"]["rollouts"]["median"]
        return (float("inf") if median is None else median, -one["area"]["median"])

    return sorted(entry["strategies"], key=key)


def _label(entry: dict[str, Any], name: str) -> str:
    return f"`{name}` †" if entry["strategies"][name]["borrowed"] else f"`{name}`"


def _number(value: float | None) -> str:
    if value is None:
        return "missed"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def draw(summary: dict[str, Any], output: Path) -> None:
    """`dopr`'s costs as shares of every strategy's: a panel a pool, a dot a cost."""
    figure, panels = pyplot().subplots(
        1, len(summary), figsize=(4.6 * len(summary) + 1.2, 4.2), squeeze=False
    )
    for axes, (pool, entry) in zip(panels[0], summary.items(), strict=True):
        names = [n for n in in_order(entry) if entry["strategies"][n].get("dopr_against")][::-1]
        for place, name in enumerate(names):
            found = entry["strategies"][name]["dopr_against"]["matched_final"]
            for number, cost in enumerate(COSTS):
                middle, low, high = (found[cost][key] for key in ("median", "low", "high"))
                if middle is None:
                    continue
                height = place + 0.22 * (1 - number)
                marker = "<" if found[cost]["bounded"] else "o"
                axes.plot(middle, height, marker, color=COLOURS[number], markersize=5)
                if low is not None:
                    end = middle if high is None else high
                    axes.plot([low, end], [height, height], color=COLOURS[number], linewidth=1)
        axes.axvline(1.0, color="#777777", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        ticks = (0.1, 0.2, 0.5, 1, 2, 4)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(f"pool `{pool}`", fontsize=10)
        axes.set_xlabel(f"{OURS}'s cost / the strategy's")
        axes.grid(alpha=0.25, axis="x")
    handles = [
        pyplot().Line2D([], [], color=colour, marker="o", linewidth=1, label=cost)
        for colour, cost in zip(COLOURS, COSTS, strict=False)
    ]
    figure.legend(handles=handles, loc="upper center", ncols=len(COSTS), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    save(figure, output)


def summarise(folder: Path) -> dict[str, Any]:
    """All that is kept below a folder, by pool."""
    pools: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*/*/runs.json")):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        runs = json.loads(file.read_text())
        if {OURS, REFERENCE} <= set(runs):
            pools.setdefault(file.parent.parent.name, {})[file.parent.name] = (config, runs)
    return {pool: summarise_pool(families) for pool, families in pools.items()}


def texts(folder: Path) -> dict[str, str]:
    """What is made of the kept runs, by the file's name."""
    summary = summarise(folder)
    return {"summary.json": json.dumps(summary, indent=1) + "\n", "table.md": table(summary)}


def pictures(folder: Path, output: Path) -> None:
    """Draws the figure of the kept runs into a folder, if there is a pool to show."""
    summary = summarise(folder)
    if summary:
        draw(summary, output / "costs.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="the runs and where they are kept")
    parser.add_argument("--borrow", nargs="+", metavar="STRATEGY", help="take over their runs")
    arguments = parser.parse_args()
    folders = arguments.folders
    if arguments.borrow:
        borrow(*folders, arguments.borrow)
        return
    if len(folders) == 2:
        keep(*folders)
        return
    made = texts(folders[0])
    for name, text in made.items():
        (folders[0] / name).write_text(text)
    pictures(folders[0], folders[0])
    print(made["table.md"])


if __name__ == "__main__":
    main()

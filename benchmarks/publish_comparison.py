"""Keep a comparison for the docs.

    python benchmarks/publish_comparison.py runs/demo docs/results/demo

Copies comparison.json, config.yaml and the evaluation curves of every run (curves.json), writes
table.md, and draws accuracy against rollouts (accuracy.svg) or, where the strategies are too many
for that, what each needed and where it ended (costs.svg). `make results` makes table and figure
anew from what is kept.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from picture import COLOURS, pyplot, save

KEYS = (
    *("step", "rollouts_total", "generated_tokens_total", "tokens_total"),
    *("wall_s", "avg@k", "pass@k"),
)


def read_curves(run_dir: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Evaluations of every run: strategy -> seed -> rows."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file in sorted(run_dir.glob("runs/*/seed-*/eval.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        short = [{key: row[key] for key in KEYS if key in row} for row in rows]
        strategy, seed = file.parent.parent.name, file.parent.name.removeprefix("seed-")
        curves.setdefault(strategy, {})[seed] = short
    return curves


def draw(curves: dict[str, Any], comparison: dict[str, Any], output: Path) -> None:
    """Median over seeds with the band from the lowest to the highest seed."""
    figure, axes = pyplot().subplots(figsize=(7.2, 4.0))
    for colour, name in zip(COLOURS, comparison["strategies"], strict=False):
        runs = list(curves[name].values())
        grid = np.unique(np.concatenate([[r["rollouts_total"] for r in run] for run in runs]))
        values = []
        for run in runs:
            x = np.array([r["rollouts_total"] for r in run])
            y = np.array([r["avg@k"] for r in run])
            values.append(y[np.searchsorted(x, grid, side="right") - 1])
        table = np.array(values)
        spend = np.maximum(grid, 32)
        axes.plot(spend, np.median(table, axis=0), color=colour, label=name, linewidth=2)
        axes.fill_between(spend, table.min(0), table.max(0), color=colour, alpha=0.18, linewidth=0)
    axes.axhline(comparison["target"]["value"], color="#777777", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("rollouts generated (log scale)")
    axes.set_ylabel(f"accuracy, {comparison['target']['metric']}")
    seeds = len(comparison["seeds"])
    axes.set_title(f"median and range over {seeds} seeds; dotted: the target", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.tight_layout()
    save(figure, output)


def headline(comparison: dict[str, Any]) -> str:
    """The strategy that the others are compared with, the first where there are several."""
    return next(iter(comparison["ratios"])).split("/")[0]


def by_cost(comparison: dict[str, Any]) -> list[str]:
    """Strategies, cheapest first; where the median run missed, highest final accuracy first."""

    def key(name: str) -> tuple[float, float]:
        entry = comparison["strategies"][name]
        median = entry["rollouts_to_target"]["median"]
        return (float("inf") if median is None else median, -entry["final"]["median"])

    return sorted(comparison["strategies"], key=key)


def draw_costs(comparison: dict[str, Any], output: Path) -> None:
    """Rollouts to the target and final accuracy of every strategy, with intervals over seeds."""
    names, ours = by_cost(comparison)[::-1], headline(comparison)
    figure, panels = pyplot().subplots(1, 2, figsize=(8.4, 0.9 + 0.24 * len(names)), sharey=True)
    for axes, key in zip(panels, ("rollouts_to_target", "final"), strict=True):
        for place, name in enumerate(names):
            found = comparison["strategies"][name][key]
            colour = COLOURS[4] if name == ours else COLOURS[0]
            if found["median"] is None:
                continue
            axes.plot(found["median"], place, "o", color=colour)
            low, high = found["low"], found["high"]
            if low is not None:
                end = axes.get_xlim()[1] if high is None else high
                axes.plot([low, end], [place, place], color=colour, linewidth=1)
        axes.grid(alpha=0.25)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_xlabel(f"rollouts to {comparison['target']['value']:g} (none: missed)")
    panels[1].set_xlabel(f"final accuracy, {comparison['target']['metric']}")
    figure.suptitle(f"median and 95% interval, {len(comparison['seeds'])} seeds", fontsize=10)
    figure.tight_layout()
    save(figure, output)


def on_the_way(runs: dict[str, list[dict[str, Any]]], metric: str) -> float:
    """Mean of a run's evaluations but the one before training, median over seeds.

    Less a matter of luck than when a target is met first.
    """
    return float(np.median([np.mean([row[metric] for row in run[1:]]) for run in runs.values()]))


def table(comparison: dict[str, Any], curves: dict[str, Any]) -> str:
    """Markdown: what each strategy needed, where it ended, and the headline's ratio to it."""
    ours = headline(comparison)
    lines = [
        f"| | rollouts to {comparison['target']['value']:g} | tokens | mean accuracy | "
        f"final accuracy | `{ours}` / it, rollouts | final, `{ours}` minus it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in by_cost(comparison):
        entry = comparison["strategies"][name]
        cost = entry["rollouts_to_target"]
        reached = f"({cost['reached']}/{len(cost['per_seed'])})"
        pair = comparison["ratios"].get(f"{ours}/{name}")
        cells = [
            f"`{name}`",
            f"{spread(cost, ',.0f')} {reached}",
            spread(entry["tokens_to_target"], ",.0f"),
            f"{on_the_way(curves[name], comparison['target']['metric']):.3f}",
            spread(entry["final"], ".3f"),
            spread(pair["rollouts"], ".2f") if pair else "",
            spread(pair["final_difference"], "+.3f") if pair else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(entry: dict[str, Any], form: str, missed: str = "missed") -> str:
    """A median with its interval; `≤` before a ratio to runs that missed the target."""
    if entry["median"] is None:
        return missed
    ends = ["inf" if entry[end] is None else format(entry[end], form) for end in ("low", "high")]
    sign = "≤ " if entry.get("bounded") else ""
    return f"{sign}{format(entry['median'], form)} ({ends[0]} to {ends[1]})"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A kept comparison and its curves."""
    comparison = json.loads((folder / "comparison.json").read_text())
    return comparison, json.loads((folder / "curves.json").read_text())


def texts(folder: Path) -> dict[str, str]:
    """What is made of a kept comparison, by the file's name."""
    return {"table.md": table(*read(folder))}


def pictures(folder: Path, output: Path) -> None:
    """Draws the figure of a kept comparison into a folder."""
    comparison, curves = read(folder)
    if len(comparison["strategies"]) <= len(COLOURS):
        draw(curves, comparison, output / "accuracy.svg")
    else:
        draw_costs(comparison, output / "costs.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in ("comparison.json", "config.yaml", "tuning.json"):
        if (options.run_dir / name).is_file():
            shutil.copy(options.run_dir / name, options.output / name)
    curves = read_curves(options.run_dir)
    (options.output / "curves.json").write_text(json.dumps(curves) + "\n")
    for name, text in texts(options.output).items():
        (options.output / name).write_text(text)
    pictures(options.output, options.output)


if __name__ == "__main__":
    main()

"""Keep a comparison for the docs.

    python benchmarks/publish_comparison.py runs/demo docs/results/demo

Copies comparison.json, config.yaml and the evaluation curves of every run (curves.json), and draws
accuracy against rollouts (accuracy.svg).
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

KEYS = ("step", "rollouts_total", "generated_tokens_total", "wall_s", "avg@k", "pass@k")
# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999", "#000000")


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
    figure, axes = plt.subplots(figsize=(7.2, 4.0))
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
    figure.savefig(output, metadata={"Date": None})


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
    comparison = json.loads((options.run_dir / "comparison.json").read_text())
    draw(curves, comparison, options.output / "accuracy.svg")


if __name__ == "__main__":
    main()

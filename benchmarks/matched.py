"""The rule by which studies compare costs: what a run had paid when it first came so far.

A run is kept as {"evals": [...]}: evaluations with accuracy (`avg@k`) and what had been paid, in
the order in which they were made, the one before training first.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dopr.core.statistics import ratios

# Tokens are generated ones and those read to choose by.
COSTS = {"rollouts": "rollouts_total", "tokens": "tokens_total", "seconds": "wall_s"}
OURS = "dopr"
REFERENCE = "uniform-tuned"

Run = dict[str, Any]
Runs = dict[str, dict[str, Run]]  # strategy -> seed -> run


def finished(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Strategy, seed and folder of the runs of a comparison that came to their end."""
    for file in sorted(folder.glob("runs/*/seed-*/done.json")):
        if json.loads(file.read_text())["finished"]:
            run = file.parent
            yield run.parent.name, run.name.removeprefix("seed-"), run


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def final(run: Run) -> float:
    return float(run["evals"][-1]["avg@k"])


def matched_final(runs: dict[str, Run]) -> float:
    """What a strategy ends with: the median over its seeds."""
    return float(np.median([final(run) for run in runs.values()]))


def area(run: Run) -> float:
    """Mean accuracy of the evaluations but the one before training."""
    return float(np.mean([row["avg@k"] for row in run["evals"][1:]]))


def cost_of(run: Run, value: float, field: str) -> float | None:
    """What the run had paid at its first evaluation with at least this mean accuracy."""
    return next((row[field] for row in run["evals"] if row["avg@k"] >= value), None)


def cost_ratios(
    pairs: Sequence[tuple[Run, Run]], value: float, field: str
) -> tuple[list[float | None], int]:
    """Costs of the first of each pair over the second's, to an accuracy; `ratios` has the rule."""
    return ratios(
        [cost_of(own, value, field) for own, _ in pairs],
        [cost_of(other, value, field) for _, other in pairs],
        [other["evals"][-1][field] for _, other in pairs],
    )

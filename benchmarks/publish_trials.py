"""Keep the curves of trial comparisons for the docs.

    python benchmarks/publish_trials.py runs/ex docs/results/trials.json

For every run below the folder: its settings that differ from the defaults, its evaluations, and the
share of informative groups in each of its first windows of 256 rollouts.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from dopr.core.configuration import load_yaml, to_mapping
from dopr.runs.settings import TrainSettings

WINDOW = 256
LEFT_OUT = ("output_dir", "dataset", "eval_dataset", "eval", "model", "reward", "threads")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def informative_shares(metrics: list[dict[str, Any]]) -> list[float]:
    """Share of informative groups in each window of rollouts."""
    windows: dict[int, list[float]] = {}
    for row in metrics:
        spent, rate = row.get("rollout/rollouts_total"), row.get("select/signal_rate")
        if spent and rate is not None:
            windows.setdefault((int(spent) - 1) // WINDOW, []).append(rate)
    return [round(float(np.mean(windows[i])), 3) for i in sorted(windows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    usual = to_mapping(TrainSettings())
    assert {f.name for f in dataclasses.fields(TrainSettings)} == set(usual)
    kept = {}
    for file in sorted(options.folder.glob("*/runs/*/*/eval.jsonl")):
        folder = file.parent
        found = load_yaml(str(folder / "config.yaml"))
        kept[str(folder.relative_to(options.folder))] = {
            "settings": {k: v for k, v in found.items() if k not in LEFT_OUT and usual.get(k) != v},
            "finished": (folder / "done.json").is_file(),
            "curve": [[row["rollouts_total"], row["avg@k"]] for row in rows_of(file)],
            f"informative_share_per_{WINDOW}": informative_shares(
                rows_of(folder / "metrics.jsonl")
            ),
        }
    options.output.write_text(json.dumps(kept, indent=0) + "\n")
    print(f"{len(kept)} runs -> {options.output}")


if __name__ == "__main__":
    main()

"""The best model of a run by its evaluations, and when a run has stopped getting better."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dopr.core.files import write_atomically

BEST_FOLDER = "best"
BEST_FILE = "best.json"  # in it: the line of eval.jsonl that made it the best
USUAL_METRIC = "avg@k"

Rows = Sequence[dict[str, Any]]


def place_of_best(rows: Rows, metric: str) -> int | None:
    """The place of the first row with the highest value; None where no row has one.

    Args:
        rows: of eval.jsonl.
        metric: `avg@k` or `pass@k`.
    """
    known = [i for i, row in enumerate(rows) if row.get(metric) is not None]
    return max(known, key=lambda i: (rows[i][metric], -i), default=None)


def has_stopped_improving(rows: Rows, metric: str | None, patience: int | None) -> bool:
    """Whether the last `patience` evaluations were all no better than one before them.

    Args:
        rows: of eval.jsonl, in order.
        metric: None stands for `avg@k`.
        patience: None for never.
    """
    best = place_of_best(rows, metric or USUAL_METRIC)
    if patience is None or best is None:
        return False
    return len(rows) - 1 - best >= patience


def save_best(trainer: Any, run_dir: Path, row: dict[str, Any]) -> None:
    """Save the model as it is into the folder `best`, in place of the one before.

    Called on every process.
    """
    folder = run_dir / BEST_FOLDER
    trainer.save_model(str(folder))
    if trainer.accelerator.is_main_process:
        trainer.processing_class.save_pretrained(folder)
        write_atomically(folder / BEST_FILE, json.dumps(row, indent=1))

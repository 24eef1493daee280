"""The best model of a run by its evaluations, and when a run has stopped getting better."""

import json
import shutil
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


def _folders(run_dir: Path) -> tuple[Path, Path, Path]:
    """The best model, the one that is to take its place, and the one before it."""
    best, new, old = (run_dir / f"{BEST_FOLDER}{end}" for end in ("", ".new", ".old"))
    return best, new, old


def mend_best(run_dir: Path) -> None:
    """Tidy up after a run that was killed while it saved its best model; a whole one is kept."""
    folder, new, old = _folders(run_dir)
    for left in (new, old):
        if not folder.exists() and (left / BEST_FILE).exists():
            left.rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def save_best(trainer: Any, run_dir: Path, row: dict[str, Any]) -> None:
    """Save the model as it is into the folder `best`, in place of the one before.

    Called on every process. The one before stays until the new one is whole.
    """
    folder, new, old = _folders(run_dir)
    main = trainer.accelerator.is_main_process
    if main:
        mend_best(run_dir)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(new))
    trainer.accelerator.wait_for_everyone()
    if main:
        trainer.processing_class.save_pretrained(new)
        write_atomically(new / BEST_FILE, json.dumps(row, indent=1))
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

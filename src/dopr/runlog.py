"""metrics.jsonl: one JSON object a logged step, whatever trackers are on."""

import json
import math
from pathlib import Path
from typing import Any

from dopr.checkpoint import keep_lines_until


class StepLog:
    """Writes a run's metrics as JSON lines.

    Args:
        path: the file; its folder is made at the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []
        self._success: list[float | None] = []

    def chose(self, name: str, success: float) -> None:
        """Note a finished group: the prompt's id and its mean reward."""
        self._names.append(name)
        self._success.append(None if math.isnan(success) else success)

    def write(self, step: int, logs: dict[str, Any], wall_seconds: float) -> None:
        """Append one line with the logs and what was chosen since the line before."""
        row = {"step": step, **logs, "wall_s": wall_seconds}
        row["select/prompt_ids"], row["select/success"] = self._names, self._success
        self._names, self._success = [], []
        append_line(self.path, row)

    def resume(self, step: int) -> None:
        """Drop what was written after the checkpoint of `step`."""
        self._names, self._success = [], []
        keep_lines_until(self.path, step)


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object as a line; NaN and infinities become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(_without_nan(row), allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

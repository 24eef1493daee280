"""JSON lines: one object a line, read while the file is still being written."""

import json
import math
from pathlib import Path
from typing import Any

from dopr.core.files import write_atomically


class NewLines:
    """The objects added to a JSONL file since it was last read.

    A half-written last line waits for its end; a whole line that is no object is passed over.

    Args:
        path: the file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def read(self) -> list[dict[str, Any]]:
        """What is new."""
        if not self._path.is_file():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        found = []
        for line in whole.split(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # left by a run that was killed while writing
            if isinstance(row, dict):
                found.append(row)
        return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, none where there is no file."""
    return NewLines(path).read()


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


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines of a JSONL file whose `step` is later than the given one, or that are cut."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line being written when the run was killed
        if row.get("step", 0) <= step:
            kept.append(line)
    write_atomically(path, "".join(line + "\n" for line in kept))

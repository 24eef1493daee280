"""JSON lines: one object a line, read while the file is still being written."""

import json
import math
from pathlib import Path
from typing import Any

from dopr.core.files import write_atomically

Row = dict[str, Any]


class NewLines:
    """The objects added to a JSONL file since it was last read.

    A half-written last line waits for its end; a whole line that is no object is passed over.

    Args:
        path: the file, which need not exist yet.

    Attributes:
        passed_over: how many lines so far were no objects.
        rest: what stands behind the last whole line.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.passed_over, self.rest = 0, ""

    def read(self) -> list[Row]:
        """What is new."""
        if not self._path.is_file():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._read)
            whole, newline, rest = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        self.rest = _text(rest)
        found = [parse_line(line) for line in _text(whole).split("\n") if line.strip()]
        rows = [row for row in found if row is not None]
        self.passed_over += len(found) - len(rows)
        return rows


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")


def parse_line(line: str) -> Row | None:
    """The object that a line holds; None where it holds none, as one cut by a kill."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_lines(path: Path) -> list[Row]:
    """The objects of a JSONL file, none where there is no file."""
    return NewLines(path).read()


def read_steps(path: Path, notes: list[str]) -> list[Row]:
    """The objects of a JSONL file, merged by their `step` and sorted by it.

    A step that was logged twice (a resumed run, or two log calls) becomes one row in which the
    later values win. A last line without its newline is a run in progress and passes silently;
    any other line that is not an object is left out.

    Args:
        path: the file, which need not exist.
        notes: what could not be read is said here.
    """
    lines = NewLines(path)
    try:
        rows = lines.read()
    except OSError as error:
        notes.append(f"{path.name} could not be read ({error.strerror}).")
        return []
    last = parse_line(lines.rest)
    by_step: dict[int, Row] = {}
    for row in [*rows, *([] if last is None else [last])]:
        step = _step_of(row)
        key = max(by_step, default=-1) + 1 if step is None else step
        present = {name: value for name, value in row.items() if value is not None}
        by_step.setdefault(key, {}).update(present, step=key)
    if lines.passed_over:
        notes.append(
            f"{lines.passed_over} line(s) of {path.name} could not be read and were left out."
        )
    return [by_step[step] for step in sorted(by_step)]


def _step_of(row: Row) -> int | None:
    step = row.get("step")
    try:
        return int(float(step)) if isinstance(step, (int, float)) else None
    except (ValueError, OverflowError):  # NaN, infinite, or beyond what a float holds
        return None


def append_line(path: Path, row: Row) -> None:
    """Append one JSON object as a line; NaN and infinities become null, tensors their values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(_without_nan(row), allow_nan=False, default=str) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if hasattr(value, "tolist"):
        return _without_nan(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines of a JSONL file whose `step` is later than the given one, or that are cut."""
    if not path.is_file():
        return
    kept = [
        line
        for line in path.read_text(encoding="utf-8").split("\n")
        if (row := parse_line(line)) is not None and row.get("step", 0) <= step
    ]
    write_atomically(path, "".join(line + "\n" for line in kept))

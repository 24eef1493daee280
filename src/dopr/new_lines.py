"""Reading a JSONL file that is still being written."""

import json
from pathlib import Path
from typing import Any


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

"""Rows from files, folders, the Hugging Face Hub, and a user's own function."""

import json
import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.core.user_objects import describe, load_object, split_file_spec

RawRows = list[dict[str, Any]]

_ROWS_AT_ONCE = 10_000  # of a Parquet file

_HUB_ID = re.compile(r"^[\w.-]+(?:/[\w.-]+)?(?:#[\w.-]+)?$")


def read_source(source: str, split: str, limit: int | None = None) -> tuple[RawRows, str]:
    """The raw rows of one source and the label its rows carry as `data_source`.

    Args:
        source: a file, a folder saved by `datasets`, a Hub id with an optional `#config`, or
            `path/to/file.py:name`.
        split: for a folder with several splits, a Hub dataset, or a function with a `split`.
        limit: read so many rows and no more; null reads all. (A `.json` file has to be read whole.)

    Raises:
        UserError: what is named does not exist or cannot be read.
    """
    if ".py:" in source or source.endswith(".py"):
        return _from_function(source, split, limit), source.rpartition(":")[2]
    path = Path(source).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        return _from_folder(path, source, split, limit), path.name
    if reader is not None:
        if not path.is_file():
            raise UserError(f"there is no file {source!r}; check the path")
        return reader(path, source, limit), path.stem
    if path.is_file():
        raise UserError(f"{source!r} is not one of {', '.join(_READERS)}; convert it")
    if not _HUB_ID.match(source) or source.startswith("."):
        raise UserError(f"there is neither a file {source!r} nor can it be a Hub dataset's id")
    return _from_hub(source, split, limit), source


def _read_jsonl(path: Path, source: str, limit: int | None) -> RawRows:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(_decoded(lines, source), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{source!r}: line {number} is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{source!r}: line {number} is not an object")
            rows.append(row)
            if len(rows) == limit:
                break
    return rows


def _decoded(lines: Any, source: str) -> Any:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{source!r} is not UTF-8 text ({error.reason})") from None


def _read_json(path: Path, source: str, limit: int | None) -> RawRows:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{source!r} is not JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{source!r} is not a list of objects; write one row an object")
    return rows[:limit]


def _read_parquet(path: Path, source: str, limit: int | None) -> RawRows:
    import pyarrow
    import pyarrow.parquet

    rows: RawRows = []
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for batch in file.iter_batches(min(limit or _ROWS_AT_ONCE, _ROWS_AT_ONCE)):
            rows += batch.to_pylist()
            if limit is not None and len(rows) >= limit:
                break
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source!r} cannot be read as Parquet ({reason})") from None
    return rows[:limit]


_READERS: dict[str, Callable[[Path, str, int | None], RawRows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _from_folder(path: Path, source: str, split: str, limit: int | None) -> RawRows:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"{source!r} is not a folder saved by datasets' save_to_disk; name a file in it"
        ) from error
    return _rows_of(loaded, source, split, limit)


def _from_hub(source: str, split: str, limit: int | None) -> RawRows:
    import datasets

    name, _, config = source.partition("#")
    try:
        loaded = datasets.load_dataset(name, config or None, split=split)
    except ValueError as error:  # an unknown split or configuration; the message names the known
        raise UserError(f"Hub dataset {source!r}: {' '.join(str(error).split())}") from error
    except Exception as error:  # offline, missing, gated, script-based: many unrelated types
        raise UserError(
            f"Hub dataset {source!r} cannot be loaded ({type(error).__name__}); check the id and "
            "the connection, or name a local .jsonl or .parquet file"
        ) from error
    return _rows_of(loaded, source, split, limit)


def _from_function(source: str, split: str, limit: int | None) -> RawRows:
    import inspect

    function = load_object(source, "task")
    if not callable(function):
        raise UserError(f"task {source!r} is not callable; name a function that returns rows")
    takes_split = "split" in inspect.signature(function).parameters
    try:
        loaded = function(split=split) if takes_split else function()
        return _rows_of(loaded, source, split, limit)
    except UserError:
        raise
    except Exception as error:  # of the user's own code, also while it yields rows
        path, _ = split_file_spec(source, "task")
        raise UserError(f"task {source!r} raised {describe(error, path)}") from error


def _rows_of(loaded: Any, source: str, split: str, limit: int | None) -> RawRows:
    import datasets

    if isinstance(loaded, datasets.DatasetDict | datasets.IterableDatasetDict):
        if split not in loaded:
            raise UserError(f"{source!r}: {unknown_name('split', split, map(str, loaded))}")
        loaded = loaded[split]
    if not isinstance(loaded, Iterable):
        raise UserError(f"{source!r} must give rows, not {type(loaded).__name__}")
    rows = list(islice(loaded, limit))
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{source!r} must give rows that are dicts")
    return rows

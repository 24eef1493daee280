"""What a checkpoint holds beside TRL's files, and how a damaged one is told from a whole one."""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from dopr.core.errors import UserError
from dopr.core.files import write_atomically

logger = logging.getLogger(__name__)

STATE_FILE = "dopr_state.json"
ARRAYS_FILE = "dopr_state.npz"
MANIFEST_FILE = "dopr_manifest.json"
FORMAT_VERSION = 1


def save_state(folder: Path, state: dict[str, Any], compress: bool = True) -> None:
    """Write nested plain values as JSON and their arrays as an npz file without pickles.

    Args:
        folder: where to.
        state: what.
        compress: smaller files, many times as slowly.
    """
    arrays: dict[str, np.ndarray] = {}
    plain = _split_arrays(state, "", arrays)
    with open(folder / ARRAYS_FILE, "wb") as file:
        save = np.savez_compressed if compress else np.savez
        save(file, **arrays)  # type: ignore[arg-type]
    (folder / STATE_FILE).write_text(json.dumps({"version": FORMAT_VERSION, "state": plain}))


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        UserError: the folder is no checkpoint of dopr, or one of a newer version.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise UserError(
            f"{folder} is not a dopr checkpoint: it has no {STATE_FILE}; to begin with its "
            "weights, give it as the model"
        )
    content = json.loads(file.read_text())
    if content.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{folder} has checkpoint format {content.get('version')}, this dopr reads "
            f"{FORMAT_VERSION}; resume it with the version that wrote it"
        )
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        return _join_arrays(content["state"], arrays)


def write_manifest(folder: Path) -> None:
    """List every file of a finished checkpoint with its size and hash; written last, atomically."""
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    write_atomically(folder / MANIFEST_FILE, json.dumps(files, indent=1))


def is_whole(folder: Path) -> bool:
    """Whether the checkpoint has a manifest and every file is as it was when that was written."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return False
    try:
        files = json.loads(manifest.read_text())
    except json.JSONDecodeError:
        return False
    return all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == entry["size"]
        and _digest(folder / name) == entry["sha256"]
        for name, entry in files.items()
    )


def latest_checkpoint(run_dir: str | Path, nested: bool = True) -> Path | None:
    """The newest whole checkpoint under a run directory; damaged ones are named and passed over.

    Args:
        run_dir: where to look.
        nested: look in its subfolders too.
    """
    found = []
    for folder in Path(run_dir).glob("**/checkpoint-*" if nested else "checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if match and folder.is_dir():
            found.append((int(match.group(1)), folder))
    for _, folder in sorted(found, reverse=True):
        if is_whole(folder):
            return folder
        logger.warning("checkpoint %s is incomplete or damaged; trying the one before", folder.name)
    return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_arrays(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"__array__": path}
    if isinstance(value, dict):
        return {k: _split_arrays(v, f"{path}/{k}", arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split_arrays(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _join_arrays(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {k: _join_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_join_arrays(v, arrays) for v in value]
    return value

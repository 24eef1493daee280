"""Objects that a user names as `path/to/file.py:name`: strategies, rewards, tasks."""

import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from dopr.core.errors import UserError, unknown_name

_FILE_SPEC = re.compile(r"^(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)$")


def is_file_spec(spec: str) -> bool:
    """Whether `spec` has the form `path/to/file.py:name` (the file need not exist)."""
    return _FILE_SPEC.match(spec) is not None


def split_file_spec(spec: str, kind: str) -> tuple[Path, str]:
    """Split `path/to/file.py:name` into an existing file and a name.

    Args:
        spec: what the user wrote.
        kind: what the object should be, such as "reward"; used in messages.

    Raises:
        UserError: the form is wrong or the file does not exist.
    """
    match = _FILE_SPEC.match(spec)
    if match is None:
        raise UserError(f"{kind} {spec!r} is not of the form path/to/file.py:name")
    path = Path(match["path"]).expanduser()
    if not path.is_file():
        raise UserError(f"{kind} {spec!r}: there is no file {match['path']!r}; check the path")
    return path.resolve(), match["name"]


def load_object(spec: str, kind: str) -> Any:
    """Load the object named by `path/to/file.py:name`.

    The file's own folder is importable for it. A file that has not changed since it was last loaded
    is not run again, so its classes and counters stay the same objects.

    Args:
        spec: `path/to/file.py:name`.
        kind: what the object should be, such as "strategy"; used in messages.

    Raises:
        UserError: wrong form, missing file, a file that fails to load, or a missing name.
    """
    path, name = split_file_spec(spec, kind)
    module = _load_module(path, spec, kind)
    if not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        error = unknown_name(f"name in {path.name}", name, public)
        raise UserError(f"{kind} {spec!r}: {error}")
    return getattr(module, name)


def _load_module(path: Path, spec: str, kind: str) -> ModuleType:
    stamp = f"{path}:{path.stat().st_mtime_ns}"
    module_name = f"dopr_user_{path.stem}_{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None and module_spec.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(module_spec)
    # Registered before it runs: dataclasses and pickling look the module up by name.
    sys.modules[module_name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(f"{kind} {spec!r} failed to load: {describe(error, path)}") from error
    return module


def describe(error: BaseException, path: Path) -> str:
    """`Type: message (file.py:12)`, the line being the last one inside `path`."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename) == path:
            line = frame.lineno
    where = f" ({path.name}:{line})" if line is not None else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}{where}"

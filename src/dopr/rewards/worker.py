"""The child process that runs untrusted checks: started by `sandbox.Workers`, never imported by it.

Usage: `python -P worker.py HANDLER JSON_OPTIONS`. HANDLER is a file (or a package with a file
handler.py) that has `load(options)`, which returns a function from a request to a result. Requests
and replies are JSON, one a line, over stdin and stdout.

This file and the handlers import nothing from `dopr`: a child must start in well under a second and
fit into a small memory limit, and the package may import torch.
"""

import importlib.util
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def _limit_memory(megabytes: int | None) -> list[str]:
    """Limit this process's address space; what could not be limited, and why."""
    if megabytes is None:
        return []
    if resource is None:
        return ["memory (there is no module `resource`)"]
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        size = megabytes * 2**20
        if hard != resource.RLIM_INFINITY:  # lower already, and nobody may raise it again
            size = min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (OSError, ValueError, AttributeError) as error:
        return [f"memory (setrlimit: {error})"]
    # macOS takes the limit and does not apply it.
    return ["memory (macOS does not apply it)"] if sys.platform == "darwin" else []


def _limit_processor_time(seconds: float) -> list[str]:
    """Let the kernel end this process should nobody be left to do it; what could not be limited."""
    if resource is None:
        return ["processor time (there is no module `resource`)"]
    try:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent = usage.ru_utime + usage.ru_stime
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        limit = int(spent + seconds) + 2
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    except (OSError, ValueError, AttributeError) as error:
        return [f"processor time (setrlimit: {error})"]
    return []


def _exit_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


def _lines(requests: TextIO) -> Iterator[str]:
    """The requests, read by a thread that ends this process when the parent is gone."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in requests:
            lines.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _private_pipes() -> tuple[TextIO, TextIO]:
    """Keep stdin and stdout for the parent; checked code reads nothing and prints to stderr."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, replies


def _error(error: BaseException, path: str | None) -> dict[str, Any]:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == path:
            line = frame.lineno
    where = f" ({Path(path).name}:{line})" if path and line is not None else ""
    message = " ".join(str(error).split())
    return {"type": type(error).__name__, "text": f"{type(error).__name__}: {message}{where}"}


def _load(path: Path, options: dict[str, Any]) -> tuple[Callable[[Any], Any], list[str]]:
    """The handler's function, and what it says that it cannot enforce.

    Of a package the function is in `handler.py`, which may import its neighbours relatively.
    """
    module = _module("checker", path / "__init__.py" if path.is_dir() else path)
    if path.is_dir():
        module = importlib.import_module("checker.handler")
    return module.load(options), list(getattr(module, "unenforced", ()))


def _module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Load the handler named on the command line, and answer requests until the parent ends."""
    options = json.loads(sys.argv[2])
    requests, replies = _private_pipes()
    user_file = options.get("path")

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    if hasattr(os, "getppid"):
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        handle, unenforced = _load(Path(sys.argv[1]), options)
    except BaseException as error:
        reply({"failed": _error(error, user_file)})
        return
    unenforced += _limit_memory(options.get("memory_mb"))
    # Twice the parent's limit: the parent's clock decides, this one only mops up after it.
    unenforced += _limit_processor_time(2 * options["time_limit_s"])
    reply({"ready": True, "unenforced": unenforced})
    for line in _lines(requests):
        request = json.loads(line)
        _limit_processor_time(2 * options["time_limit_s"])
        try:
            reply({"result": handle(request)})
        except BaseException as error:
            reply({"error": _error(error, user_file)})


if __name__ == "__main__":
    main()

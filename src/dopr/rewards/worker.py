"""The child process that runs untrusted checks: started by `sandbox.Pool`, never imported by it.

Usage: `python -P worker.py HANDLER.py JSON_OPTIONS`. HANDLER.py has `load(options)`, which returns
a function from a request to a result. Requests and replies are JSON, one a line, over stdin and
stdout.

This file and the handlers import nothing from `dopr`: a child must start in well under a second and
fit into a small memory limit, and the package may import torch.
"""

import importlib.util
import json
import os
import resource
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO


def _limit_memory(megabytes: int | None) -> None:
    if megabytes is not None:
        size = megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _limit_processor_time(seconds: float) -> None:
    """Let the kernel end this process should nobody be left to do it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 2, hard))


def _exit_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


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


def main() -> None:
    """Load the handler named on the command line, and answer requests until the parent ends."""
    handler_path, options = sys.argv[1], json.loads(sys.argv[2])
    requests, replies = _private_pipes()
    user_file = options.get("path")

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        spec = importlib.util.spec_from_file_location("handler", handler_path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handle = module.load(options)
    except BaseException as error:
        reply({"failed": _error(error, user_file)})
        return
    _limit_memory(options.get("memory_mb"))
    reply({"ready": True})
    for line in requests:
        request = json.loads(line)
        # Twice the parent's limit: the parent's clock decides, this one only mops up after it.
        _limit_processor_time(2 * options["time_limit_s"])
        try:
            reply({"result": handle(request)})
        except BaseException as error:
            reply({"error": _error(error, user_file)})


if __name__ == "__main__":
    main()

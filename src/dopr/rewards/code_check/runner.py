"""Runs untrusted code in a process of its own: started by handler.py for one job, then gone.

Usage: `python -s -P runner.py FOLDER`. FOLDER holds `job.json`; the limits are set before any of
the code is looked at. For a program, its standard streams are this process's own. For tests that
call functions, the value of each (no verdict) is added to `results.jsonl`, a line at once, so that
what was found before a hang or a crash is not lost.

This is the one file of the package that executes what a model wrote.
"""

import importlib.util
import json
import math
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What solutions to problems on the web use without importing it.
_PRELUDE = """
import bisect, collections, copy, functools, heapq, itertools, json, math, operator, random, re
import string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import ceil, comb, factorial, floor, gcd, inf, log, sqrt
from typing import *
"""


def main() -> None:
    """Run the job of the folder named on the command line, and print what came of it."""
    folder = Path(sys.argv[1])
    job_file = folder / "job.json"
    job = json.loads(job_file.read_text(encoding="utf-8"))
    job_file.unlink()  # the code need not see what it is asked
    _end_with_parent()
    unenforced = _neighbour("limits").apply(folder, job["memory_mb"], job["cpu_s"], job["file_mb"])
    os.chdir(folder)
    sys.argv = ["program.py"]
    if job["kind"] == "program":
        _run(job["code"], _module("__main__"))
        return
    say = _writer(job["key"])
    say({"unenforced": unenforced})
    module = _module("program")
    exec(_PRELUDE, module.__dict__)  # noqa: S102 (ours)
    _run(job["setup"] + "\n" + job["code"], module)
    say({"loaded": True})
    for number in range(job["start"], len(job["tests"])):
        say({"test": number, **_value(job["tests"][number], module)})


def _end_with_parent() -> None:
    """Nobody keeps the time once the parent is gone."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(9))  # PR_SET_PDEATHSIG, SIGKILL
    elif hasattr(os, "getppid"):
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _neighbour(name: str) -> Any:
    """A module beside this one; with `-P` this folder is not searched for others."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(code: str, module: types.ModuleType) -> None:
    exec(compile(code, "program.py", "exec"), module.__dict__)  # noqa: S102 (what this is for)


def _writer(key: str) -> Callable[[dict[str, Any]], None]:
    """A function that adds a line to the results, with a key that says it is no one else's."""
    results = open("results.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (to the end)
    # What the code may have replaced by the time it is used.
    write, flush, dumps = results.write, results.flush, json.dumps

    def say(message: dict[str, Any]) -> None:
        write(dumps({"key": key, **message}) + "\n")
        flush()

    return say


def _value(test: dict[str, Any], module: types.ModuleType) -> dict[str, Any]:
    """What a test's call gives, as JSON that keeps its types; or the name of the exception."""
    try:
        if "expression" in test:
            compiled = compile(test["expression"], "test.py", "eval")
            found = eval(compiled, module.__dict__)  # noqa: S307
            return {"value": _truth(found) if test.get("truth") else encode(found)}
        if "script" in test:
            _run(test["script"], module)
            return {"value": True}
        return {"value": encode(_function(test["function"], module)(*test["arguments"]))}
    except BaseException as error:
        return {"error": type(error).__name__}


def _truth(value: Any) -> bool:
    """`bool` itself may have been replaced."""
    return not not value  # noqa: SIM208


def _function(name: str, module: types.ModuleType) -> Any:
    """A function of that name, or the method of a class `Solution`."""
    found = getattr(module, name, None)
    if found is None and hasattr(module, "Solution"):
        found = getattr(module.Solution(), name, None)
    if found is None:
        raise LookupError(name)
    return found


def encode(value: Any) -> Any:
    """A value as JSON: scalars as they are, others as `{"kind": ..., "value": ...}`."""
    if value is None or type(value) is bool or type(value) is str:
        return value
    if isinstance(value, int):
        return int.__add__(value, 0)
    if isinstance(value, float):
        number = float.__add__(value, 0.0)
        return number if math.isfinite(number) else {"kind": "float", "value": repr(number)}
    if isinstance(value, str):
        return str.__str__(value)
    kinds: tuple[tuple[str, Any], ...] = (("list", list), ("tuple", tuple), ("set", set))
    for kind, cls in (*kinds, ("set", frozenset)):
        if isinstance(value, cls):
            return {"kind": kind, "value": [encode(item) for item in cls.__iter__(value)]}
    if isinstance(value, dict):
        pairs = [[encode(k), encode(v)] for k, v in dict.items(value)]
        return {"kind": "dict", "value": pairs}
    if isinstance(value, (complex, bytes)):
        return {"kind": type(value).__name__, "value": repr(value)}
    if type(value).__module__ == "numpy":
        return encode(value.tolist())
    return {"kind": "other", "value": type(value).__name__}


if __name__ == "__main__":
    main()

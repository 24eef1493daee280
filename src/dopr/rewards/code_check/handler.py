"""Runs in a checking process: starts untrusted code in processes of its own, and judges it.

Every test of a program, and all calls of functions together, run in a fresh process (runner.py)
that has limited itself; this one keeps the time and the size of what is written, kills, and
compares. Imports nothing from `dopr` (see worker.py).
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .compare import assertion, decode, same_output, same_result

_RUNNER = Path(__file__).with_name("runner.py")
_POLL_S = 0.05
_MOST_FILES = 1000
_MOST_THREADS = 256
# What reading and comparing may raise where code has written the value itself.
_HOSTILE = (
    *(ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError),
    ValueError,
)

unenforced: list[str] = []  # read by worker.py once `load` is done


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that judges, after a trial run that shows what can be enforced here."""
    limits = options["limits"]
    test = {"function": "f", "arguments": [], "expected": 42}
    trial = {"code": "def f(): return 6 * 7", "setup": "", "tests": [test], "all": False}
    verdict = judge(trial, {**limits, "test_s": 60.0, "check_s": 60.0}, found=unenforced)
    if verdict["passed"] != 1:
        raise RuntimeError("a trial run of code gave no result")
    if not hasattr(os, "killpg"):
        unenforced.append("the end of processes that code has started")
    return lambda request: judge(request, limits)


def judge(
    request: dict[str, Any], limits: dict[str, Any], found: list[str] | None = None
) -> dict[str, Any]:
    """How many tests a solution passes.

    Args:
        request: `code`; `setup`, run before it where functions are called; `tests`, each with
            `input` and `output` (a program), with `function`, `arguments` and `expected`, or with
            an `assertion`; `all`, whether to go on after a test that fails.
        limits: `test_s`, `check_s`, `memory_mb`, `file_mb`.
        found: receives what could not be enforced.

    Returns:
        `passed` and `tests`, two numbers.
    """
    tests = [
        assertion(test["assertion"]) if "assertion" in test else test for test in request["tests"]
    ]
    deadline = time.monotonic() + limits["check_s"]
    programs = [test for test in tests if "input" in test]
    calls = [test for test in tests if "input" not in test]
    passed = 0
    for test in programs:
        right = _program(request["code"], test, limits, deadline)
        passed += right
        if not right and not request["all"]:
            return {"passed": passed, "tests": len(tests)}
    if calls:
        passed += _calls(request, calls, limits, deadline, found)
    return {"passed": passed, "tests": len(tests)}


def _program(code: str, test: dict[str, Any], limits: dict[str, Any], deadline: float) -> bool:
    """Whether a program prints what a test expects, and ends well."""
    ended = _run({"kind": "program", "code": code}, limits, deadline, test["input"])
    return ended.status == 0 and same_output(ended.printed, test["output"])


def _calls(
    request: dict[str, Any],
    tests: list[dict[str, Any]],
    limits: dict[str, Any],
    deadline: float,
    found: list[str] | None,
) -> int:
    """How many calls give what is expected; after a hang or a crash the rest starts anew."""
    # What is expected stays here.
    asked = [{k: v for k, v in test.items() if k != "expected"} for test in tests]
    job = {"kind": "calls", "code": request["code"], "setup": request["setup"], "tests": asked}
    start = passed = 0
    while start < len(tests) and time.monotonic() < deadline:
        key = secrets.token_hex(16)
        ended = _run({**job, "start": start, "key": key}, limits, deadline, "")
        messages = _messages(ended.said, key)
        if found is not None:
            found.extend(name for message in messages for name in message.get("unenforced", ()))
        answers = _in_turn([message for message in messages if "test" in message], start)
        results = [_right(test, m) for test, m in zip(tests[start:], answers, strict=False)]
        passed += sum(results)
        start += len(results)
        loaded = any("loaded" in message for message in messages)
        went_well = all(results) and start == len(tests)
        if not loaded or not (request["all"] or went_well):
            break
        start += 1  # this one did not end; where all have ended there is none
    return passed


def _in_turn(answers: list[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    """The answers to the tests from `start` on, each once and in order, as the runner gives them.

    Code that has found the key may say the same right answer again, or one to another test.
    """
    turns = itertools.count(start)
    return list(itertools.takewhile(lambda answer: answer["test"] == next(turns), answers))


def _right(test: dict[str, Any], answer: dict[str, Any]) -> bool:
    if "value" not in answer:
        return False
    try:
        value = decode(answer["value"])
        if "function" in test:
            return same_result(value, test["expected"])
        # An assertion means what Python says it means.
        return bool(value == test.get("expected", True))
    except _HOSTILE:
        return False


def _messages(said: str, key: str) -> list[dict[str, Any]]:
    """What the runner said, and nothing that the code may have written beside it."""
    messages = []
    for line in said.splitlines():
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):  # cut off, or not the runner's
            continue
        if isinstance(message, dict) and message.get("key") == key:
            messages.append(message)
    return messages


@dataclass(frozen=True)
class _Ended:
    """What is left of a run: its status, None where it was stopped, and what it wrote."""

    status: int | None
    printed: str = ""
    said: str = ""


def _run(job: dict[str, Any], limits: dict[str, Any], deadline: float, text: str) -> _Ended:
    """Run a job in a folder of its own, to its end or to a limit."""
    left = deadline - time.monotonic()
    if left <= 0:
        return _Ended(None)
    told = {"memory_mb": limits["memory_mb"], "file_mb": limits["file_mb"], "cpu_s": left}
    with _Folder() as folder:
        (folder / "job.json").write_text(json.dumps({**job, **told}), encoding="utf-8")
        (folder / "stdin").write_text(text, encoding="utf-8")
        # Read through these alone: by now a link or a pipe may be called what they were called.
        with (
            open(folder / "stdin", "rb") as source,
            open(folder / "stdout", "w+b") as printed,
            open(folder / "results.jsonl", "w+b") as said,
        ):
            process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-X", "utf8", str(_RUNNER), str(folder)],
                stdin=source,
                stdout=printed,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
                start_new_session=hasattr(os, "setsid"),
            )
            try:
                status = _watch(process, folder, said.fileno(), limits, deadline)
            finally:
                _kill(process)
            return _Ended(status, *(_read(file, limits["file_mb"]) for file in (printed, said)))


def _watch(
    process: "subprocess.Popen[bytes]",
    folder: Path,
    results: int,
    limits: dict[str, Any],
    deadline: float,
) -> int | None:
    """Wait for the end of a process, as long as each of its tests is in time.

    Args:
        results: descriptor of the file that grows with each test that has ended.
    """
    until, known = time.monotonic() + limits["test_s"], 0
    while True:
        try:
            return process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            size = os.fstat(results).st_size
            if size != known:  # a test has ended, the time of the next begins
                until, known = now + limits["test_s"], size
            if now >= min(until, deadline) or _too_many_threads(process.pid):
                return None
            if _too_much(folder, limits["file_mb"]):
                return None


def _too_many_threads(process: int) -> bool:
    """Whether a process has more threads than a solution needs; only Linux says how many."""
    try:
        return len(os.listdir(f"/proc/{process}/task")) > _MOST_THREADS
    except OSError:
        return False


def _too_much(folder: Path, file_mb: float) -> bool:
    """Whether a folder holds too many files, in all more than four of the largest size, or folders
    in which nobody can look for them.
    """
    size = number = 0
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        for name in names:
            number += 1
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size
        if number > _MOST_FILES or size > 4 * file_mb * 2**20:
            return True
    return any(isinstance(error, PermissionError) for error in closed)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process and whatever it started."""
    if hasattr(os, "killpg") and hasattr(os, "setsid"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: no tokens, no paths."""
    own = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    own |= {name: str(folder) for name in ("HOME", "TMPDIR", "TEMP", "TMP")}
    own |= {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    if "SYSTEMROOT" in os.environ:  # without it, nothing starts on Windows
        own["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return own


def _read(file: BinaryIO, file_mb: float) -> str:
    file.seek(0)
    return file.read(int(file_mb * 2**20)).decode("utf-8", errors="replace")


class _Folder:
    """A working folder that is gone afterwards, whatever modes its folders were made with."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="dopr-code-"))
        return self.path

    def __exit__(self, *exception: object) -> None:
        for place, names, _ in os.walk(self.path):
            for inner in (os.path.join(place, name) for name in names):
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
        shutil.rmtree(self.path, ignore_errors=True)

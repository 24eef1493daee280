"""Checks in child processes that can be killed: a time limit for each, and a memory limit for all.

Checkers hang (a tower of powers), and user code does too; a signal-based limit works on the main
thread alone and fails silently elsewhere. Here the parent watches the clock and kills. Children are
plain subprocesses (not `multiprocessing`), so they work from any thread, under pytest, and in
scripts without a `__main__` guard. Their pipes are read and written by threads, since Windows can
neither wait on pipes nor make them non-blocking.
"""

import atexit
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_START_LIMIT_S = 300.0

Status = Literal["ok", "timeout", "crash", "error"]

_told_unenforced: set[str] = set()


class WorkerStartError(Exception):
    """A child process could not load what it was to run; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        status: "ok"; "timeout" (killed at its time limit); "crash" (the child died, as when it ran
            out of memory); "error" (the check raised an exception and the child lives on).
        value: the result where status is "ok".
        error: `Type: message (file:line)` where status is "error".
        error_type: the exception's class name where status is "error".
    """

    status: Status
    value: Any = None
    error: str = ""
    error_type: str = ""


class _Worker:
    """One child process and the request it is at.

    Args:
        handler: what the child runs.
        options: for the handler.
        quiet: see `Workers`.
        inbox: where `(worker, message)` goes for each message of the child, `(worker, None)` when
            it has died.
    """

    def __init__(
        self,
        handler: Path,
        options: dict[str, Any],
        quiet: bool,
        inbox: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]",
    ) -> None:
        environment = dict(os.environ)
        if quiet:  # a checker needs one thread; its messages are of no use to anyone
            environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_HERE / "worker.py"), str(handler), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env=environment,
            bufsize=0,
            # So that whatever it starts can be killed along with it.
            start_new_session=hasattr(os, "setsid"),
        )
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + _START_LIMIT_S
        self._inbox = inbox
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for target in (self._read, self._write):
            threading.Thread(target=target, daemon=True).start()

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def assign(self, job: int, request: Any, time_limit_s: float) -> None:
        self.job = job
        self._outgoing.put(json.dumps(request).encode() + b"\n")
        self.deadline = time.monotonic() + time_limit_s

    def kill(self) -> None:
        """End the child, and what it started where the system has groups of processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg") and hasattr(os, "setsid"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        self._outgoing.put(None)

    def _read(self) -> None:
        """In a thread: pass on what the child says, one JSON value a line."""
        assert self.process.stdout is not None
        incoming = bytearray()
        with contextlib.suppress(OSError, ValueError), self.process.stdout as pipe:
            while chunk := pipe.read(1 << 16):
                incoming += chunk
                while b"\n" in incoming:
                    line, _, incoming = incoming.partition(b"\n")
                    self._inbox.put((self, json.loads(line)))
        self._inbox.put((self, None))

    def _write(self) -> None:
        """In a thread: a large request may wait until the child reads it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdin as pipe:
            while (data := self._outgoing.get()) is not None:
                rest = memoryview(data)
                while rest:
                    rest = rest[pipe.write(rest) :]


class Workers:
    """Child processes of one kind, started when first needed and kept for later calls.

    Where the system cannot enforce a limit (`resource` is missing on Windows, macOS does not limit
    memory), checks run all the same, and a warning says once what is not enforced.

    Args:
        handler: name, in this folder, of the file or package that the children run.
        options: passed to the handler's `load`; JSON.
        time_limit_s: seconds for one request, counted from when a started child receives it.
        memory_mb: limit on a child's address space, mebibytes; None for no limit.
        workers: most children at a time.
        quiet: discard the children's stderr and keep them to one thread.
        requests_per_worker: below this many, starting another child costs more than it saves.
    """

    def __init__(
        self,
        handler: str,
        options: dict[str, Any] | None = None,
        *,
        time_limit_s: float = 5.0,
        memory_mb: int | None = 2048,
        workers: int | None = None,
        quiet: bool = True,
        requests_per_worker: int = 16,
    ) -> None:
        self.time_limit_s = time_limit_s
        self.max_workers = workers or max(1, min(4, (os.cpu_count() or 1)))
        self.unenforced: list[str] = []  # what the children cannot be limited in; known once ready
        self._handler = _HERE / handler
        self._memory_mb = memory_mb
        self._options = dict(options or {})
        self._quiet = quiet
        self._requests_per_worker = requests_per_worker
        self._workers: list[_Worker] = []
        self._inbox: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        atexit.register(self.close)

    def start(self) -> None:
        """Start one child now and wait until it is ready.

        Raises:
            WorkerStartError: the child could not load its handler.
        """
        with self._lock:
            self._prepare(1)
            while not any(worker.ready for worker in self._workers):
                self._wait([])

    def map(self, requests: Sequence[Any]) -> list[Outcome]:
        """Run every request, each within its time limit, and give the outcomes in order.

        Args:
            requests: JSON values for the handler.

        Raises:
            WorkerStartError: a child could not load its handler.
        """
        if not requests:
            return []
        outcomes: list[Outcome | None] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        # One caller at a time: callers in other threads queue here rather than share a pipe.
        with self._lock:
            try:
                while any(outcome is None for outcome in outcomes):
                    self._prepare(len(waiting))
                    for worker in self._workers:
                        if waiting and worker.idle:
                            job = waiting.popleft()
                            worker.assign(job, requests[job], self.time_limit_s)
                    self._wait(outcomes)
            except BaseException:
                # An interrupted batch leaves replies in the pipes that nobody will ask for.
                self._discard_all()
                raise
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Kill every child. New ones are started when there is something to check again."""
        if os.getpid() == self._pid:  # a forked process must not kill its parent's children
            self._discard_all()

    def _prepare(self, pending: int) -> None:
        """Drop what died while idle and start as many children as the pending requests deserve."""
        if os.getpid() != self._pid:
            self._workers, self._inbox, self._pid = [], queue.SimpleQueue(), os.getpid()
        for worker in [w for w in self._workers if w.idle and w.process.poll() is not None]:
            self._discard(worker)
        wanted = min(self.max_workers, -(-pending // self._requests_per_worker))
        while len(self._workers) < wanted:
            options = {
                **self._options,
                "memory_mb": self._memory_mb,
                "time_limit_s": self.time_limit_s,
            }
            self._workers.append(_Worker(self._handler, options, self._quiet, self._inbox))

    def _wait(self, outcomes: list[Outcome | None]) -> None:
        """Block until a child says something, dies or is overdue, and take note of it."""
        earliest = min(w.deadline for w in self._workers if not w.ready or w.job is not None)
        timeout = max(0.0, earliest - time.monotonic())
        with contextlib.suppress(queue.Empty):
            while True:  # whoever has answered is not overdue, however late it is noticed
                worker, message = self._inbox.get(timeout=timeout)
                if worker in self._workers:  # one that was killed may still be heard of
                    self._take(worker, message, outcomes)
                timeout = 0.0
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline <= now and not worker.idle:
                self._overdue(worker, outcomes)

    def _take(
        self, worker: _Worker, message: dict[str, Any] | None, outcomes: list[Outcome | None]
    ) -> None:
        if message is None:
            self._discard(worker)
            if not worker.ready:
                raise WorkerStartError("a checking process died while it was starting")
            if worker.job is not None:
                code = worker.process.returncode
                outcomes[worker.job] = Outcome(
                    "crash", error=f"the process ended with status {code}"
                )
            return
        worker.deadline = float("inf")
        if "failed" in message:
            self._discard(worker)
            raise WorkerStartError(message["failed"]["text"])
        if "ready" in message:
            worker.ready = True
            self._note_unenforced(message["unenforced"])
            return
        assert worker.job is not None  # a child speaks only when it is asked
        if "error" in message:
            error = message["error"]
            outcomes[worker.job] = Outcome("error", error=error["text"], error_type=error["type"])
        else:
            outcomes[worker.job] = Outcome("ok", value=message["result"])
        worker.job = None

    def _overdue(self, worker: _Worker, outcomes: list[Outcome | None]) -> None:
        self._discard(worker)
        if worker.job is None:
            raise WorkerStartError(f"a checking process did not start within {_START_LIMIT_S:g} s")
        outcomes[worker.job] = Outcome("timeout")

    def _note_unenforced(self, unenforced: list[str]) -> None:
        if not hasattr(os, "killpg") or not hasattr(os, "setsid"):
            unenforced = [*unenforced, "the end of processes that a check has started"]
        self.unenforced = unenforced
        new = [limit for limit in unenforced if limit not in _told_unenforced]
        if new:
            _told_unenforced.update(new)
            logger.warning(
                "checking processes run on this system, but these limits are not enforced: %s",
                "; ".join(new),
            )

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _discard_all(self) -> None:
        for worker in list(self._workers):
            self._discard(worker)

"""Checks in child processes that can be killed: a time limit for each, and a memory limit for all.

Checkers hang (a tower of powers), and user code does too; a signal-based limit works on the main
thread alone and fails silently elsewhere. Here the parent watches the clock and kills. Children are
plain subprocesses (not `multiprocessing`), so they work from any thread, under pytest, and in
scripts without a `__main__` guard.
"""

import atexit
import contextlib
import json
import os
import selectors
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

_HERE = Path(__file__).parent
_START_LIMIT_S = 300.0
# Below this many requests a worker, starting another one costs more than it saves.
_REQUESTS_PER_WORKER = 16

Status = Literal["ok", "timeout", "crash", "error"]


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
    """One child process and the request it is at."""

    def __init__(self, handler: Path, options: dict[str, Any], quiet: bool) -> None:
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
            start_new_session=True,  # so that whatever it starts can be killed along with it
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdin.fileno(), False)
        os.set_blocking(self.stdout.fileno(), False)
        self.incoming = bytearray()
        self.outgoing = b""
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + _START_LIMIT_S

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def assign(self, job: int, request: Any, time_limit_s: float) -> None:
        self.job = job
        self.outgoing = json.dumps(request).encode() + b"\n"
        self.deadline = time.monotonic() + time_limit_s

    def send(self) -> None:
        """Write as much of the request as the pipe takes now."""
        try:
            written = os.write(self.stdin.fileno(), self.outgoing)
        except BlockingIOError:
            return
        except BrokenPipeError:  # dead; the end of its stdout tells the same a moment later
            self.outgoing = b""
            return
        self.outgoing = self.outgoing[written:]

    def receive(self) -> dict[str, Any] | None:
        """A whole reply if there is one by now.

        Raises:
            EOFError: the child has died.
        """
        try:
            chunk = os.read(self.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return None
        if not chunk:
            raise EOFError
        self.incoming += chunk
        line, newline, rest = self.incoming.partition(b"\n")
        if not newline:
            return None
        self.incoming = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the whole group is gone
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.stdin.close()
        self.stdout.close()


class Pool:
    """Child processes of one kind, started when first needed and kept for later calls.

    Args:
        handler: file name, in this folder, of the code the children run.
        options: passed to the handler's `load`; JSON.
        time_limit_s: seconds for one request, counted from when a started child receives it.
        memory_mb: limit on a child's address space, mebibytes; None for no limit.
        workers: most children at a time.
        quiet: discard the children's stderr and keep them to one thread.
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
    ) -> None:
        self.time_limit_s = time_limit_s
        self.max_workers = workers or max(1, min(4, (os.cpu_count() or 1)))
        self._handler = _HERE / handler
        self._memory_mb = memory_mb
        self._options = dict(options or {})
        self._quiet = quiet
        self._workers: list[_Worker] = []
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
        """Kill every child. The pool starts new ones when it is used again."""
        if os.getpid() == self._pid:  # a forked process must not kill its parent's children
            self._discard_all()

    def _prepare(self, pending: int) -> None:
        """Drop what died while idle and start as many children as the pending requests deserve."""
        if os.getpid() != self._pid:
            self._workers, self._pid = [], os.getpid()
        for worker in [w for w in self._workers if w.idle and w.process.poll() is not None]:
            self._discard(worker)
        wanted = min(self.max_workers, -(-pending // _REQUESTS_PER_WORKER))
        while len(self._workers) < wanted:
            options = {
                **self._options,
                "memory_mb": self._memory_mb,
                "time_limit_s": self.time_limit_s,
            }
            self._workers.append(_Worker(self._handler, options, self._quiet))

    def _wait(self, outcomes: list[Outcome | None]) -> None:
        """Block until something is sent, received or overdue, and take note of it."""
        active = [w for w in self._workers if not w.ready or w.job is not None]
        with selectors.DefaultSelector() as selector:
            for worker in active:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
                if worker.outgoing:
                    selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
            earliest = min(worker.deadline for worker in active)
            events = selector.select(max(0.0, earliest - time.monotonic()))
        for key, mask in events:
            if mask & selectors.EVENT_WRITE:
                key.data.send()
            else:
                self._read(key.data, outcomes)
        now = time.monotonic()
        for worker in active:
            if worker in self._workers and worker.deadline <= now:
                self._overdue(worker, outcomes)

    def _read(self, worker: _Worker, outcomes: list[Outcome | None]) -> None:
        try:
            message = worker.receive()
        except EOFError:
            job = worker.job
            self._discard(worker)
            if not worker.ready:
                raise WorkerStartError("a checking process died while it was starting") from None
            if job is not None:
                code = worker.process.returncode
                outcomes[job] = Outcome("crash", error=f"the process ended with status {code}")
            return
        if message is None:
            return
        worker.deadline = float("inf")
        if "failed" in message:
            self._discard(worker)
            raise WorkerStartError(message["failed"]["text"])
        if "ready" in message:
            worker.ready = True
            return
        assert worker.job is not None  # a child speaks only when it is asked
        if "error" in message:
            error = message["error"]
            outcomes[worker.job] = Outcome("error", error=error["text"], error_type=error["type"])
        else:
            outcomes[worker.job] = Outcome("ok", value=message["result"])
        worker.job = None

    def _overdue(self, worker: _Worker, outcomes: list[Outcome | None]) -> None:
        job = worker.job
        self._discard(worker)
        if job is None:
            raise WorkerStartError(f"a checking process did not start within {_START_LIMIT_S:g} s")
        outcomes[job] = Outcome("timeout")

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _discard_all(self) -> None:
        for worker in list(self._workers):
            self._discard(worker)

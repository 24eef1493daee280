"""Engines reach the chooser by a socket: one process chooses, any number of engines ask and tell.

A frame and its reply go over the wire with four bytes of length before them. There is no password:
bind to a Unix socket, or to a network that only the engines are in.
"""

import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.engines.chooser import Job
from dopr.engines.chooser_journal import (
    EXCHANGE,
    HOLD,
    JournaledChooser,
    pack_exchange,
    pack_hold,
    pack_lost,
    told_of,
    unpack_jobs,
)

_LENGTH = struct.Struct("<I")
_LARGEST = 1 << 26  # bytes of a frame
_PATIENCE_S = 10.0  # with an engine that does not read its replies: the others wait meanwhile


@dataclass
class _Engine:
    """One connection: what came in and is no whole frame yet, and the jobs it is at."""

    inbox: bytearray = field(default_factory=bytearray)
    jobs: set[int] = field(default_factory=set)


class ChooserServer:
    """Answers engines until it is told to stop.

    Args:
        chooser: with its journal.
        listener: a bound, listening socket.
        snapshot_every_s: seconds between snapshots.
        grace_s: seconds after a restart in which engines may come back and say what they are at;
            all other jobs that had been handed out are handed out again then. The jobs of an engine
            whose connection ends are handed out again at once.
    """

    def __init__(
        self,
        chooser: JournaledChooser,
        listener: socket.socket,
        *,
        snapshot_every_s: float = 300.0,
        grace_s: float = 30.0,
    ) -> None:
        self._chooser, self._listener = chooser, listener
        self._snapshot_every = snapshot_every_s
        self._engines: dict[socket.socket, _Engine] = {}
        self._orphans = set(chooser.chooser.handed_out)
        now = time.monotonic()
        self._next_snapshot, self._grace_ends = now + snapshot_every_s, now + grace_s
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Answer until `stop` says so; it is asked at least once a second."""
        try:
            while not stop():
                for key, _ in self._selector.select(timeout=1.0):
                    if key.fileobj is self._listener:
                        self._welcome()
                    else:
                        assert isinstance(key.fileobj, socket.socket)
                        self._serve(key.fileobj)
                self._look_after(time.monotonic())
        finally:
            for connection in [*self._engines]:
                connection.close()
            self._selector.close()
            self._chooser.close()

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_PATIENCE_S)
        self._engines[connection] = _Engine()
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, connection: socket.socket) -> None:
        engine = self._engines[connection]
        try:
            content = connection.recv(1 << 20)
        except OSError:  # however a connection ends, the other engines go on
            content = b""
        engine.inbox += content
        if not content or not self._answer_all(connection, engine):
            self._part_from(connection)

    def _answer_all(self, connection: socket.socket, engine: _Engine) -> bool:
        """Answer the frames that are whole; False where there is no talking to the engine."""
        try:
            while (frame := _take_frame(engine.inbox)) is not None:
                reply = _framed(self._handle(engine, frame))
                try:
                    connection.sendall(reply)
                except OSError:
                    return False
        except ValueError:  # what came is no frame
            return False
        return True

    def _handle(self, engine: _Engine, frame: bytes) -> bytes:
        kind, numbers = told_of(frame)
        self._orphans.difference_update(numbers)
        engine.jobs.difference_update(numbers)
        reply = self._chooser.handle(frame)
        if kind == HOLD:
            engine.jobs.update(numbers)
        if kind == EXCHANGE:
            engine.jobs.update(job.number for job in unpack_jobs(reply))
        return reply

    def _part_from(self, connection: socket.socket) -> None:
        engine = self._engines.pop(connection)
        self._selector.unregister(connection)
        connection.close()
        self._hand_out_again(engine.jobs)

    def _look_after(self, now: float) -> None:
        if self._orphans and now >= self._grace_ends:
            self._hand_out_again(self._orphans)
            self._orphans = set()
        if now >= self._next_snapshot:
            self._chooser.snapshot()
            self._next_snapshot = now + self._snapshot_every
        self._chooser.snapshot_done()

    def _hand_out_again(self, jobs: set[int]) -> None:
        if jobs:
            self._chooser.handle(pack_lost(np.array(sorted(jobs), dtype=np.int64)))


class ChooserClient:
    """An engine's side.

    Args:
        address: of the server, a path or (host, port).
        holding: jobs that the engine is at, where it comes back after the server was restarted.
    """

    def __init__(
        self, address: str | tuple[str, int], holding: NDArray[np.int64] | None = None
    ) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.connect(address)
        self._inbox = bytearray()
        if holding is not None and len(holding):
            self._exchange(pack_hold(holding))

    def exchange(
        self,
        numbers: NDArray[np.int64],
        rewards: NDArray[np.float32],
        tokens: NDArray[np.int32],
        asked: int,
    ) -> list[Job]:
        """Tell of finished jobs and get new ones; see `pack_exchange`."""
        return unpack_jobs(self._exchange(pack_exchange(numbers, rewards, tokens, asked)))

    def lose(self, numbers: NDArray[np.int64]) -> None:
        """Give jobs back, shape (n,)."""
        self._exchange(pack_lost(numbers))

    def close(self) -> None:
        """Part from the server."""
        self._socket.close()

    def _exchange(self, frame: bytes) -> bytes:
        self._socket.sendall(_framed(frame))
        while (reply := _take_frame(self._inbox)) is None:
            content = self._socket.recv(1 << 20)
            if not content:
                raise ConnectionError("the chooser has closed the connection")
            self._inbox += content
        return reply


def _framed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _take_frame(inbox: bytearray) -> bytes | None:
    """The first frame, taken out of the inbox; None where it is not whole yet.

    Raises:
        ValueError: its length cannot be right.
    """
    if len(inbox) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(inbox)
    if length > _LARGEST:
        raise ValueError(f"a frame of {length} bytes")
    end = _LENGTH.size + length
    if len(inbox) < end:
        return None
    frame = bytes(inbox[_LENGTH.size : end])
    del inbox[:end]
    return frame

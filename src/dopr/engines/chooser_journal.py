"""A chooser that loses nothing when it is killed: what came in is on disk before it is answered.

The chooser is deterministic, so its state is a snapshot and the frames that came in since. A
snapshot is written by a child process, which has the memory as it was when it was made, while the
chooser goes on.
"""

import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dopr.core.driver import StepOutcome
from dopr.core.errors import UserError
from dopr.engines.chooser import Chooser, Job
from dopr.engines.trl import checkpoints

logger = logging.getLogger(__name__)

EXCHANGE, LOST, HOLD = 0, 1, 2  # kinds of frames
MOST_ASKED = 1 << 16  # jobs in one frame
_HEADER = struct.Struct("<BIII")  # kind, jobs told of, rollouts in each, jobs asked for
_RECORD = struct.Struct("<II")  # length and checksum of a frame in the journal
_REPLY = struct.Struct("<I")


def pack_exchange(
    numbers: NDArray[np.int64],
    rewards: NDArray[np.float32],
    tokens: NDArray[np.int32],
    asked: int,
) -> bytes:
    """A frame that tells of finished jobs and asks for new ones.

    Args:
        numbers: of the jobs, shape (n,).
        rewards, tokens: of their rollouts, shape (n, g): jobs of one size go into one frame.
        asked: jobs wanted.
    """
    told = len(numbers)
    header = _HEADER.pack(EXCHANGE, told, rewards.shape[1] if told else 0, asked)
    if not told:
        return header
    arrays = (numbers.astype("<i8"), rewards.astype("<f4"), tokens.astype("<i4"))
    return b"".join([header, *(array.tobytes() for array in arrays)])


def pack_lost(numbers: NDArray[np.int64]) -> bytes:
    """A frame that says that these jobs, shape (n,), are to be handed out again."""
    return _HEADER.pack(LOST, len(numbers), 0, 0) + numbers.astype("<i8").tobytes()


def pack_hold(numbers: NDArray[np.int64]) -> bytes:
    """A frame by which an engine that comes back says which jobs, shape (n,), it is at."""
    return _HEADER.pack(HOLD, len(numbers), 0, 0) + numbers.astype("<i8").tobytes()


def told_of(frame: bytes) -> tuple[int, list[int]]:
    """Kind of a frame, and the jobs that it speaks of.

    Raises:
        ValueError: it is no frame.
    """
    if len(frame) < _HEADER.size:
        raise ValueError(f"a frame of {len(frame)} bytes")
    kind, told, size, asked = _HEADER.unpack_from(frame)
    length = _HEADER.size + 8 * told + (8 * told * size if kind == EXCHANGE else 0)
    if kind > HOLD or len(frame) != length or asked > MOST_ASKED:
        raise ValueError(f"a frame of kind {kind} with {len(frame)} bytes that asks for {asked}")
    return kind, np.frombuffer(frame, "<i8", told, _HEADER.size).tolist()


def unpack_jobs(reply: bytes) -> list[Job]:
    """The jobs in an answer to `pack_exchange`."""
    (count,) = _REPLY.unpack_from(reply)
    columns = np.frombuffer(reply, "<i8", 3 * count, _REPLY.size).reshape(3, count)
    return [Job(*row) for row in columns.T.tolist()]


def answer(chooser: Chooser, frame: bytes) -> bytes:
    """Do what a frame says, and the reply to it."""
    _, told, size, asked = _HEADER.unpack_from(frame)
    kind, numbers = told_of(frame)
    if kind == LOST:
        chooser.lose(numbers)
    elif kind == HOLD:
        chooser.hold(numbers)
    if kind != EXCHANGE:
        return _REPLY.pack(0)
    start = _HEADER.size + 8 * told
    rewards = np.frombuffer(frame, "<f4", told * size, start).astype(np.float64)
    tokens = np.frombuffer(frame, "<i4", told * size, start + 4 * told * size).astype(np.int64)
    if told:
        chooser.tell_all(numbers, rewards.reshape(told, size), tokens.reshape(told, size))
    jobs = [(job.number, job.prompt_id, job.num_rollouts) for job in chooser.ask(asked)]
    columns = np.array(jobs, dtype="<i8").reshape(asked, 3).T
    return _REPLY.pack(asked) + columns.tobytes()


class JournaledChooser:
    """A chooser, its snapshots and its journal.

    Args:
        chooser: fresh; what the folder holds is loaded into it.
        folder: where snapshots and journals are.
        on_outcome: called with each finished step. After a restart those since the last snapshot
            come again, with the same number (`StepOutcome.step`).

    Attributes:
        replayed: frames that were taken from the journal.

    Raises:
        UserError: what the folder holds does not reach back to a whole snapshot or the beginning.
    """

    def __init__(
        self,
        chooser: Chooser,
        folder: Path,
        on_outcome: Callable[[StepOutcome], None] = lambda outcome: None,
    ) -> None:
        self.chooser = chooser
        self._folder, self._on_outcome = folder, on_outcome
        self._writing: tuple[int, int] | None = None  # child process and number of its snapshot
        folder.mkdir(parents=True, exist_ok=True)
        self._snapshot = _newest_snapshot(folder)
        if self._snapshot:
            chooser.load_state_dict(checkpoints.load_state(folder / f"snapshot-{self._snapshot}"))
        self.replayed = 0
        numbers = _journals_since(folder, self._snapshot)
        for number in numbers:
            for frame in _frames(folder / f"journal-{number}.bin"):
                self._do(frame)
                self.replayed += 1
        # Killed right after a snapshot its own journal may not have been begun: it is the next.
        self._number = numbers[-1] + 1 if numbers else max(self._snapshot, 1)
        self._journal = self._open_journal()

    def handle(self, frame: bytes) -> bytes:
        """Note a frame, do what it says, and the reply to it.

        Raises:
            ValueError: it is no frame; it is not noted then.
        """
        told_of(frame)
        self._journal.write(_RECORD.pack(len(frame), zlib.crc32(frame)))
        self._journal.write(frame)
        self._journal.flush()  # to the system: it outlives this process, though not the machine
        return self._do(frame)

    def snapshot(self) -> None:
        """Begin to write a snapshot in a child process, unless one is being written."""
        if self._writing is not None and not self.snapshot_done():
            return
        self._journal.close()
        self._number += 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.nice(10)  # engines are waiting for the parent
                self._write_snapshot()
                code = 0
            finally:
                os._exit(code)  # nothing of the parent's is to be tidied up here
        self._writing = child, self._number
        self._journal = self._open_journal()

    def snapshot_done(self, wait: bool = False) -> bool:
        """Whether none is being written; older snapshots and journals are deleted then."""
        if self._writing is None:
            return True
        child, number = self._writing
        ended, status = os.waitpid(child, 0 if wait else os.WNOHANG)
        if not ended:
            return False
        self._writing = None
        if os.waitstatus_to_exitcode(status):
            logger.warning("snapshot %d could not be written; the journal goes on", number)
            return True
        self._snapshot = number
        for old in _journals(self._folder):
            if old < number:
                (self._folder / f"journal-{old}.bin").unlink()
        for path in self._folder.glob("snapshot-*"):
            if path.name != f"snapshot-{number}":
                shutil.rmtree(path)
        return True

    def close(self) -> None:
        """Wait for a snapshot under way and close the journal."""
        self.snapshot_done(wait=True)
        self._journal.close()

    def _do(self, frame: bytes) -> bytes:
        reply = answer(self.chooser, frame)
        while self.chooser.outcomes:
            self._on_outcome(self.chooser.outcomes.popleft())
        return reply

    def _open_journal(self) -> BinaryIO:
        return open(self._folder / f"journal-{self._number}.bin", "wb")

    def _write_snapshot(self) -> None:
        partial = self._folder / f"partial-{self._number}"
        for left in self._folder.glob("partial-*"):  # of one that failed
            shutil.rmtree(left)
        partial.mkdir()
        checkpoints.save_state(partial, self.chooser.state_dict(), compress=False)
        checkpoints.write_manifest(partial)
        partial.rename(self._folder / f"snapshot-{self._number}")


def _newest_snapshot(folder: Path) -> int:
    """Its number, 0 where there is none that is whole."""
    numbers = sorted((int(path.name[9:]) for path in folder.glob("snapshot-*")), reverse=True)
    for partial in folder.glob("partial-*"):
        shutil.rmtree(partial)
    return next((n for n in numbers if checkpoints.is_whole(folder / f"snapshot-{n}")), 0)


def _journals(folder: Path) -> list[int]:
    return sorted(int(path.stem[8:]) for path in folder.glob("journal-*.bin"))


def _journals_since(folder: Path, snapshot: int) -> list[int]:
    """Numbers of the journals that go on from a snapshot, 0 for the beginning.

    Raises:
        UserError: some are missing.
    """
    numbers = [number for number in _journals(folder) if number >= snapshot]
    first = max(snapshot, 1)
    damaged = not snapshot and any(folder.glob("snapshot-*"))
    if damaged or numbers != list(range(first, first + len(numbers))):
        raise UserError(
            f"{str(folder)!r} cannot be gone on from: its newest snapshot is damaged or a journal "
            "is missing; put back what was there, or begin in an empty folder"
        )
    return numbers


def _frames(path: Path) -> Iterator[bytes]:
    """What a journal holds, up to a frame that was cut off when its writer was killed."""
    content = path.read_bytes()
    start = 0
    while start + _RECORD.size <= len(content):
        length, checksum = _RECORD.unpack_from(content, start)
        frame = content[start + _RECORD.size : start + _RECORD.size + length]
        if len(frame) < length or zlib.crc32(frame) != checksum:
            return
        yield frame
        start += _RECORD.size + length

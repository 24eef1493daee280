"""A chooser behind a queue: jobs and what came of them in any order, and nothing lost by a kill."""

import multiprocessing
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.large_stream import LargeStream
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.engines.chooser import Chooser, Job
from dopr.engines.chooser_journal import (
    JournaledChooser,
    pack_exchange,
    pack_hold,
    pack_lost,
    unpack_jobs,
)
from dopr.engines.chooser_server import ChooserClient, ChooserServer, _Engine
from dopr.strategies import Request, Strategy, make_strategy

SIZE = 200


def new_chooser(name: str = "dopr-paper", restorable: bool = False) -> Chooser:
    options: dict[str, Any] = {"prior": "pool"} if name.startswith("dopr") else {}
    strategy = make_strategy(name, num_generations=4, **options)
    return Chooser(Driver(strategy, PromptStream(SIZE, 1), restorable=restorable))


def outcome_of(job: Job) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([job.number, job.prompt_id])
    rewards = (rng.random(job.num_rollouts) < job.prompt_id / SIZE).astype(np.float32)
    return rewards, np.full(job.num_rollouts, 3, dtype=np.int32)


def frame_for(jobs: list[Job], asked: int) -> bytes:
    numbers = np.array([job.number for job in jobs], dtype=np.int64)
    told = [outcome_of(job) for job in jobs]
    rewards = np.stack([r for r, _ in told]) if told else np.empty((0, 4), np.float32)
    tokens = np.stack([t for _, t in told]) if told else np.empty((0, 4), np.int32)
    return pack_exchange(numbers, rewards, tokens, asked)


def frames(rng: np.random.Generator, chooser: JournaledChooser, count: int) -> Iterator[bytes]:
    """Frames of an engine that tells of its jobs in a random order."""
    held = [
        Job(n, r.prompt_id, r.num_rollouts)
        for n, (_, r, _) in chooser.chooser._jobs.items()
        if n not in chooser.chooser._waiting
    ]
    for _ in range(count):
        done = [held.pop(rng.integers(len(held))) for _ in range(min(len(held), 3))]
        frame = frame_for(done, 4)
        yield frame
        held += unpack_jobs(chooser.handle(frame))


def run(rng: np.random.Generator, chooser: JournaledChooser, count: int) -> None:
    for _ in frames(rng, chooser, count):
        pass


def assert_same(first: Chooser, second: Chooser) -> None:
    ours, theirs = first.driver.ledger.state_dict(), second.driver.ledger.state_dict()
    assert repr(ours.pop("scalars")) == repr(theirs.pop("scalars"))  # NaN is not NaN
    for column, values in ours.items():
        assert np.array_equal(values, theirs[column], equal_nan=True), column
    assert first.driver.spent == second.driver.spent
    assert first.handed_out == second.handed_out and first._waiting == second._waiting
    assert [first.ask(1) for _ in range(9)] == [second.ask(1) for _ in range(9)]


def test_jobs_that_a_step_stands_still_for_are_had_without_asking_for_more() -> None:
    strategy = make_strategy("uniform", num_generations=4, prompts_per_step=3)
    chooser = Chooser(Driver(strategy, PromptStream(SIZE, 1)))
    (job,) = chooser.ask(1)
    assert chooser.job(job.number) == job
    assert chooser.ask_for_stalled() == []  # one of the three is under way
    chooser.tell(job.number, *outcome_of(job))
    assert chooser.job(job.number) is None
    rest = chooser.ask_for_stalled()
    assert len({job.prompt_id, *(other.prompt_id for other in rest)}) == 3
    assert [other.number for other in rest] == chooser.handed_out == [1, 2]
    assert chooser.ask_for_stalled() == [] and len(chooser.driver.flights) == 1


def test_a_further_round_is_had_at_once_and_other_steps_are_left_alone() -> None:
    strategy = make_strategy("reinforce-ada", prompts_per_step=4)
    chooser = Chooser(Driver(strategy, PromptStream(SIZE, 1)))
    jobs, others = chooser.ask(4), chooser.ask(3)
    chooser.tell(others[0].number, *outcome_of(others[0]))
    for job in jobs:
        assert chooser.ask_for_stalled() == []
        chooser.tell(job.number, *(np.zeros(job.num_rollouts), np.ones(job.num_rollouts, int)))
    further = chooser.ask_for_stalled()
    assert [job.prompt_id for job in further] == [job.prompt_id for job in jobs]
    (last,) = chooser.ask(1)  # of the other step's first round
    assert last.prompt_id not in {job.prompt_id for job in jobs} and last.number < further[0].number


@pytest.mark.parametrize("name", ["dopr-paper", "dopr", "pods", "dapo", "reinforce-ada"])
def test_jobs_come_back_in_any_order_and_every_rollout_is_counted_once(name: str) -> None:
    chooser, rng = new_chooser(name), np.random.default_rng(0)
    held = chooser.ask(40)
    told = 0
    for _ in range(300):
        job = held.pop(rng.integers(len(held)))
        assert chooser.tell(job.number, *outcome_of(job))
        assert not chooser.tell(job.number, *outcome_of(job))
        told += job.num_rollouts
        held += chooser.ask(1)
    spent, ledger = chooser.driver.spent, chooser.driver.ledger
    assert spent.rollouts == told == ledger.rollouts.sum() and spent.surplus_rollouts == 0
    assert sum(ledger.in_flight.values()) >= sum(job.num_rollouts for job in held)
    kept = [group for outcome in chooser.outcomes for group in outcome.kept]
    assert sum(group.num_kept for group in kept) == spent.kept
    assert len({number for group in kept for number in group.handle}) == sum(
        len(group.handle) for group in kept
    )


def test_a_job_without_an_engine_is_handed_out_again_first() -> None:
    chooser = new_chooser()
    first, second, third = chooser.ask(3)
    chooser.lose([first.number, third.number, 99])
    assert chooser.handed_out == [second.number]
    assert chooser.ask(2) == [first, third]
    assert chooser.driver.spent.asked_again == 8
    chooser.tell(first.number, np.ones(3), np.ones(3, dtype=np.int64))
    (rest,) = chooser.ask(1)
    assert (rest.prompt_id, rest.num_rollouts) == (first.prompt_id, 1) and not chooser.outcomes
    chooser.tell(rest.number, np.zeros(2), np.ones(2, dtype=np.int64))
    assert chooser.outcomes[0].kept[0].rewards.tolist() == [1, 1, 1, 0]
    assert chooser.driver.spent.surplus_rollouts == 1 and chooser.driver.spent.rollouts == 5


@pytest.mark.parametrize("together", [False, True])
def test_what_is_told_of_a_job_that_waits_for_another_engine_counts(together: bool) -> None:
    chooser = new_chooser()
    first, second, third = chooser.ask(3)
    chooser.lose([first.number, second.number, third.number])
    rewards, tokens = np.ones((1, 4)), np.ones((1, 4), dtype=np.int64)
    if together:
        chooser.tell_all([first.number], rewards, tokens)
    else:
        chooser.tell(first.number, rewards[0], tokens[0])
    assert len(chooser.outcomes) == 1
    chooser.hold([second.number])  # its engine is back: nobody else is to roll it out
    assert chooser.handed_out == [second.number]
    assert chooser.ask(1) == [third]
    assert chooser.tell(second.number, rewards[0], tokens[0])
    assert not chooser.tell(first.number, rewards[0], tokens[0])


def test_an_engine_that_was_given_up_comes_back_over_the_journal(tmp_path: Path) -> None:
    chooser = JournaledChooser(new_chooser(), tmp_path)
    jobs = unpack_jobs(chooser.handle(frame_for([], 3)))
    numbers = np.array([job.number for job in jobs])
    chooser.handle(pack_lost(numbers))
    chooser.handle(pack_hold(numbers[1:]))
    chooser.handle(frame_for(jobs[:1], 1))
    assert not set(numbers.tolist()) & set(chooser.chooser._waiting)
    again = JournaledChooser(new_chooser(), tmp_path)
    assert again.replayed == 4
    assert_same(chooser.chooser, again.chooser)


class Twice(Strategy):
    """A step that asks twice for the same prompt, as on a pool smaller than a step."""

    name = "twice"

    def step(self, prompts: PromptStream, ledger: Ledger) -> Any:
        i = int(prompts.draw(1)[0])
        return (yield [Request(i, 8), Request(i, 8)])


@pytest.mark.parametrize(
    "parts", [((0, 3), (1, 6), (1, 2), (0, 5)), ((0, 3), (0, 2), (1, 8), (0, 3))]
)
def test_parts_of_a_prompt_asked_for_twice_find_their_places(
    parts: tuple[tuple[int, int], ...],
) -> None:
    chooser = Chooser(Driver(Twice(), PromptStream(9)))
    at = [job.number for job in chooser.ask(2)]  # the number of each request's job now
    for which, count in parts:
        assert not chooser.outcomes
        chooser.tell(at[which], np.full(count, which), np.ones(count, dtype=np.int64))
        if rest := chooser.ask_for_stalled() or chooser.ask(0):
            at[which] = rest[0].number
        elif chooser._waiting:
            at[which] = chooser.ask(1)[0].number
    kept = chooser.outcomes[0].kept
    assert [group.rewards.tolist() for group in kept] == [[0.0] * 8, [1.0] * 8]
    assert chooser.driver.spent.surplus_rollouts == 0


def test_a_step_of_two_requests_told_of_together_is_taken_in_whole() -> None:
    chooser = Chooser(Driver(Twice(), PromptStream(9), restorable=False))
    jobs = chooser.ask(2)
    again = Chooser(Driver(Twice(), PromptStream(9), restorable=False))
    again.load_state_dict(chooser.state_dict())  # its groups are trained on as they come
    numbers = [job.number for job in jobs]
    again.tell_all(numbers, np.eye(2, 8), np.ones((2, 8), dtype=np.int64))
    assert [g.rewards.tolist() for g in again.outcomes[0].kept] == np.eye(2, 8).tolist()
    chooser.tell(numbers[1], np.zeros(3), np.ones(3, dtype=np.int64))
    rest = chooser.ask_for_stalled() or chooser.ask(1)
    chooser.tell_all([rest[0].number], np.ones((1, 5)), np.ones((1, 5), dtype=np.int64))
    chooser.tell_all(numbers[:1], np.ones((1, 8)), np.ones((1, 8), dtype=np.int64))
    assert [g.mean for g in chooser.outcomes[0].kept] == [1.0, 5 / 8]


def test_rewards_that_are_not_finite_count_as_not_scored() -> None:
    chooser = new_chooser()
    for job, bad in zip(chooser.ask(2), (np.inf, -np.inf), strict=True):
        chooser.tell(job.number, np.array([1, bad, 0, np.nan]), np.ones(4, dtype=np.int64))
    ledger = chooser.driver.ledger
    assert (ledger.reward_low, ledger.reward_high) == (0, 1)
    assert chooser.driver.spent.rollouts == 8 and np.isfinite(ledger.mean).all()


def test_a_damaged_snapshot_is_said_and_not_begun_anew(tmp_path: Path) -> None:
    chooser = JournaledChooser(new_chooser(), tmp_path)
    run(np.random.default_rng(0), chooser, 9)
    chooser.snapshot()
    assert chooser.snapshot_done(wait=True)
    run(np.random.default_rng(0), chooser, 9)
    chooser.close()
    (file,) = tmp_path.glob("snapshot-*/dopr_state.npz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="its newest snapshot is damaged or a journal is missing"):
        JournaledChooser(new_chooser(), tmp_path)


def test_a_kill_right_after_a_snapshot_leaves_a_folder_to_go_on_from(tmp_path: Path) -> None:
    chooser = JournaledChooser(new_chooser(), tmp_path)
    run(np.random.default_rng(0), chooser, 9)
    chooser.snapshot()
    chooser.close()
    (tmp_path / f"journal-{chooser._number}.bin").unlink()  # had not been begun
    for replayed in (0, 5, 10):
        again = JournaledChooser(new_chooser(), tmp_path)
        assert again.replayed == replayed
        run(np.random.default_rng(replayed), again, 5)
        again.close()


def test_an_engine_whose_machine_is_gone_does_not_end_the_server(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = ChooserServer(JournaledChooser(new_chooser(), tmp_path / "j"), listener)

    class Gone:
        def recv(self, size: int) -> bytes:
            raise TimeoutError("no route")

        def fileno(self) -> int:
            return listener.fileno()

        def close(self) -> None:
            pass

    gone: Any = Gone()
    server._selector.unregister(listener)
    server._engines[gone] = _Engine(jobs={0})
    server._selector.register(gone, selectors.EVENT_READ)
    server._serve(gone)
    assert not server._engines


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize(("name", "restorable"), [("dopr-paper", False), ("dopr", True)])
def test_a_chooser_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, name: str, restorable: bool, snapshot: bool
) -> None:
    whole = JournaledChooser(new_chooser(name, restorable), tmp_path / "whole")
    killed = JournaledChooser(new_chooser(name, restorable), tmp_path / "killed")
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    for chooser, rng in ((whole, rngs[0]), (killed, rngs[1])):
        run(rng, chooser, 25)
        if snapshot and chooser is killed:
            killed.snapshot()
            assert killed.snapshot_done(wait=True)
        run(rng, chooser, 25)
    with open(max((tmp_path / "killed").glob("journal-*.bin")), "ab") as journal:
        journal.write(b"\x30\0\0\0cut off")
    # `killed` is left as it is, as a process that is gone would leave it.
    again = JournaledChooser(new_chooser(name, restorable), tmp_path / "killed")
    assert again.replayed == (25 if snapshot else 50)
    for chooser, rng in ((whole, rngs[0]), (again, rngs[1])):
        run(rng, chooser, 25)
    in_flight = 25 * 4 - 24 * 3  # when the snapshot was made
    plain = in_flight if snapshot and not restorable else 0
    assert again.chooser.driver.spent.plain_steps == plain
    again.chooser.driver.spent.plain_steps = 0
    assert_same(whole.chooser, again.chooser)


@pytest.mark.parametrize(
    "frame", [b"", b"\0" * 12, pack_lost(np.arange(2))[:-1], b"\7" + b"\0" * 12]
)
def test_what_is_no_frame_is_refused_and_not_noted(tmp_path: Path, frame: bytes) -> None:
    chooser = JournaledChooser(new_chooser(), tmp_path)
    with pytest.raises(ValueError, match="frame of"):
        chooser.handle(frame)
    chooser.close()
    assert JournaledChooser(new_chooser(), tmp_path).replayed == 0


def serve(folder: Path, address: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    chooser = JournaledChooser(new_chooser(), folder)
    ChooserServer(chooser, listener, snapshot_every_s=0.02, grace_s=0.0).run()


def client_of(address: str) -> ChooserClient:
    for _ in range(600):
        try:
            return ChooserClient(address)
        except (ConnectionError, FileNotFoundError):
            time.sleep(0.05)
    raise AssertionError("no server")


def test_a_server_killed_with_jobs_out_loses_and_doubles_none(tmp_path: Path) -> None:
    context, told = multiprocessing.get_context("spawn"), 0
    for life in range(3):
        address = str(tmp_path / f"s{life}")
        server = context.Process(target=serve, args=(tmp_path / "state", address))
        server.start()
        engine, other = client_of(address), client_of(address)
        jobs: list[Job] = []
        for _ in range(40):
            now, jobs = jobs[:3], jobs[3:]
            frame = frame_for(now, 4)
            jobs += unpack_jobs(engine._exchange(frame))
            told += sum(job.num_rollouts for job in now)
        lost = unpack_jobs(other._exchange(frame_for([], 5)))
        other.close()  # its jobs are handed out again
        seen: set[int] = set()
        for _ in range(20):
            seen.update(job.number for job in unpack_jobs(engine._exchange(frame_for([], 1))))
        assert {job.number for job in lost} <= seen
        os.kill(server.pid or 0, signal.SIGKILL)
        server.join()
    found = JournaledChooser(new_chooser(), tmp_path / "state").chooser
    spent = found.driver.spent
    assert spent.rollouts == told == found.driver.ledger.rollouts.sum()
    assert spent.lost_rollouts == spent.surplus_rollouts == spent.dropped_steps == 0
    # Every job that was not told of is still there, once.
    assert sum(found.driver.ledger.in_flight.values()) == 4 * len(found._jobs)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 70_000])
def test_a_large_stream_gives_every_prompt_once_an_epoch_and_resumes(size: int) -> None:
    stream = LargeStream(size, 3)
    first = stream.draw(size // 2)
    state = stream.state_dict()
    again = LargeStream(size, 4)
    again.load_state_dict(state)
    rest = stream.draw(size - size // 2)
    assert np.array_equal(np.sort(np.concatenate([first, rest])), np.arange(size))
    assert stream.offered_all and np.array_equal(again.draw(size - size // 2), rest)
    second = stream.draw(size)
    assert np.array_equal(np.sort(second), np.arange(size)) and stream.epoch == 1
    assert np.array_equal(again.draw(size), second)
    if size > 10:
        assert not np.array_equal(np.concatenate([first, rest]), second)


def test_a_large_stream_mixes_the_pool() -> None:
    order = LargeStream(70_000, 5).draw(70_000)
    for start in (0, 20_000, 69_000):
        part = order[start : start + 1000]
        assert abs(part.mean() - 35_000) < 4 * 70_000 / np.sqrt(12 * 1000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02


def test_a_draw_far_over_the_end_of_an_epoch_holds_no_prompt_twice() -> None:
    stream = LargeStream(100_000, 3)
    drawn = [stream.draw(40_000) for _ in range(5)]
    assert all(len(np.unique(ids)) == 40_000 for ids in drawn)
    # What was put off comes first, so that two epochs still hold every prompt twice.
    assert np.bincount(np.concatenate(drawn), minlength=100_000).tolist() == [2] * 100_000

"""A chooser of ten million prompts behind a queue: choices a second, latency, memory, restart.

    OMP_NUM_THREADS=1 python benchmarks/chooser_load.py --json docs/results/chooser-load.json

One process chooses, on a core of its own where there are several; another plays a thousand engines,
which ask for a job whenever they have told of one: the rollouts of a job are told after a random
number of other choices. Frames carry 32 jobs. Three measurements:

- flat out: the next frame is sent when the reply to the last one is there. Choices a second by the
  wall clock, and the processor time that one of them takes, which does not depend on what else the
  machine does.
- at a given rate (`--rate`, 5,000 a second): frames are due at fixed times, and the latency of a
  frame counts from when it was due, so that a pause delays all that are due meanwhile.
- the chooser is killed, started again, and its counts are held against the engines'.

Every row of the ledger is written once before, so that the memory is that of a pool seen whole.
"""

import argparse
import json
import multiprocessing
import os
import platform
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dopr.core.driver import Driver
from dopr.core.large_stream import LargeStream
from dopr.engines.chooser import Chooser
from dopr.engines.chooser_journal import JournaledChooser
from dopr.engines.chooser_server import ChooserClient, ChooserServer
from dopr.strategies import make_strategy

GROUP, FRAME, ENGINES = 8, 32, 1024


def new_chooser(size: int, candidates: int) -> Chooser:
    strategy = make_strategy(
        "dopr-paper", candidates=candidates, prior="pool", exploration=0.15, num_generations=GROUP
    )
    driver = Driver(strategy, LargeStream(size, 0), restorable=False)
    ledger, rng = driver.ledger, np.random.default_rng(0)
    if not ledger.visited_count:
        for start in range(0, size, 1 << 20):
            rows = slice(start, min(start + (1 << 20), size))
            count = rows.stop - rows.start
            rate = rng.random(count, dtype=np.float32)
            ledger.visits[rows], ledger.rollouts[rows], ledger.last_step[rows] = 1, GROUP, 0
            ledger.tokens[rows] = 100 * GROUP
            ledger.weight[rows], ledger.mean[rows] = GROUP, rate
            ledger.squares[rows] = GROUP * rate * (1 - rate)
            ledger.group_weight[rows], ledger.group_mean[rows] = 1, rate
            ledger.group_squares[rows], ledger.within[rows] = 0, rate * (1 - rate)
            ledger.entropy[rows] = 1
        ledger.visited_count, ledger.reward_low, ledger.reward_high = size, 0.0, 1.0
        ledger._variance_sums = dict.fromkeys(ledger._variance_sums, size / 6)
        ledger._entropy_sum, ledger._entropy_count = float(size), size
        ledger.step = 1
    return Chooser(driver)


def serve(address: str, folder: str, size: int, candidates: int, every_s: float, out: Any) -> None:
    """The chooser's process."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    before = _resident()
    began = time.perf_counter()
    chooser = JournaledChooser(new_chooser(size, candidates), Path(folder))
    out.send(
        {
            "pid": os.getpid(),
            "replayed_frames": chooser.replayed,
            "start_s": time.perf_counter() - began,
            "resident_bytes": _resident() - before,
            "rollouts": chooser.chooser.driver.spent.rollouts,
            "in_flight": sum(chooser.chooser.driver.ledger.in_flight.values()),
        }
    )
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    ChooserServer(chooser, listener, snapshot_every_s=every_s).run()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _processor_s(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


class Engines:
    """A thousand engines behind one connection."""

    def __init__(self, client: ChooserClient, held: list[int], rng: np.random.Generator) -> None:
        self.client, self.held, self.rng = client, held, rng
        self.told = 0

    def frame(self) -> None:
        """Tell of jobs that are done, once all engines are at one, and ask for as many."""
        done: list[int] = []
        if len(self.held) >= ENGINES:
            for place in self.rng.integers(len(self.held) - FRAME, size=FRAME).tolist():
                self.held[place], self.held[-1] = self.held[-1], self.held[place]
                done.append(self.held.pop())
        numbers = np.array(done, dtype=np.int64)
        rewards = self.rng.integers(2, size=(len(done), GROUP)).astype(np.float32)
        tokens = np.full((len(done), GROUP), 100, dtype=np.int32)
        self.told += rewards.size
        jobs = self.client.exchange(numbers, rewards, tokens, FRAME)
        self.held += [job.number for job in jobs]


def flat_out(engines: Engines, pid: int, choices: int) -> dict[str, float]:
    before, began = _processor_s(pid), time.perf_counter()
    for _ in range(choices // FRAME):
        engines.frame()
    wall, processor = time.perf_counter() - began, _processor_s(pid) - before
    return {
        "choices": choices,
        "choices_per_s": choices / wall,
        "processor_us_per_choice": processor / choices * 1e6,
        "choices_per_processor_s": choices / processor,
    }


def at_a_rate(engines: Engines, rate: float, seconds: float) -> dict[str, float | int]:
    count, latencies = int(rate * seconds / FRAME), []
    began = time.perf_counter()
    for i in range(count):
        due = began + i * FRAME / rate
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left if left > 2e-4 else 0)
        engines.frame()
        latencies.append(time.perf_counter() - due)
    points = np.percentile(latencies, [50, 90, 99, 99.9, 100]) * 1e3
    names = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")
    return {"rate": rate, "frames": count} | dict(zip(names, points.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=10_000_000)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--choices", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=5_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:

        def start(life: int, every_s: float) -> tuple[Any, dict[str, Any], str]:
            ours, theirs = context.Pipe()
            address = f"{folder}/s{life}"
            names = address, f"{folder}/state", arguments.prompts, arguments.candidates
            process = context.Process(target=serve, args=(*names, every_s, theirs))
            os.sched_setaffinity(0, cores)  # what the child starts with
            process.start()
            os.sched_setaffinity(0, cores[1:] or cores)
            facts = ours.recv()
            while not Path(address).exists():
                time.sleep(0.01)
            time.sleep(0.1)
            return process, facts, address

        process, facts, address = start(0, 1e9)
        engines = Engines(ChooserClient(address), [], np.random.default_rng(1))
        flat_out(engines, facts["pid"], 2 * ENGINES)
        quick = flat_out(engines, facts["pid"], arguments.choices)
        steady = at_a_rate(engines, arguments.rate, arguments.seconds)
        os.kill(facts["pid"], signal.SIGKILL)
        process.join()

        # Again with the journal, and now with snapshots while engines ask.
        process, again, address = start(1, arguments.seconds / 2)
        held = np.array(engines.held, dtype=np.int64)
        lives = {"killed_with_jobs_out": len(held), "restarted": again}
        lives["rollouts_told"] = engines.told
        lives["nothing_lost_or_doubled"] = again["rollouts"] == engines.told and again[
            "in_flight"
        ] == GROUP * len(held)
        engines = Engines(ChooserClient(address, held), engines.held, engines.rng)
        snapshots = at_a_rate(engines, arguments.rate, arguments.seconds)
        waited = time.perf_counter()
        while not [*Path(folder, "state").glob("snapshot-*")]:
            time.sleep(0.1)
        snapshots["snapshot_written_s_later"] = time.perf_counter() - waited
        told_before, held = engines.told, engines.held
        os.kill(again["pid"], signal.SIGKILL)
        process.join()
        process, third, address = start(2, 1e9)
        lives["restarted_from_the_snapshot"] = third
        lives["nothing_lost_or_doubled_again"] = third["rollouts"] == lives[
            "rollouts_told"
        ] + told_before and third["in_flight"] == GROUP * len(held)
        process.terminate()
        process.join()
    result = {
        "prompts": arguments.prompts,
        "candidates": arguments.candidates,
        "strategy": "dopr-paper, prior pool",
        "bytes_per_prompt": facts["resident_bytes"] / arguments.prompts,
        "start_s": facts["start_s"],
        "flat_out": quick,
        "at_a_rate": steady,
        "at_a_rate_with_a_snapshot_under_way": snapshots,
        "restart": lives,
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "command": "OMP_NUM_THREADS=1 python benchmarks/chooser_load.py",
    }
    print(json.dumps(result, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

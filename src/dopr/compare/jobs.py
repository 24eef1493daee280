"""The runs of a comparison one by one or side by side: a cluster's queue, several cores or GPUs.

    dopr compare --config comparison.yaml --jobs 2

starts workers that take whatever run is missing and free; each has its own cores (and its own GPU,
where there are several). For a queue of one's own,

    dopr compare --config comparison.yaml --list-runs |
        xargs -P 2 -n 1 dopr compare --config comparison.yaml --run

does the same: it lists the tuning runs first, the reported ones once those are finished. `dopr
compare --config comparison.yaml` then finds every run done and writes the comparison.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dopr.compare.comparison import Comparison, Try
from dopr.compare.run import open_folder, run_training
from dopr.compare.tuning import tune
from dopr.core.errors import Terminated, UserError, unknown_name
from dopr.runs.settings import TrainSettings
from dopr.runs.train import TrainResult, finished_result

Runs = dict[str, TrainSettings]


def missing_runs(comparison: Comparison) -> list[str]:
    """Names of the runs that can be made now and are not finished."""
    comparison.check()
    return [name for name, settings in _runs(comparison).items() if not _is_done(settings)]


def run_one_of(comparison: Comparison, name: str, quiet: bool = False) -> TrainResult | None:
    """Make (or go on with) the run that `missing_runs` calls `name`.

    Returns:
        None when it was stopped by a signal.

    Raises:
        UserError: there is no such run, or the tuning that it needs is not finished.
    """
    open_folder(comparison)
    runs = _runs(comparison)
    if name not in runs:
        if name in _names_of_reported(comparison):
            raise UserError(
                f"run {name!r} needs the tuning to be finished; make the runs of --list-runs first"
            )
        raise unknown_name("run", name, list(runs))
    return run_training(runs[name], name, quiet, may_diverge=name.startswith("tuning/"))


def run_side_by_side(comparison: Comparison, jobs: int, command: Sequence[str]) -> bool:
    """Make all missing runs with so many workers at a time; whether all of them came to their end.

    Args:
        jobs: workers.
        command: arguments of `dopr` that name this comparison, without `--jobs`.

    Raises:
        UserError: jobs below 1, or a worker failed.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be at least 1")
    open_folder(comparison)
    workers: list[subprocess.Popen[bytes]] = []
    ends = {0, 130}
    try:
        for number in range(jobs):
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dopr", *command, "--worker", f"{number}/{jobs}"],
                    env=os.environ | _share_of_machine(number, jobs, comparison.threads),
                )
            )
        codes = [worker.wait() for worker in workers]
    except KeyboardInterrupt as stop:  # the workers got it too and save what they have
        if isinstance(stop, Terminated):
            for worker in workers:  # but a termination may be of this process alone
                worker.terminate()
        codes = [worker.wait() for worker in workers]
        # Of those that were loading, or waiting for others.
        ends |= {143, -signal.SIGTERM, -signal.SIGINT}
    if set(codes) - ends:
        raise UserError("a worker failed; its message stands above, the other runs are kept")
    return all(code == 0 for code in codes)


def work(comparison: Comparison, number: int, jobs: int, quiet: bool = False) -> bool:
    """Take free runs until none is missing; False when a signal stopped it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::jobs] or cores)
    while missing := missing_runs(comparison):
        taken = False
        for name in missing:
            with _claim(comparison, name) as free:
                if not free or name not in missing_runs(comparison):
                    continue
                if run_one_of(comparison, name, quiet) is None:
                    return False
                taken = True
                break  # the list is old now: tuning may be complete
        if not taken:
            time.sleep(1.0)
    return True


@contextlib.contextmanager
def _claim(comparison: Comparison, name: str) -> Iterator[bool]:
    """Whether the run is ours; the system gives it back when this process ends, however it ends."""
    file = comparison.folder / "locks" / name.replace("/", "_")
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _share_of_machine(number: int, jobs: int, threads: int | None) -> dict[str, str]:
    """Environment of a worker: threads that do not get in each other's way, a GPU of its own."""
    import torch

    share = {"OMP_NUM_THREADS": str(threads or max(1, (os.cpu_count() or 1) // jobs))}
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus > 1:
        # Of those that this process may use, by the names that it was given for them.
        allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = allowed.split(",") if allowed else list(map(str, range(gpus)))
        share["CUDA_VISIBLE_DEVICES"] = names[number % gpus].strip()
    return share


def _runs(comparison: Comparison) -> Runs:
    """The tuning runs while some are missing, then the reported ones too."""
    tuning = {
        _name(comparison, settings): settings
        for strategy in comparison.strategies
        if comparison.needs_tuning(strategy)
        for number in range(len(comparison.tries(strategy)))
        for seed in comparison.tuning.seeds
        for settings in [comparison.tuning_settings(strategy, seed, number)]
    }
    if not all(_is_done(settings) for settings in tuning.values()):
        return tuning
    found = tune(comparison, lambda settings, label: finished_result(settings))
    assert found is not None  # every tuning run is finished
    chosen = {s: entry["chosen"] for s, entry in found["strategies"].items()}
    return tuning | {
        _name(comparison, settings): settings for settings in _reported(comparison, chosen)
    }


def _reported(comparison: Comparison, chosen: dict[str, Try]) -> Iterator[TrainSettings]:
    for seed in comparison.seeds:
        for strategy in comparison.strategies:
            yield comparison.settings(
                strategy, seed, chosen.get(strategy, comparison.tries(strategy)[0])
            )


def _names_of_reported(comparison: Comparison) -> set[str]:
    return {_name(comparison, settings) for settings in _reported(comparison, {})}


def _name(comparison: Comparison, settings: TrainSettings) -> str:
    return str(Path(settings.output_dir).relative_to(comparison.folder))


def _is_done(settings: TrainSettings) -> bool:
    return finished_result(settings) is not None

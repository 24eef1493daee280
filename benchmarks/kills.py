"""A run that is killed 200 times against the same run left alone.

    python benchmarks/kills.py --kills 200

A child process trains the shipped tiny model with checkpoints every few steps, and is killed
(SIGKILL) at a random moment; the next one resumes. One in ten dies while it loads, the others
within nine steps, wherever that is: generation, reward, update, evaluation, saving; what it was
doing is noted. When the run is through, weights, ledger, metrics and evaluations must be those of
the run that was never killed.
Writes docs/results/kills.json.
"""

import argparse
import contextlib
import faulthandler
import functools
import json
import mmap
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from dopr.engines.trl.trainer import DoPRTrainer
from dopr.runs.evaluation import evaluate  # noqa: F401  loaded before the fork, as all that follows
from dopr.runs.settings import EvalSettings, TrainSettings
from dopr.runs.train import train

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "kills.json"
PHASES = ("loading", "between", "generation", "reward", "update", "saving", "evaluation")
METHODS = {
    "_generate_single_turn": "generation",
    "_calculate_rewards": "reward",
    "training_step": "update",
    "_save_checkpoint": "saving",
}
CRASHES = os.path.join(tempfile.gettempdir(), "dopr-kills-crashes.txt")
MARK = "DOPR_KILLS_MARK"
CRASHED = "crashed by itself"
CLOCKS = ("wall_s", "step_time", "eval_s", "epoch")


def settings_of(folder: Path, steps: int, strategy: str) -> TrainSettings:
    settings = TrainSettings(
        model="tiny-reasoner",
        dataset="tiny:leg_counting/half",
        eval_dataset="tiny:leg_counting/eval",
        reward="gym",
        strategy=strategy,
        num_generations=4,
        max_completion_length=16,
        learning_rate=1e-4,
        steps=steps,
        threads=1,
        save_every=3,
        completions_every=7,
        eval=EvalSettings(every_steps=20, num_prompts=8),
        output_dir=str(folder),
        seed=3,
    )
    settings.check()
    return settings


class Board:
    """What a child is doing, where its parent can read it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 2)

    @property
    def phase(self) -> str:
        return PHASES[self.memory[0]]

    @phase.setter
    def phase(self, name: str) -> None:
        self.memory[0] = PHASES.index(name)

    @property
    def steps(self) -> int:
        """Steps begun by this child."""
        return self.memory[1]

    @steps.setter
    def steps(self, count: int) -> None:
        self.memory[1] = min(count, 255)


def noted(method: Callable[..., Any], phase: str, board: Board) -> Callable[..., Any]:
    """The method, with its phase on the board while it runs."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before, board.phase = board.phase, phase
        if method.__name__ == "training_step":
            board.steps += 1
        try:
            return method(*args, **kwargs)
        finally:
            board.phase = before

    return wrapper


def live(settings: TrainSettings, board: Board) -> None:
    """What a child does: train on from the newest checkpoint."""
    import dopr.runs.train

    for name, phase in METHODS.items():
        setattr(DoPRTrainer, name, noted(getattr(DoPRTrainer, name), phase, board))
    dopr.runs.train.evaluate = noted(dopr.runs.train.evaluate, "evaluation", board)
    begin = DoPRTrainer._inner_training_loop

    def begun(*args: Any, **kwargs: Any) -> Any:
        board.phase = "between"
        return begin(*args, **kwargs)

    DoPRTrainer._inner_training_loop = begun
    train(settings, resume=True, quiet=True)


def start(settings: TrainSettings, board: Board) -> int:
    """A child; its process number."""
    board.phase, board.steps = "loading", 0
    child = os.fork()
    if child:
        return child
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    # A child that dies by itself (it is a fork of a process with libraries in it) is counted too.
    faulthandler.enable(open(CRASHES, "a"))  # noqa: SIM115
    code = 1
    with contextlib.suppress(BaseException):
        live(settings, board)
        code = 0
    os._exit(code)


def one_life(settings: TrainSettings, board: Board, chance: random.Random | None) -> str | None:
    """Run a child; the phase it was killed in, CRASHED, or None where it came to its end.

    Args:
        chance: of the moment; None lets it live.
    """
    if chance is None:
        steps, while_loading, share = 256, False, 0.0
    else:
        # At most nine steps: three checkpoints, so that the run gets on whatever the speed.
        steps, while_loading, share = chance.randint(0, 9), chance.random() < 0.1, chance.random()
    child, began = start(settings, board), time.monotonic()
    reached, last, seen = None, began, 0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        now = time.monotonic()
        if ended:
            if os.WIFSIGNALED(status):
                return CRASHED
            if status != 0:
                raise SystemExit(f"a child ended by itself with status {status}")
            return None
        if while_loading and now - began > 2 * share:
            break
        if board.steps != seen:
            seen, length, last = board.steps, now - last, now
        if reached is None and seen >= steps and board.phase != "loading":
            # Somewhere in the step that begins now, saving and evaluation behind it included.
            reached = now + share * min(length, 2.0) * 1.5 if seen else now + share * 0.1
        if reached is not None and now > reached:
            break
        time.sleep(0.0003)
    phase = board.phase
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return phase


def rows(path: Path) -> list[dict[str, Any]]:
    """A JSONL file without what depends on the clock."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in found]


def differences(run: Path, reference: Path) -> list[str]:
    """Files of the two runs that are not the same."""
    found = [
        name
        for name in ("model/model.safetensors", "ledger.parquet")
        if (run / name).read_bytes() != (reference / name).read_bytes()
    ]
    return found + [
        name
        for name in ("metrics.jsonl", "eval.jsonl")
        if rows(run / name) != rows(reference / name)
    ]


def orphans() -> list[int]:
    """Processes of killed children that still live (their parent is now process 1)."""
    mine = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                started_here = (entry / "environ").read_bytes()
                if status[1] == "1" and MARK.encode() in started_here:
                    mine.append(int(entry.name))
    return mine


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def study(folder: Path, kills: int, steps: int, strategy: str, seed: int) -> dict[str, Any]:
    """Kill and resume until the run is through; what was hit and what differed."""
    chance, board = random.Random(seed), Board()
    began = time.monotonic()
    reference = folder / "reference"
    shutil.rmtree(reference, ignore_errors=True)
    one_life(settings_of(reference, steps, strategy), board, None)
    alone = time.monotonic() - began
    run = folder / "killed"
    shutil.rmtree(run, ignore_errors=True)
    settings, hit = settings_of(run, steps, strategy), Counter[str]()
    while True:
        killed = hit.total() - hit[CRASHED]
        phase = one_life(settings, board, chance if killed < kills else None)
        if phase is None:
            break
        hit[phase] += 1
        if hit[CRASHED] > 20:
            raise SystemExit("more than 20 children crashed by themselves")
    crashes = hit.pop(CRASHED, 0)
    time.sleep(5.0)  # a worker looks for its parent every two seconds
    return {
        "strategy": strategy,
        "steps": steps,
        "kills": hit.total(),
        "crashes_of_a_child_by_itself": crashes,
        "killed_while": dict(hit),
        "differing_files": differences(run, reference),
        "orphans": len(orphans()),
        "seconds_alone": round(alone, 1),
        "seconds_killed": round(time.monotonic() - began - alone, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=650)
    parser.add_argument("--strategy", default="dopr")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if MARK not in os.environ:  # children of children are known by it
        os.environ[MARK] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with workplace(options.folder) as folder:
        found = study(folder, options.kills, options.steps, options.strategy, options.seed)
    result = found | {
        "command": f"python benchmarks/kills.py --kills {options.kills} --steps {options.steps} "
        f"--strategy {options.strategy} --seed {options.seed}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if found["differing_files"] or found["orphans"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

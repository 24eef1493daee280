"""A long run whose memory, files and processes are watched: `python benchmarks/soak.py`.

Trains the shipped tiny model for 5,000 steps with evaluation, completion tables, checkpoints and a
reward in child processes, and notes every 50 steps what the process holds. Flat means: the mean of
resident memory over the last fifth differs by at most 2% from that over the second fifth (the first
one fills caches). Writes docs/results/soak.json.
"""

import argparse
import gc
import json
import os
import platform
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from dopr.engines.trl.trainer import DoPRTrainer
from dopr.report import write_report
from dopr.runs.settings import EvalSettings, TrainSettings
from dopr.runs.train import train

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "soak.json"
PAGE = os.sysconf("SC_PAGE_SIZE")


def held() -> dict[str, int]:
    """Resident bytes, open files, threads and child processes of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
        "children_bytes": sum(
            int(Path(f"/proc/{child}/statm").read_text().split()[1]) * PAGE for child in children
        ),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(children),
        "objects": len(gc.get_objects()),
    }


class Watch(TrainerCallback):
    """Notes what is held every so many steps."""

    def __init__(self, every: int) -> None:
        self.every, self.rows = every, list[dict[str, Any]]()
        self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            seconds = round(time.monotonic() - self.began, 1)
            self.rows.append({"step": state.global_step, "seconds": seconds} | held())


def run(folder: Path, steps: int, every: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The watched run; what was held over time, and whether its records are complete."""
    settings = TrainSettings(
        model="tiny-reasoner",
        dataset="tiny:leg_counting/half",
        eval_dataset="tiny:leg_counting/eval",
        reward="gym",
        num_generations=4,
        strategy_args={"prompts_per_step": 1},
        max_completion_length=16,
        learning_rate=1e-5,
        steps=steps,
        threads=1,
        save_every=200,
        completions_every=20,
        eval=EvalSettings(every_steps=100, num_prompts=16),
        output_dir=str(folder),
    )
    settings.check()
    watch, begin = Watch(every), DoPRTrainer.__init__

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.add_callback(watch)

    DoPRTrainer.__init__ = watched  # type: ignore[method-assign]
    result = train(settings, quiet=True)
    write_report(result.run_dir)
    metrics = (folder / "metrics.jsonl").read_text().splitlines()
    seen = [json.loads(line)["step"] for line in metrics]
    complete = {
        "steps": result.steps,
        "every_step_in_metrics": seen == list(range(1, steps + 1)),
        "evaluations": len((folder / "eval.jsonl").read_text().splitlines()),
        "rollouts": result.rollouts,
        "rollouts_in_last_row": json.loads(metrics[-1])["rollout/rollouts_total"],
        "report_bytes": (folder / "report.html").stat().st_size,
    }
    return watch.rows, complete


def growth(rows: list[dict[str, Any]], key: str) -> float:
    """Mean over the last fifth against the second fifth, minus one."""
    values = np.array([row[key] for row in rows], dtype=float)
    fifth = len(values) // 5
    return float(values[-fifth:].mean() / values[fifth : 2 * fifth].mean() - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, complete = run(Path(folder) / "run", options.steps, options.every)
    keys = ("resident_bytes", "children_bytes", "open_files", "threads", "children", "objects")
    grown = {key: growth(rows, key) for key in keys}
    result = {
        "command": f"python benchmarks/soak.py --steps {options.steps}",
        "growth": grown,
        "flat": bool(abs(grown["resident_bytes"]) <= 0.02 and grown["open_files"] <= 0),
        "complete": complete,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "rows": rows,
    }
    options.output.write_text(json.dumps(result) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=2))
    if not result["flat"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

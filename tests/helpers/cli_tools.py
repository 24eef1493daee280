"""Runs of the command line on a tiny model, in this process or in one that can be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dopr import cli

TIMES = ("wall_s", "step_time", "eval_s", "epoch")
REWARD = """
def odd(completions, **columns):
    return [float(sum(ch.isdigit() for ch in text) % 2) for text in completions]
"""


def write(path: Path, content: Any) -> Path:
    """A file of this text, or of anything else as JSON."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def weights_in(folder: Path) -> set[str]:
    """The folders below one that hold weights, those of checkpoints too."""
    return {str(file.parent.relative_to(folder)) for file in folder.rglob("*.safetensors")}


def write_rows(path: Path, rows: int = 24) -> Path:
    lines = [
        json.dumps({"prompt": f"{i}+{i + 1}=?", "answer": str(2 * i + 1)}) for i in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def words(folder: Path, model_dir: Path, **changes: Any) -> list[str]:
    """The arguments of a run of a second; `None` leaves a setting out."""
    if not (folder / "rows.jsonl").exists():
        write_rows(folder / "rows.jsonl")
        (folder / "rw.py").write_text(REWARD)
    values: dict[str, Any] = {
        "model": model_dir,
        "dataset": folder / "rows.jsonl",
        "reward": f"{folder / 'rw.py'}:odd",
        "output_dir": folder / "run",
        "steps": 4,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "strategy_args.candidates": 8,
        "strategy_args.prompts_per_step": 1,
        "threads": 1,
        "seed": 5,
    } | changes
    return [f"--{k}={v}" for k, v in values.items() if v is not None]


def train(*arguments: str) -> int:
    return cli.main(["train", "--quiet", *arguments])


def start(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dopr", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(path_pattern: str, folder: Path, process: subprocess.Popen) -> None:
    """Until a file of that pattern exists; fails when the process ends before."""
    deadline = time.monotonic() + 90
    while not any(folder.glob(path_pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path_pattern} in 90 s"
        time.sleep(0.005)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A JSONL file without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]

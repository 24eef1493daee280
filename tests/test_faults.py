"""Faults that a run must survive or name: a lost process, old files, a clock set back."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli_tools import rows_of, train, wait_for, words
from dopr.engines.trl.checkpoints import STATE_FILE, write_manifest

KILLS = Path(__file__).parent.parent / "benchmarks" / "kills.py"
SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


OWN_STREAM = """
import os
from dopr import Request, Strategy

class Own(Strategy):
    name, summary, source, mark = "own", "chooses by its process", "here", "V"

    def step(self, prompts, ledger):
        mine = int(os.environ["RANK"]) if ledger.step == 3 else 0
        return (yield [Request(mine, self.num_generations)])
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start_two(*arguments: str) -> list[subprocess.Popen]:
    """A run in two processes, which no launcher watches over."""
    shared = {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "dopr", "train", "--quiet", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-3000:]


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_run_with_a_sentence_and_it_resumes(
    tmp_path: Path, tiny_model_dir: Path, rank: int
) -> None:
    chosen = words(tmp_path, tiny_model_dir, steps=30, save_every=3)
    processes = start_two(*chosen)
    wait_for("run/checkpoints/*/dopr_manifest.json", tmp_path, processes[0])
    processes[rank].kill()
    survivor = processes[1 - rank]
    _, err = survivor.communicate(timeout=60)
    processes[rank].communicate()
    assert survivor.returncode == 1 and not (tmp_path / "run/done.json").exists()
    assert "another process of this run has ended" in err and "--resume" in err
    assert "Traceback" not in err

    finish(start_two(*chosen, "--resume"))
    finish(start_two(*words(tmp_path, tiny_model_dir, steps=30, output_dir=tmp_path / "whole")))
    for name in ("metrics.jsonl", "model/model.safetensors", "ledger.parquet"):
        here, there = tmp_path / "run" / name, tmp_path / "whole" / name
        if name.endswith("jsonl"):
            assert rows_of(here) == rows_of(there)
        else:
            assert here.read_bytes() == there.read_bytes(), name


def test_processes_that_choose_differently_are_stopped(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN_STREAM)
    own = {"strategy_args.candidates": None, "strategy_args.prompts_per_step": None}
    name = f"{tmp_path / 'own.py'}:Own"
    chosen = words(tmp_path, tiny_model_dir, strategy=name, save_every=2, **own)
    told = [(p, p.communicate(timeout=60)[1]) for p in start_two(*chosen)]
    for process, err in told:
        assert process.returncode == 2, err[-3000:]
        assert "the processes chose different prompts" in err
        assert "process 0 chose 0, process 1 1" in err and "--resume" not in err
    assert [folder.name for folder in (tmp_path / "run/checkpoints").iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("version", [0, 2, None])
def test_a_checkpoint_of_another_version_is_refused_by_name(
    tmp_path: Path, tiny_model_dir: Path, version: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words(tmp_path, tiny_model_dir, save_every=2)) == 0
    folder = tmp_path / "run/checkpoints/checkpoint-4"
    state = json.loads((folder / STATE_FILE).read_text()) | {"version": version}
    (folder / STATE_FILE).write_text(json.dumps(state))
    write_manifest(folder)
    before = (folder / STATE_FILE).read_bytes()
    assert train(*words(tmp_path, tiny_model_dir, steps=6), "--resume") == 2
    told = capsys.readouterr().err
    assert f"checkpoint format {version}" in told and "resume it with the version" in told
    assert (folder / STATE_FILE).read_bytes() == before


def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durations are taken from clocks that cannot be set."""
    changes: dict[str, Any] = {"eval_dataset": tmp_path / "rows.jsonl", "eval.every_rollouts": 4}
    assert train(*words(tmp_path, tiny_model_dir, output_dir=tmp_path / "usual", **changes)) == 0
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e7)
    chosen = words(tmp_path, tiny_model_dir, max_seconds=600, save_every=2, **changes)
    assert train(*chosen) == 0
    assert rows_of(tmp_path / "run/metrics.jsonl") == rows_of(tmp_path / "usual/metrics.jsonl")
    lines = (tmp_path / "run/eval.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["wall_s"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] < 600


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dopr", "speed", "uniform"])
def test_a_run_killed_again_and_again_is_the_run_left_alone(tmp_path: Path, strategy: str) -> None:
    command = [sys.executable, str(KILLS), "--kills", "15", "--steps", "60", "--strategy", strategy]
    output = tmp_path / "kills.json"
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert found["kills"] >= 5 and found["differing_files"] == [] and found["orphans"] == 0


@pytest.mark.slow
def test_a_long_run_holds_no_more_at_its_end(tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--steps", "400", "--every", "10"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "soak.json")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert json.loads((tmp_path / "soak.json").read_text())["complete"]["every_step_in_metrics"]

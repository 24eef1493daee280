"""Faults that a run must survive or name: a lost process, old files, a clock set back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli_tools import rows_of, train, wait_for, words
from dopr.checkpoint import STATE_FILE, write_manifest

KILLS = Path(__file__).parent.parent / "benchmarks" / "kills.py"
SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


def start_two(*arguments: str) -> subprocess.Popen:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "dopr", "train", "--quiet", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def process_of(rank: int, launcher: subprocess.Popen) -> int:
    """The process that has this rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank} among {children}")


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_run_with_a_sentence_and_it_resumes(
    tmp_path: Path, tiny_model_dir: Path, rank: int
) -> None:
    chosen = words(tmp_path, tiny_model_dir, steps=30, save_every=3)
    run = start_two(*chosen)
    wait_for("run/checkpoints/*/dopr_manifest.json", tmp_path, run)
    os.kill(process_of(rank, run), signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode != 0 and not (tmp_path / "run/done.json").exists()
    if "SIGTERM" not in err.split("dopr: error")[0]:  # else the launcher was faster than the loss
        assert "another process of this run has ended" in err and "--resume" in err

    again = start_two(*chosen, "--resume")
    assert again.wait(timeout=120) == 0
    whole = start_two(*words(tmp_path, tiny_model_dir, steps=30, output_dir=tmp_path / "whole"))
    assert whole.wait(timeout=120) == 0
    for name in ("metrics.jsonl", "model/model.safetensors", "ledger.parquet"):
        here, there = tmp_path / "run" / name, tmp_path / "whole" / name
        if name.endswith("jsonl"):
            assert rows_of(here) == rows_of(there)
        else:
            assert here.read_bytes() == there.read_bytes(), name


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

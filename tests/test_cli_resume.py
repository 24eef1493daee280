"""A run that is killed and resumed is the run that was never killed, to the last bit."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cli_tools import rows_of, start, train, wait_for, words, write_rows
from dopr.runs.callbacks import Interrupt

STEPS = 40


def arguments(folder: Path, model: Path, **changes: Any) -> list[str]:
    # A checkpoint falls between evaluations and an evaluation between checkpoints.
    return words(
        folder,
        model,
        steps=STEPS,
        save_every=3,
        eval_dataset=folder / "rows.jsonl",
        completions_every=5,
        **{"eval.every_rollouts": 20, "eval.num_prompts": 6},
        **changes,
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    assert train(*arguments(folder, tiny_model_dir)) == 0
    return folder / "run"


def assert_same(run: Path, reference: Path) -> None:
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert rows_of(run / name) == rows_of(reference / name), name
    for name in ("model/model.safetensors", "ledger.parquet"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    tables = [sorted(p.name for p in (r / "completions").iterdir()) for r in (run, reference)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("attempt", range(2))
def test_kill_and_resume(
    tmp_path: Path, tiny_model_dir: Path, reference: Path, attempt: int
) -> None:
    chosen = arguments(tmp_path, tiny_model_dir)
    process = start("train", *chosen)
    wait_for("run/checkpoints/*/dopr_manifest.json", tmp_path, process)
    time.sleep(random.random() * 0.4)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run/done.json").exists(), "killed too late to test anything"
    assert train(*chosen, "--resume") == 0
    assert_same(tmp_path / "run", reference)


def test_only_a_second_ctrl_c_stops_at_once() -> None:
    # A termination may reach a process twice: as one of a group, and from the one that started it.
    said: list[str] = []
    with Interrupt(said.append) as interrupt:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.received == signal.SIGTERM and len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_forked_child_ends_by_the_signal_as_usual() -> None:
    context = multiprocessing.get_context("fork")
    began = context.Event()

    def sleep() -> None:
        began.set()
        time.sleep(60)

    child = context.Process(target=sleep)
    said: list[str] = []
    with Interrupt(said.append) as interrupt:
        child.start()
        assert began.wait(20)
        child.terminate()
        child.join(20)
    assert child.exitcode == -signal.SIGTERM and interrupt.received is None and not said


def test_interrupt_leaves_a_resumable_checkpoint(
    tmp_path: Path, tiny_model_dir: Path, reference: Path
) -> None:
    chosen = arguments(tmp_path, tiny_model_dir)
    process = start("train", *chosen)
    wait_for("run/metrics.jsonl", tmp_path, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in out and "stopping after this step" in err and "Traceback" not in err
    last = rows_of(tmp_path / "run/metrics.jsonl")[-1]["step"]
    assert last < STEPS
    assert (tmp_path / f"run/checkpoints/checkpoint-{last}/dopr_manifest.json").exists()
    assert train(*chosen, "--resume") == 0
    assert_same(tmp_path / "run", reference)


def test_a_terminated_evaluation_says_that_it_stopped(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl", 4))
    reward = tmp_path / "slow.py"
    body = "    Path(__file__).with_name('began').touch(); time.sleep(60)"
    reward.write_text(f"import time\nfrom pathlib import Path\n\n\ndef slow(**columns):\n{body}\n")
    options = ("--dataset", rows, "--reward", f"{reward}:slow", "--max-completion-length", "2")
    process = start("eval", str(tiny_model_dir), *options)
    wait_for("began", tmp_path, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "dopr: error: stopped at once" in err and "Traceback" not in err


def test_resume_without_a_whole_checkpoint_starts_again(
    tmp_path: Path, tiny_model_dir: Path, reference: Path
) -> None:
    chosen = arguments(tmp_path, tiny_model_dir)
    run = tmp_path / "run"
    (run / "checkpoints/checkpoint-3").mkdir(parents=True)
    (run / "checkpoints/checkpoint-3/trainer_state.json").write_text("{")
    (run / "metrics.jsonl").write_text('{"step": 1, "reward": 9}\n{"step": 2, "rew')
    assert train(*chosen) == 2
    assert train(*chosen, "--resume") == 0
    assert_same(run, reference)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_runs_that_reuse_rollouts_resume_exactly(
    tmp_path: Path, tiny_model_dir: Path, how: signal.Signals
) -> None:
    # Three steps on each batch: a checkpoint may only lie between batches.
    changes: dict[str, Any] = {"num_iterations": 3, "save_every": 4}
    whole = words(tmp_path, tiny_model_dir, steps=30, output_dir=tmp_path / "whole", **changes)
    assert train(*whole) == 0
    assert [row["rollout/rollouts_total"] for row in rows_of(tmp_path / "whole/metrics.jsonl")][
        :7
    ] == [4, 4, 4, 8, 8, 8, 12]
    chosen = words(tmp_path, tiny_model_dir, steps=30, **changes)
    process = start("train", *chosen)
    wait_for("run/checkpoints/*/dopr_manifest.json", tmp_path, process)
    process.send_signal(how)
    process.communicate(timeout=60)
    for folder in (tmp_path / "run/checkpoints").iterdir():
        assert int(folder.name.rpartition("-")[2]) % 3 == 0
    assert train(*chosen, "--resume") == 0
    assert rows_of(tmp_path / "run/metrics.jsonl") == rows_of(tmp_path / "whole/metrics.jsonl")
    weights = [
        (tmp_path / run / "model/model.safetensors").read_bytes() for run in ("run", "whole")
    ]
    assert weights[0] == weights[1]

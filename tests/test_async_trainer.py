"""AsyncDoPRTrainer trains on the CPU: its loop in a thread, no server, attention by torch."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import cpu_attention
from dopr import UserError
from dopr.engines.orphans import is_orphan
from dopr.engines.trl import checkpoints
from tiny import settings

worker = pytest.importorskip("trl.experimental.async_grpo.async_rollout_worker")

from trl.experimental.async_grpo import AsyncGRPOConfig  # noqa: E402

import async_tools  # noqa: E402
from async_tools import GROUP, Loop, chat_tokenizer, first_digit, make_pool  # noqa: E402
from dopr.engines.trl import async_rollouts  # noqa: E402
from dopr.engines.trl.async_rollouts import AsyncDoPRTrainer, ask_for_state  # noqa: E402

DAPO = {"strategy": "dapo", "strategy_args": {"prompts_per_step": 1, "max_rounds": 50}}


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async_tools.without_server(monkeypatch)
    cpu_attention.install(monkeypatch.setattr)
    monkeypatch.setattr(async_rollouts, "ChoosingLoop", Loop)
    monkeypatch.setattr(worker.AsyncRolloutWorker, "start", async_tools.start_in_thread)
    monkeypatch.setattr(worker.AsyncRolloutWorker, "stop", async_tools.stop_thread)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def make_trainer(
    model: Path, folder: Path, rows: int = 24, stop_at: int | None = None, **changes: Any
) -> AsyncDoPRTrainer:
    dopr = changes.pop("dopr", {"strategy": "uniform", "strategy_args": {"prompts_per_step": 2}})
    usual = {
        "save_strategy": "steps",
        "save_steps": 2,
        "token_budget": 64,
        "max_staleness": 1000,
        "max_inflight_tasks": 2 * GROUP,
        "queue_maxsize": 16 * GROUP,
    }
    return AsyncDoPRTrainer(
        str(model),
        first_digit,
        AsyncGRPOConfig(**settings(folder, **(usual | changes))),
        make_pool(rows),
        processing_class=chat_tokenizer(),
        callbacks=[] if stop_at is None else [StopAt(stop_at)],
        weight_transfer=async_tools.NoTransfer(),
        dopr=dopr,
    )


def test_totals_in_the_log_are_those_of_the_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Several steps of the strategy end between two lines of the log."""
    trainer = make_trainer(tiny_model_dir, tmp_path, max_steps=8, logging_steps=2)
    trainer.train()
    spent = trainer.rollout_worker.loop.chooser.driver.spent
    totals = [row["rollout/rollouts_total"] for row in trainer.state.log_history[:4]]
    assert totals == sorted(totals) and totals[0] > GROUP
    assert all(total % GROUP == 0 for total in totals) and totals[-1] <= spent.rollouts
    # TRL's own counters are still added up.
    sink = trainer._metrics["train"]
    for name in ("tools/failure_total", "rollout/rollouts_total"):
        sink[name].append(4.0)
        sink[name].append(8.0)
    assert sink["tools/failure_total"] == [4.0, 8.0] and sink["rollout/rollouts_total"] == [8.0]


def test_epochs_are_counted_over_dropped_groups_and_resumes(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Half of the prompts never pay, and are dropped: four epochs are 24 groups trained on."""
    options = {"rows": 6, "dopr": DAPO, "num_train_epochs": 4, "max_steps": -1, "token_budget": 12}
    first = make_trainer(tiny_model_dir, tmp_path, stop_at=2, **options)
    first.train()
    trained = epoch_count(tmp_path / "checkpoint-2")
    assert 0 < trained == len(first._trained_groups) < 12
    second = make_trainer(tiny_model_dir, tmp_path, stop_at=4, **options)
    second.train(resume_from_checkpoint=True)
    assert epoch_count(tmp_path / "checkpoint-4") == trained + len(second._trained_groups) < 24
    third = make_trainer(tiny_model_dir, tmp_path, **options)
    third.train(resume_from_checkpoint=True)
    a_step = 3  # groups at most: 12 tokens, of which a group has 4 answers of one token
    assert 24 <= epoch_count(tmp_path / "checkpoint-4") + len(third._trained_groups) < 24 + a_step


def epoch_count(checkpoint: Path) -> int:
    """Groups trained on so far, by which TRL knows where its epochs end."""
    count: int = json.loads((checkpoint / "rollout_state.json").read_text())["prompt_index"]
    return count


def test_a_checkpoint_that_is_not_whole_is_passed_over(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    make_trainer(tiny_model_dir, tmp_path, max_steps=4, save_total_limit=2).train()
    assert all(checkpoints.is_whole(tmp_path / f"checkpoint-{step}") for step in (2, 4))
    (tmp_path / "checkpoint-4" / checkpoints.MANIFEST_FILE).unlink()  # killed while it was written
    again = make_trainer(tiny_model_dir, tmp_path, max_steps=6, save_total_limit=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.log_history[2]["step"] == 3  # after the two of checkpoint-2
    assert checkpoints.is_whole(tmp_path / "checkpoint-4")  # written anew
    for step in (4, 6):
        (tmp_path / f"checkpoint-{step}" / checkpoints.MANIFEST_FILE).unlink()
    with pytest.raises(UserError, match="is whole and holds the state of a strategy"):
        make_trainer(tiny_model_dir, tmp_path).train(resume_from_checkpoint=True)


def test_groups_of_another_size_are_refused_before_a_model_is_trained(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    dopr = {"strategy": "uniform", "strategy_args": {"num_generations": 6}}
    with pytest.raises(UserError, match="a multiple of it"):
        make_trainer(tiny_model_dir, tmp_path, dopr=dopr)


def test_state_of_an_earlier_run_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    stale = tmp_path / "checkpoint-3" / "dopr"
    stale.mkdir(parents=True)
    with pytest.raises(UserError, match="did not write its state"):
        ask_for_state(tmp_path, stale, timeout_s=0.1)
    assert not stale.exists()


ORPHAN = """
import multiprocessing, sys, time
from dopr.engines.orphans import is_orphan

def watch(file):
    open(file, "w").write("begun")
    while not is_orphan():
        time.sleep(0.01)
    open(file, "w").write("ended")

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=watch, args=(sys.argv[1],), daemon=True).start()
    time.sleep(600)
"""


def test_a_child_notices_that_its_parent_was_killed(tmp_path: Path) -> None:
    assert multiprocessing.parent_process() is None and not is_orphan()
    script, file = tmp_path / "parent.py", tmp_path / "said.txt"
    script.write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, str(script), str(file)], env=os.environ)
    try:
        wait_for(file, "begun")
        time.sleep(0.1)
        assert file.read_text() == "begun"  # it stays while its parent lives
    finally:
        parent.kill()
        parent.wait()
    wait_for(file, "ended")


def wait_for(file: Path, text: str) -> None:
    ends = time.monotonic() + 120
    while not (file.is_file() and file.read_text() == text):
        assert time.monotonic() < ends
        time.sleep(0.01)

"""verl trains on the CPU, by its own entry point, with prompts chosen by a strategy.

Ray, TransferQueue, agent loops, reward loops, the FSDP2 worker, its optimiser and its checkpoints
are verl's; `cpu_verl` adds a platform and stands in for the inference server. Each run takes
minutes.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dopr.engines.trl.checkpoints import load_state

HERE = Path(__file__).parent
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # the same FSDP2 engine; verl lists it for cuda and npu only
    "VERL_USE_EXTERNAL_MODULES": "cpu_verl,dopr.engines.verl",
    "PYTHONPATH": os.pathsep.join(
        map(str, [HERE, HERE.parent / "helpers", HERE.parents[1] / "src"])
    ),
    "PYTHONHASHSEED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TQ_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
    "RAY_raylet_start_wait_time_s": "300",  # a machine may have other work to do
    "RAY_worker_register_timeout_seconds": "300",
}

pytestmark = pytest.mark.timeout(900)


def run(folder: Path, *settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(HERE / "train_tiny.py"), str(folder), *settings],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def train(folder: Path, *settings: str) -> list[dict]:
    """Run and give the metrics of each step."""
    done = run(folder, *settings)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["data"] for line in lines]


def state(folder: Path, step: int) -> dict:
    return load_state(folder / f"checkpoints/global_step_{step}/dopr")


def ledger(folder: Path, step: int) -> dict:
    return state(folder, step)["ledger"]


def test_a_run_trains_saves_and_resumes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    settings = ["+dopr.strategy=dopr", "+dopr.strategy_args.prompts_per_step=4"]
    steps = train(whole, *settings, "trainer.save_freq=2")
    assert [step["rollout/rollouts_total"] for step in steps] == [16, 32, 48]
    assert all(step["actor/grad_norm"] > 0 for step in steps if step["select/signal_rate"] > 0)
    assert steps[-1]["select/coverage"] > 0
    # verl's mean reward is the ledger's: both saw the same rollouts.
    first = ledger(whole, 2)
    seen = first["visits"] > 0
    rewards = (first["mean"] * first["weight"])[seen].sum() / first["weight"][seen].sum()
    assert 0 <= rewards <= 1 and np.isfinite(first["entropy"][seen]).all()

    part = tmp_path / "part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints/global_step_3")
    (part / "checkpoints/latest_checkpointed_iteration.txt").write_text("2")
    resumed = train(part, *settings, "trainer.save_freq=2")
    assert resumed[-1]["rollout/rollouts_total"] == 48
    for column in ("visits", "last_step"):
        assert np.array_equal(ledger(part, 3)[column], ledger(whole, 3)[column])


@pytest.mark.parametrize("strategy", ["reinforce-ada", "coba-rl"])
def test_several_rounds_and_unequal_groups(tmp_path: Path, strategy: str) -> None:
    steps = train(tmp_path, f"+dopr.strategy={strategy}", "trainer.total_training_steps=2")
    assert len(steps) == 2 and steps[-1]["rollout/rollouts_total"] >= 16
    assert steps[-1]["rollout/kept_total"] > 0


ASYNCHRONOUS = {
    "colocate_async": [],
    "separate_async": [
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=cpu",
    ],
}


@pytest.mark.parametrize("mode", list(ASYNCHRONOUS))
def test_an_asynchronous_run_trains_saves_and_resumes(tmp_path: Path, mode: str) -> None:
    whole = tmp_path / "whole"
    settings = [
        f"trainer.v1.trainer_mode={mode}",
        *ASYNCHRONOUS[mode],
        "+dopr.strategy=dopr",
        "+dopr.strategy_args.prompts_per_step=2",
        "trainer.v1.sampler.max_off_policy_threshold=3",
        "trainer.save_freq=2",
    ]
    steps = train(whole, *settings)
    assert len(steps) == 3
    for number, step in enumerate(steps, 1):
        assert step["rollout/rollouts_total"] >= step["rollout/kept_total"] >= 16 * number
        assert step["training/off_policy/trajectory_staleness_worst/max"] < 3
        # A batch beforehand, and no prompt of it chosen twice.
        assert step["rollout/in_flight"] <= 16
    assert max(step["training/off_policy/trajectory_staleness_worst/max"] for step in steps) >= 1
    assert any(step["actor/grad_norm"] > 0 for step in steps)
    # Every job has four rollouts: they were told of or are under way, once.
    for step in (2, 3):
        assert_each_rollout_counts_once(whole, step)

    part = tmp_path / "part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints/global_step_3")
    (part / "checkpoints/latest_checkpointed_iteration.txt").write_text("2")
    saved = state(part, 2)
    resumed = train(part, *settings)
    assert resumed[-1]["rollout/rollouts_total"] >= saved["driver"]["spent"]["rollouts"]
    assert_each_rollout_counts_once(part, 3)
    after = state(part, 3)["driver"]
    assert after["spent"]["plain_steps"] == after["spent"]["dropped_steps"] == 0
    assert after["ledger"]["visits"].sum() >= saved["driver"]["ledger"]["visits"].sum() + 4


def assert_each_rollout_counts_once(folder: Path, step: int) -> None:
    found = state(folder, step)
    under_way = found["jobs"][:, 3].sum()
    assert found["driver"]["spent"]["rollouts"] + under_way == 4 * found["next"]
    assert found["driver"]["spent"]["asked_again"] == 0


def test_a_strategy_that_cannot_run_here_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "+dopr.strategy=speed")
    assert done.returncode != 0
    assert "trains on rollouts of earlier steps" in done.stderr + done.stdout

"""What dopr.engines.verl relies on in verl; fails loudly when verl moves it."""

import inspect
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import verl
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1 import (
    agent_loop_tq,
    replay_buffer,
    trainer_base,
    trainer_colocate_async,
    trainer_separate_async,
    trainer_sync,
)
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.config import validate_config

import dopr.engines.verl as adapter
from dopr import UserError
from dopr.engines.adapter import make_engine_driver, read_engine_settings


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_this_is_the_verl_it_was_written_for() -> None:
    assert verl.__version__ == "0.9.1"


def test_the_registry_gives_our_trainers() -> None:
    assert trainer_base.get_trainer_cls("sync") is adapter.DoPRTrainerSync
    assert issubclass(adapter.DoPRTrainerSync, trainer_sync.PPOTrainerSync)
    assert trainer_base.get_trainer_cls("colocate_async") is adapter.DoPRTrainerColocateAsync
    colocated = trainer_colocate_async.PPOTrainerColocateAsync
    assert issubclass(adapter.DoPRTrainerColocateAsync, colocated)
    assert trainer_base.get_trainer_cls("separate_async") is adapter.DoPRTrainerSeparateAsync
    separate = trainer_separate_async.PPOTrainerSeparateAsync
    assert issubclass(adapter.DoPRTrainerSeparateAsync, separate)
    assert set(trainer_base.TRAINER_REGISTRY) == {"sync", "colocate_async", "separate_async"}


def test_verl_loads_the_adapter_by_its_own_means() -> None:
    script = (
        "from verl.trainer.ppo.v1 import get_trainer_cls\nprint(get_trainer_cls('sync').__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"VERL_USE_EXTERNAL_MODULES": "dopr.engines.verl"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "DoPRTrainerSync"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", ["self", "config"]),
        ("_build_replay_buffer", ["self"]),
        ("_init_dataloader", ["self"]),
        ("prepare_step", ["self"]),
        ("_submit_batch_to_rollout", ["self", "batch"]),
        ("_compute_advantage", ["self", "batch", "metrics"]),
        ("_save_checkpoint", ["self"]),
        ("_load_checkpoint", ["self"]),
    ],
)
def test_methods_have_the_signatures_relied_on(method: str, expected: list[str]) -> None:
    assert parameters(getattr(trainer_base.PPOTrainer, method)) == expected
    assert parameters(getattr(adapter.DoPRTrainerSync, method)) == expected


def test_the_buffer_is_asked_as_it_was() -> None:
    expected = ["self", "global_steps", "partition_id", "batch_size"]
    assert parameters(ReplayBuffer.sample) == expected
    assert parameters(adapter.ChosenRollouts.sample) == expected
    source = inspect.getsource(trainer_base.PPOTrainer)
    used = {line.split("self.replay_buffer.")[1].split("(")[0]
            for line in source.splitlines() if "self.replay_buffer." in line}  # fmt: skip
    assert used == {"sample"}
    assert "self.poll_interval = poll_interval" in inspect.getsource(ReplayBuffer.__init__)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("step", ["self", "metrics", "timing_raw"]),
        ("_add_prompts_to_generate", ["self", "num_prompts"]),
        ("_add_batch_to_generate", ["self"]),
        ("_add_async_warmup_batches", ["self", "num_warmup_batches"]),
        ("_reissue_inflight_prompts", ["self", "partition_id"]),
    ],
)
def test_the_asynchronous_trainers_have_the_methods_relied_on(method: str, expected: list) -> None:
    assert parameters(getattr(trainer_base.PPOTrainer, method)) == expected
    for trainer in (adapter.DoPRTrainerColocateAsync, adapter.DoPRTrainerSeparateAsync):
        assert parameters(getattr(trainer, method)) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_sync_metadata_from_transfer_queue", ["self"]),
        ("_clear_groups", ["self", "partition_id", "uids"]),
        ("_terminal_eviction_reasons", ["self", "global_steps", "partition_id"]),
        ("_sampleable_terminal_keys", ["self", "partition_id", "eviction_reasons"]),
        (
            "_has_enough_samples",
            ["self", "global_steps", "partition_id", "batch_size", "sampleable_keys"],
        ),
        (
            "_materialize_batch",
            ["self", "partition_id", "selected_prompt_uids", "partition_snapshot"],
        ),
        ("sample", ["self", "global_steps", "partition_id", "batch_size"]),
        ("wait_for_sampleable", ["self", "global_steps", "partition_id", "target_count"]),
        ("get_sampleable_count", ["self", "global_steps", "partition_id"]),
    ],
)
def test_the_asynchronous_buffer_has_the_methods_relied_on(method: str, expected: list) -> None:
    assert parameters(getattr(ReplayBufferAsync, method)) == expected
    assert parameters(getattr(adapter.StrategyBuffer, method)) == expected


def test_the_asynchronous_buffer_is_made_and_asked_as_it_was() -> None:
    made = inspect.getsource(trainer_base.PPOTrainer._build_replay_buffer)
    kept = made[
        made.index("replay_buffer_kwargs = dict(") : made.index("if not has_custom_sampler")
    ]
    names = {line.split("=")[0].strip() for line in kept.splitlines()[1:] if "=" in line}
    assert names == {
        "trainer_mode", "trainer_config", "max_off_policy_threshold", "max_off_policy_strategy",
        "sampler_kwargs", "refill_fn",
    }  # fmt: skip
    taken = parameters(ReplayBufferAsync.__init__)
    assert names | {"poll_interval"} < set(taken)
    waiting = inspect.getsource(ReplayBufferAsync.wait_for_sampleable)
    order = [
        "_sync_metadata_from_transfer_queue(",
        "_terminal_eviction_reasons(",
        "_evict_terminal_groups(",
        "refill_fn(len(evicted_uids))",
        "_sampleable_terminal_keys(",
        "_has_enough_samples(",
    ]
    places = [waiting.index(name) for name in order]
    assert places == sorted(places)
    sampled = inspect.getsource(ReplayBufferAsync.sample)
    order = ["wait_for_sampleable(", "_select_prompt_uids(", "_materialize_batch("]
    places = [sampled.index(name) for name in order]
    assert places == sorted(places)
    synced = inspect.getsource(replay_buffer.ReplayBuffer._sync_metadata_from_transfer_queue)
    for field in ("partitions", "finished_keys", "failure_keys", "prompt_global_steps"):
        assert f"self.{field}[partition_id]" in synced


def test_new_prompts_go_through_the_two_methods_that_order_them() -> None:
    prepare = inspect.getsource(trainer_base.PPOTrainer.prepare_step)
    assert "self._add_batch_to_generate()" in prepare
    warmup = inspect.getsource(trainer_base.PPOTrainer._add_async_warmup_batches)
    assert "self._restored_tq_prompt_count" in warmup
    assert "self._add_prompts_to_generate(missing_prompts)" in warmup
    for module in (trainer_base, trainer_colocate_async, trainer_separate_async):
        source = inspect.getsource(module)
        assert source.count("_next_train_batch(") == (3 if module is trainer_base else 0)
    submitted = inspect.getsource(trainer_base.PPOTrainer._submit_batch_to_rollout)
    assert 'if self.trainer_mode != "sync"' in submitted  # the prompts are saved with the store


def test_a_step_prepares_then_samples_then_computes_advantages() -> None:
    step = inspect.getsource(trainer_base.PPOTrainer.step)
    once = inspect.getsource(trainer_base.PPOTrainer._step_once)
    assert step.index("self.prepare_step()") < step.index("self._step_once(")
    order = [
        "replay_buffer.sample(",
        "on_sample_end()",
        "_balance_batch(",
        "_compute_old_log_prob(",
    ]
    places = [once.index(name) for name in [*order, "_compute_advantage(", "_update_actor("]]
    assert places == sorted(places)


def test_agent_loops_take_a_number_of_rollouts_for_each_prompt() -> None:
    assert '"__rollout_n__"' in inspect.getsource(agent_loop_tq)
    assert 'keys.append(f"{uid}_{session_id}_{i}")' in inspect.getsource(agent_loop_tq)
    assert issubclass(agent_loop_tq.AgentLoopManagerTQ, AgentLoopManager)


def test_the_recipe_is_valid_up_to_its_weights() -> None:
    recipe = (Path(__file__).parents[2] / "examples/verl_gsm8k.sh").read_text()
    command = recipe.split("python -m verl.trainer.main_ppo")[1].replace('"$@"', "")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", shlex.split(command.replace("\\\n", " ")))
    validate_config(config=config, use_reference_policy=False, use_critic=False)
    adapter.check_config(config)
    settings = read_engine_settings(OmegaConf.to_container(config.dopr))
    driver = make_engine_driver(settings, 100, num_generations=16, prompts_per_step=8)
    assert driver.strategy.name == "dopr" and config.trainer.v1.trainer_mode == "sync"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("algorithm.adv_estimator=gae", "adv_estimator must be grpo"),
        ("algorithm.use_kl_in_reward=True", "use_kl_loss"),
        ("algorithm.filter_groups.enable=True", "strategy=dapo"),
        ("trainer.v1.sampler.sync_refill_failed_groups=True", "lost rollouts"),
        ("skip.rollout_tq.enable=True", "depend on the rollouts"),
        ("reward.reward_model.enable=True", "enable_resource_pool"),
    ],
)
def test_settings_that_go_past_the_strategy_are_refused(setting: str, named: str) -> None:
    overrides = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.name=vllm", setting]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides)
    with pytest.raises(UserError, match=named):
        adapter.check_config(config)

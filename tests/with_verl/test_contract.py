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
from verl.trainer.ppo.v1 import agent_loop_tq, trainer_base, trainer_sync
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.config import validate_config

import dopr.engines.verl as adapter
from dopr import UserError
from dopr.engines.adapter import make_engine_driver, read_engine_settings


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_this_is_the_verl_it_was_written_for() -> None:
    assert verl.__version__ == "0.9.1"


def test_the_registry_gives_our_trainer_and_refuses_the_asynchronous_ones() -> None:
    assert trainer_base.get_trainer_cls("sync") is adapter.DoPRTrainerSync
    assert issubclass(adapter.DoPRTrainerSync, trainer_sync.PPOTrainerSync)
    others = set(trainer_base.TRAINER_REGISTRY) - {"sync"}
    assert others == {"colocate_async", "separate_async"}
    for mode in others:
        with pytest.raises(UserError, match="trainer_mode=sync"):
            trainer_base.get_trainer_cls(mode)(config=None)


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

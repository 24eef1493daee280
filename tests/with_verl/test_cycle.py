"""Choose, observe, correct: the trainer's own methods on a real TransferQueue.

Only the agent loops are made up: they put rollouts of known success into the store, in the form of
verl's own `AgentLoopOutput`. The trainer's workers are never started.
"""

import os

os.environ.setdefault("TQ_LOGGING_LEVEL", "ERROR")

import numpy as np
import pytest
import torch
import transfer_queue
from agent_loops import POOL, Pool, plain_prompts, put_rollouts, real_store
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from dopr.core.advantages import compute_advantages
from dopr.engines.adapter import EngineSettings, make_engine_driver
from dopr.engines.verl import ChosenRollouts, DoPRTrainerSync


class AgentLoops:
    """Answers at once, prompt i succeeding at the rate i / (POOL - 1)."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.lost: set[int] = set()  # prompts whose first rollout fails
        self.asked: list[list[tuple[int, int]]] = []

    def generate_sequences(self, batch: TensorDict) -> None:
        self.asked.append([])
        for prompt in plain_prompts(batch):
            index = int(prompt["index"])
            self.asked[-1].append((index, int(prompt["__rollout_n__"])))
            put_rollouts(prompt, self.rng, [0] if index in self.lost else [])


@pytest.fixture(scope="module")
def config():
    with real_store() as found:
        yield found


def make_trainer(config, strategy: str, **options) -> DoPRTrainerSync:
    """The trainer without its workers: what `_setup` would have made, given here."""
    trainer = object.__new__(DoPRTrainerSync)
    trainer.config, trainer.trainer_mode, trainer.global_steps = config, "sync", 1
    trainer.train_dataset, trainer.agent_loop_manager = Pool(), AgentLoops()
    trainer._settings = EngineSettings(strategy, options)
    trainer.driver = make_engine_driver(
        trainer._settings, POOL, num_generations=4, prompts_per_step=3
    )
    inner = ReplayBuffer(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({}),
        poll_interval=0.01,
    )
    trainer.replay_buffer = ChosenRollouts(inner, trainer._choose)
    return trainer


def step(trainer: DoPRTrainerSync):
    """What verl does with a batch between sampling and the update, the model's part made up."""
    assert trainer.prepare_step() == {}
    batch, metrics = trainer.replay_buffer.sample(
        global_steps=trainer.global_steps, partition_id="train", batch_size=3
    )
    stored = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id="train", select_fields=["response_mask"]
    )
    ones = [mask.float() for mask in stored["response_mask"]]
    nested = torch.nested.as_nested_tensor(ones, layout=torch.jagged)
    fields = TensorDict({"old_log_probs": nested, "entropy": 0.25 * nested}, batch_size=len(batch))
    transfer_queue.kv_batch_put(keys=batch.keys, partition_id="train", fields=fields)
    return trainer._compute_advantage(batch, metrics), metrics


def finish(trainer: DoPRTrainerSync, batch) -> set[str]:
    """What verl does at the end of a step; the keys that it leaves behind."""
    transfer_queue.kv_clear(keys=batch.keys, partition_id="train")
    trainer.global_steps += 1
    return set((transfer_queue.kv_list("train") or {}).get("train", {}))


def stored_advantages(keys: list[str]) -> dict[str, float]:
    stored = transfer_queue.kv_batch_get(
        keys=keys, partition_id="train", select_fields=["advantages", "returns", "response_mask"]
    )
    found = {}
    for key, values, returns, mask in zip(
        keys, stored["advantages"], stored["returns"], stored["response_mask"], strict=True
    ):
        assert values.shape == mask.shape and len(set(values.tolist())) == 1
        assert torch.equal(values, returns)
        found[key] = values[0].item()
    return found


def test_one_round_chooses_and_is_observed(config) -> None:
    trainer = make_trainer(config, "dopr", prompts_per_step=3)
    for _ in range(3):
        batch, metrics = step(trainer)
        asked = trainer.agent_loop_manager.asked[-1]
        assert [count for _, count in asked] == [4, 4, 4] and len(batch.keys) == 12
        ledger = trainer.driver.ledger
        assert ledger.last_step[[i for i, _ in asked]].tolist() == [ledger.step - 1] * 3
        assert np.allclose(ledger.entropy[[i for i, _ in asked]], 0.25)
        assert metrics["rollout/rollouts_total"] == trainer.driver.spent.rollouts
        assert len(batch.tags) == 12 and all("seq_len" in tag for tag in batch.tags)
        assert not finish(trainer, batch)
    assert trainer.driver.spent.rollouts == 36 and trainer.driver.spent.generated_tokens > 36


def test_whole_groups_keep_verls_own_advantages(config) -> None:
    trainer = make_trainer(config, "uniform")
    batch, _ = step(trainer)
    groups: dict[str, list[str]] = {}
    for key in batch.keys:
        groups.setdefault(key.split("_")[0], []).append(key)
    found = stored_advantages(batch.keys)
    rewards = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id="train", select_fields=["rm_scores"]
    )["rm_scores"]
    reward_of = dict(zip(batch.keys, (float(r.sum()) for r in rewards), strict=True))
    for keys in groups.values():
        values = torch.tensor([reward_of[key] for key in keys])
        expected = (values - values.mean()) / (values.std() + 1e-6)
        assert [found[key] for key in keys] == pytest.approx(expected.tolist(), abs=1e-5)
    finish(trainer, batch)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("pods", {"num_generations": 8}),
        ("reinforce-ada", {}),
        ("lilo", {"prompts_per_step": 2, "pilots": 2}),
        ("coba-rl", {}),
        ("dapo", {}),
        ("dopr", {}),
    ],
)
def test_rounds_unequal_groups_and_cut_ones(config, strategy: str, options: dict) -> None:
    trainer = make_trainer(config, strategy, **options)
    outcomes = []
    inner = trainer.driver.step
    trainer.driver.step = lambda rollout: outcomes.append(inner(rollout)) or outcomes[-1]
    for _ in range(3):
        batch, _ = step(trainer)
        kept = outcomes[-1].kept
        if kept:
            assert len(batch.keys) == sum(group.num_kept for group in kept)
            found = stored_advantages(batch.keys)
            ledger = trainer.driver.ledger
            advantages = compute_advantages(kept, ledger, "forecast")
            for group, values in zip(kept, advantages, strict=True):
                chosen = range(group.num_rollouts) if group.kept is None else group.kept
                for i in chosen:
                    (key,) = group.handle[i].keys
                    # verl's epsilon beside the deviation is another one than ours
                    assert found[key] == pytest.approx(values[i], rel=1e-3, abs=1e-4)
        assert not finish(trainer, batch)  # what was dropped is gone from the store
    assert trainer.driver.spent.rollouts == sum(
        count for asked in trainer.agent_loop_manager.asked for _, count in asked
    )
    if strategy == "coba-rl":
        sizes = {count for asked in trainer.agent_loop_manager.asked for _, count in asked}
        assert len(sizes) > 1
    if strategy in ("reinforce-ada", "lilo"):
        assert len(trainer.agent_loop_manager.asked) > 3


def test_a_lost_rollout_is_left_out(config) -> None:
    trainer = make_trainer(config, "uniform")
    trainer.agent_loop_manager.lost = set(range(POOL))
    batch, _ = step(trainer)
    assert len(batch.keys) == 9 and trainer.driver.spent.rollouts == 12
    assert not finish(trainer, batch)

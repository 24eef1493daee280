"""Rollouts made up: what verl's agent loops put into its store, without a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import ray
import torch
import transfer_queue
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

POOL = 12


@contextmanager
def real_store(*overrides: str) -> Iterator[DictConfig]:
    """verl's configuration, while its store (TransferQueue, on Ray) is there."""
    usual = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.name=vllm",
             "transfer_queue.backend.SimpleStorage.num_data_storage_units=1"]  # fmt: skip
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [*usual, *overrides])
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    config.transfer_queue.enable = True
    transfer_queue.init(config.transfer_queue)
    yield config
    transfer_queue.close()
    ray.shutdown()


class Pool:
    """Training prompts, as verl's dataset gives them."""

    def __init__(self, size: int = POOL) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict:
        chat = [{"role": "user", "content": f"{i}"}]
        return {"raw_prompt": chat, "index": i, "dummy_tensor": torch.zeros(1), "data_source": "x"}


def plain_prompts(batch) -> list[dict]:
    """The rows of a batch, one prompt at a time, as verl's workers read them."""
    rows = [{key: batch[row].get(key) for key in list(batch.keys())} for row in range(len(batch))]
    return [{key: getattr(value, "data", value) for key, value in row.items()} for row in rows]


def put_rollouts(
    prompt: dict, rng: np.random.Generator, lost: Sequence[int] = (), pool: int = POOL
) -> None:
    """Answer a prompt; prompt i succeeds at the rate i / (pool - 1), its `lost` rollouts fail."""
    uid, index, count = prompt["uid"], int(prompt["index"]), int(prompt["__rollout_n__"])
    fields, keys, tags = [], [], []
    for rollout in range(count):
        if rollout in lost:
            continue
        length = int(rng.integers(1, 5))
        output = AgentLoopOutput(
            prompt_ids=[5, 6],
            response_ids=[7] * length,
            response_mask=[1] * length,
            reward_score=float(rng.random() < index / (pool - 1)),
            num_turns=2,
            metrics=AgentLoopMetrics(),
        )
        fields.append(output.as_dict() | {"uid": uid, "session_id": rollout})
        keys.append(f"{uid}_{rollout}_0")
        tags.append({"status": "success", "seq_len": 2 + length, "global_steps": 1})
    transfer_queue.kv_batch_put(
        keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id="train"
    )
    status = "failure" if lost else "finished"
    transfer_queue.kv_put(key=uid, partition_id="train", tag={"status": status})

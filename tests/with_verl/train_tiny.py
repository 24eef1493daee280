"""One run of verl's own entry point on a CPU: python train_tiny.py FOLDER [key=value ...].

The environment of `test_training.py` makes verl load `cpu_verl` and the adapter.
"""

import os
import sys
from pathlib import Path

import pandas as pd
import ray
from hydra import compose, initialize_config_module
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo, validate_config

from tiny import save_tiny_model

HERE = Path(__file__).parent


def write_prompts(path: Path, rows: int = 16) -> None:
    pd.DataFrame(
        {
            "data_source": [f"kind-{i % 2}" for i in range(rows)],
            "prompt": [[{"role": "user", "content": f"{i}+{i + 1}=?"}] for i in range(rows)],
            "ability": ["math"] * rows,
            "reward_model": [
                {"style": "rule", "ground_truth": str(2 * i + 1)} for i in range(rows)
            ],
            "extra_info": [{"index": i} for i in range(rows)],
        }
    ).to_parquet(path)


def overrides(folder: Path) -> list[str]:
    return [
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/train.parquet",
        "data.train_batch_size=4",
        "data.max_prompt_length=32",
        "data.max_response_length=12",
        "data.dataloader_num_workers=0",
        "data.filter_overlong_prompts=False",
        "algorithm.adv_estimator=grpo",
        f"actor_rollout_ref.model.path={folder}/model",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=eager",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.actor.use_dynamic_bsz=False",
        "actor_rollout_ref.actor.use_torch_compile=False",
        "actor_rollout_ref.actor.optim.lr=1e-2",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.rollout.name=cpu",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        f"reward.custom_reward_function.path={HERE}/digits_reward.py",
        "reward.num_workers=1",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.device=cpu",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.total_training_steps=3",
        f"trainer.default_local_dir={folder}/checkpoints",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    ]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").is_dir():
        save_tiny_model(folder / "model")
        write_prompts(folder / "train.parquet")
    os.environ["VERL_FILE_LOGGER_PATH"] = str(folder / "metrics.jsonl")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides(folder) + sys.argv[2:])
    validate_config(config=config, use_reference_policy=False, use_critic=False)
    ray.init(num_cpus=8, num_gpus=2, include_dashboard=False)
    run_ppo(config, task_runner_class=TaskRunnerV1)


if __name__ == "__main__":
    main()

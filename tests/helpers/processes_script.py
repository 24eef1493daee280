"""Trains a tiny model for a few steps, on one process or several; what it did goes into a folder.

    python -m torch.distributed.run --nproc_per_node 2 processes_script.py OUT STRATEGY [JSON]

The last argument holds further settings.

Completions depend on the prompt, the step and the place in the round alone, so that any number of
processes rolls out the same.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from dopr import DoPRConfig, DoPRTrainer
from dopr.engines.trl.processes import leave_process_group
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings


def rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """TRL's rollout_func: made-up completions for this process's share of a round."""
    tokenizer = trainer.processing_class
    first = trainer.accelerator.process_index * len(prompts)
    completions = []
    for place, prompt in enumerate(prompts):
        key = f"{prompt}/{trainer.driver.ledger.step}/{first + place}".encode()
        numbers = list(hashlib.sha256(key).digest())
        completions.append([3 + n % 50 for n in numbers[1 : 3 + numbers[0] % 6]] + [1])
    return {
        "prompt_ids": tokenizer(prompts)["input_ids"],
        "completion_ids": completions,
        "logprobs": None,
    }


def main(output: Path, strategy: str, more: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    changes = {
        "strategy": strategy,
        "strategy_args": {"prompts_per_step": 3},
        "scale_rewards": "none",
        "num_generations": 4,
        "per_device_train_batch_size": 12 // processes,
        "max_steps": 6,
        "learning_rate": 1e-3,
    }
    trainer = DoPRTrainer(
        make_model(),
        digits_reward,
        DoPRConfig(**(settings(output) | changes | more)),
        make_dataset(24),
        processing_class=make_tokenizer(),
        rollout_func=rollouts,
    )
    trainer.train()
    rank = trainer.accelerator.process_index
    ledger = trainer.driver.ledger
    np.savez(
        output / f"rank{rank}.npz",
        mean=ledger.mean,
        visits=ledger.visits,
        entropy=ledger.entropy,
        parameters=torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).numpy(),
    )
    wrapped = trainer.model_wrapped
    if rank == 0 and isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
        kept = {
            "static_graph": wrapped.static_graph,
            "find_unused_parameters": wrapped.find_unused_parameters,
            "bucket_bytes": wrapped.bucket_bytes_cap,
        }
        (output / "wrapper.json").write_text(json.dumps(kept))
    spent = vars(trainer.driver.spent)
    (output / f"rank{rank}.json").write_text(json.dumps(spent))
    leave_process_group()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    main(folder, sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})

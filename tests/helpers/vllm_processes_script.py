"""Trains on rollouts of vLLM, one engine in every process; what it did goes into a folder.

python -m torch.distributed.run --nproc_per_node 2 tests/helpers/vllm_processes_script.py MODEL OUT
"""

import json
import sys
from pathlib import Path

import torch
from trl.generation import vllm_generation

sys.path.insert(0, str(Path(__file__).parent))

import vllm_tools
from dopr import DoPRConfig, DoPRTrainer
from dopr.engines.trl.processes import leave_process_group
from tiny import digits_reward, make_dataset, make_tokenizer, settings
from training import TwoRounds


def main(model: Path, output: Path) -> None:
    torch.set_num_threads(1)
    vllm_tools.prepare()
    engine = vllm_generation.LLM = vllm_tools.OneEngine()
    changes = {
        "use_vllm": True,
        "vllm_max_model_length": vllm_tools.MODEL_LENGTH,
        "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": 4,
        "max_steps": 5,
    }
    trainer = DoPRTrainer(
        str(model),
        digits_reward,
        DoPRConfig(**(settings(output) | changes)),
        make_dataset(),
        processing_class=make_tokenizer(),
        strategy=TwoRounds(),
    )
    trainer.train()
    found = {
        "rows": [len(rows) for rows, _ in engine.asked],
        "spent": vars(trainer.driver.spent),
        "parameters": [float(p.detach().double().sum()) for p in trainer.model.parameters()],
        "means": trainer.driver.ledger.mean.tolist(),
    }
    (output / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(found))
    leave_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

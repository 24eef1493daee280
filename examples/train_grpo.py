"""An ordinary TRL script: GRPO on a JSON-lines file with columns `prompt` and `answer`.

    python examples/train_grpo.py MODEL DATA.jsonl OUTPUT_DIR

To let DoPR choose the prompts, change the import and nothing else:

    from dopr import DoPRConfig as GRPOConfig, DoPRTrainer as GRPOTrainer
"""

import sys

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def contains_answer(completions, answer, **columns):
    """1 where the completion holds the reference answer."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(gold in text) for text, gold in zip(texts, answer, strict=True)]


def main() -> None:
    model, data, output_dir = sys.argv[1:4]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=contains_answer,
        args=GRPOConfig(
            output_dir=output_dir,
            max_steps=5,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=load_dataset("json", data_files=data, split="train"),
    )
    trainer.train()
    trainer.save_model(f"{output_dir}/final")


if __name__ == "__main__":
    main()

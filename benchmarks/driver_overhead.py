"""A step of DoPRTrainer against a step of plain GRPOTrainer.

    python benchmarks/driver_overhead.py

Without our decoding loop (`fast_decoding`) the ratio is what the driver adds: at most 3% is the
target. With it, as it is by default, the ratio is what a step takes: at most 0.75 is the target for
one prompt x 8 and x 64, 128 tokens.

Two trainers on equal models, each in a process of its own, take turns step by step, so that drift
of the machine hits both. Both roll out the same number of prompts, completions and tokens (every
completion is forced to full length). Writes docs/results/driver-overhead.json.
"""

import argparse
import functools
import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from turns import TakeTurns, in_turns

from dopr import DoPRConfig, DoPRTrainer

MODEL = Path(__file__).parent.parent / "src" / "dopr" / "assets" / "tiny-reasoner"
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "driver-overhead.json"
POOL = 512


@dataclass(frozen=True)
class Shape:
    """Prompts and rollouts of a step, tokens of a rollout, whose decoding loop, and steps timed."""

    prompts: int
    group: int
    tokens: int
    fast_decoding: bool
    steps: int


SHAPES = (
    Shape(1, 8, 40, False, 160),
    Shape(8, 8, 40, False, 50),
    Shape(1, 8, 128, True, 80),
    Shape(1, 64, 128, True, 30),
)


def coin_reward(completions: list[str], **columns: Any) -> list[float]:
    return [float(sum(map(ord, completion)) % 2) for completion in completions]


def timed_settings(tokens: int) -> dict[str, Any]:
    """Settings of a trainer whose steps are timed: nothing beside them, completions of one length.

    Args:
        tokens: of each completion.
    """
    return {
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_completion_length": tokens,
        "generation_kwargs": {"min_new_tokens": tokens},
    }


def make(cls: Any, config: Any, callback: TakeTurns, folder: str, shape: Shape) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    dataset = Dataset.from_dict({"prompt": [f"{i % 10}+{i // 10}=" for i in range(POOL)]})
    ours = {
        "strategy": "dopr",
        "strategy_args": {"prompts_per_step": shape.prompts},
        "fast_decoding": shape.fast_decoding,
    }
    args = config(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        max_steps=shape.steps,
        learning_rate=1e-5,
        num_generations=shape.group,
        per_device_train_batch_size=shape.group * shape.prompts,
        **timed_settings(shape.tokens),
        **(ours if cls is DoPRTrainer else {}),
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    trainer = cls(
        model, coin_reward, args, dataset, processing_class=tokenizer, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def take_steps(cls: Any, config: Any, shape: Shape, turns: TakeTurns) -> list[float]:
    """Seconds of each step of one trainer."""
    with tempfile.TemporaryDirectory() as folder:
        make(cls, config, turns, folder, shape).train()
    return turns.seconds


def measure(shape: Shape, threads: int) -> dict[str, Any]:
    pairs = ((GRPOTrainer, GRPOConfig), (DoPRTrainer, DoPRConfig))
    takes = [functools.partial(take_steps, cls, config, shape) for cls, config in pairs]
    plain, ours = in_turns(takes, threads)
    skip = shape.steps // 10  # warm-up
    a, b = np.array(plain[skip:]), np.array(ours[skip:])
    ratios = b / a
    rng = np.random.default_rng(0)
    medians = [np.median(rng.choice(ratios, len(ratios))) for _ in range(2000)]
    return {
        "prompts_per_step": shape.prompts,
        "rollouts_per_step": shape.group * shape.prompts,
        "tokens_per_rollout": shape.tokens,
        "fast_decoding": shape.fast_decoding,
        "steps": len(a),
        "plain_ms": float(np.median(a) * 1e3),
        "dopr_ms": float(np.median(b) * 1e3),
        "ratio_median": float(np.median(ratios)),
        "ratio_low": float(np.quantile(medians, 0.025)),
        "ratio_high": float(np.quantile(medians, 0.975)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    result = {
        "shapes": [measure(shape, options.threads) for shape in SHAPES],
        "threads": options.threads,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
            "python": platform.python_version(),
        },
        "command": "python benchmarks/driver_overhead.py",
    }
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

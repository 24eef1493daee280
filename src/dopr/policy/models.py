"""Models and tokenizers by name: a local folder, a Hub id, a GGUF file, or the shipped model."""

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from dopr.core.errors import UserError, unknown_name
from dopr.policy.gguf import gguf_folder, is_gguf
from dopr.policy.sampling import prompt_token_ids

SHIPPED = "tiny-reasoner"
DTYPES = ("float32", "bfloat16", "float16")


def resolve_model(name: str) -> str:
    """The folder or Hub id that `name` stands for.

    Raises:
        UserError: the shipped model is not part of this installation, or a GGUF file is missing.
    """
    if is_gguf(name):
        return gguf_folder(name)
    if name != SHIPPED:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    folder = Path(str(resources.files("dopr"))) / "assets" / SHIPPED
    if not (folder / "config.json").is_file():
        raise UserError(f"this installation lacks {SHIPPED}; make it with `dopr warmstart`")
    return str(folder)


def find_model(name: str) -> str:
    """The folder or Hub id of a model, checked where it is a path.

    Raises:
        UserError: there is no such folder, or the shipped model is not part of this installation.
    """
    path = resolve_model(name)
    if path.startswith((".", "/")) and not Path(path).is_dir():
        raise UserError(f"there is no model folder {name!r}; check the path")
    return path


def not_loaded(name: str, error: Exception) -> UserError:
    """The error for a model that transformers could not read.

    Args:
        name: as the user wrote it.
        error: what transformers said.
    """
    reason = " ".join(str(error).split())[:300]
    return UserError(
        f"model {name!r} could not be loaded; give a local folder or a Hub id, and a network for "
        f"the latter ({reason})"
    )


def load_model(
    name: str, *, dtype: str = "float32", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, on the CPU.

    Args:
        name: local folder, Hub id, GGUF file, `smollm2-135m`, or `tiny-reasoner`.
        dtype: of the weights.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: it does not exist, cannot be reached, or is no causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = find_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise not_loaded(name, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def best_device() -> str:
    """Where to compute: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def within_context(
    dataset: Dataset, model: Any, tokenizer: Any, max_new_tokens: int, overlong: str = "error"
) -> Dataset:
    """The dataset without the prompts that leave no room for a completion.

    Args:
        max_new_tokens: tokens of the longest completion.
        overlong: `error` refuses such prompts, `drop` leaves them out.

    Raises:
        UserError: a prompt is too long, or no prompt is left.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return dataset
    lengths = [len(ids) for ids in prompt_token_ids(tokenizer, list(dataset["prompt"]))]
    fits = [i for i, length in enumerate(lengths) if length + max_new_tokens <= context]
    if len(fits) == len(lengths):
        return dataset
    worst = max(range(len(lengths)), key=lengths.__getitem__)
    if overlong == "error":
        name = dataset[worst]["id"] if "id" in dataset.column_names else f"row {worst}"
        raise UserError(
            f"{len(lengths) - len(fits)} of {len(lengths)} prompts are too long: {name!r} has "
            f"{lengths[worst]} tokens, which with max_completion_length {max_new_tokens} exceed "
            f"the model's context of {context}; lower max_completion_length or set "
            "overlong_prompts to drop"
        )
    if not fits:
        raise UserError(
            f"no prompt fits the model's context of {context} tokens with max_completion_length "
            f"{max_new_tokens}; lower it"
        )
    return dataset.select(fits)


def lora_config(options: dict[str, Any]) -> Any:
    """peft's LoraConfig of the setting `lora`.

    Args:
        options: its fields, such as `{"r": 16}`.

    Raises:
        UserError: an unknown field, or peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise UserError("lora needs the package peft; install dopr[peft]") from None
    known = list(LoraConfig.__dataclass_fields__)
    for key in options:
        if key not in known:
            raise unknown_name("LoRA setting", f"lora.{key}", [f"lora.{name}" for name in known])
    return LoraConfig(**({"task_type": "CAUSAL_LM"} | options))

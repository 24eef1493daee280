"""Models and tokenizers by name: a local folder, a Hub id, a GGUF file, or the shipped model."""

import json
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from dopr.core.configuration import check_value
from dopr.core.errors import UserError, unknown_name
from dopr.policy.gguf import gguf_folder, is_gguf

SHIPPED = "tiny-reasoner"
ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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
    """A causal language model and its tokenizer, on the CPU; weights come as safetensors alone.

    The folder of a LoRA adapter gives the model it was trained on with the adapter on top, whose
    weights are the ones that train.

    Args:
        name: local folder, Hub id, GGUF file, `smollm2-135m`, or `tiny-reasoner`.
        dtype: of the weights.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: it does not exist, cannot be reached, or is no causal language model; or it is an
            adapter and peft is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = find_model(name)
    adapter = is_adapter(path)
    options = {
        "dtype": getattr(torch, dtype),
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,  # other files of weights are pickles
    }
    try:
        has_tokenizer = (Path(path) / "tokenizer_config.json").is_file()
        source = base_model(path) if adapter and not has_tokenizer else path
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        if adapter:
            model = _load_adapter(path, options)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise not_loaded(name, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def is_adapter(name: str) -> bool:
    """Whether a model is a folder with a LoRA adapter alone."""
    folder = Path(name).expanduser()
    return (folder / ADAPTER_FILE).is_file() and not (folder / "config.json").is_file()


def base_model(name: str) -> str:
    """The model that an adapter was trained on; any other model is its own."""
    if not is_adapter(name):
        return name
    file = Path(name).expanduser() / ADAPTER_FILE
    try:
        return str(json.loads(file.read_text())["base_model_name_or_path"])
    except (json.JSONDecodeError, KeyError):
        raise UserError(f"{str(file)!r} names no base model; is it peft's?") from None


def _load_adapter(path: str, options: dict[str, Any]) -> Any:
    if not (Path(path) / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"the LoRA adapter {path!r} holds no {ADAPTER_WEIGHTS}; save it as one")
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError:
        raise UserError(f"{path!r} is a LoRA adapter and needs peft; install dopr[peft]") from None
    return AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **options)


def best_device() -> str:
    """Where to compute: `cuda`, `mps` or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


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
    hints = typing.get_type_hints(LoraConfig)
    known = list(LoraConfig.__dataclass_fields__)
    for key, value in options.items():
        if key not in known:
            raise unknown_name("LoRA setting", f"lora.{key}", [f"lora.{name}" for name in known])
        check_value(value, hints[key], f"lora.{key}")
    return LoraConfig(**({"task_type": "CAUSAL_LM"} | options))

"""The shape of a model from its configuration, and the memory of this machine; no weights."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dopr.core.errors import UserError
from dopr.policy.memory import ModelShape


@dataclass(frozen=True)
class Device:
    """A device's memory.

    Attributes:
        kind: `cuda`, `mps` or `cpu`.
        name: for the reader.
        total, free: bytes.
    """

    kind: str
    name: str
    total: int
    free: int


class NoShape(UserError):
    """A model that is no causal language model, or whose code wants numbers, not only shapes."""


def read_shape(name: str, trust_remote_code: bool = False) -> ModelShape:
    """The shape of a model, built without weights (torch's `meta` device).

    Args:
        name: as for `dopr.policy.models.load_model`.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: there is no such model.
        NoShape: it cannot be built without weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from dopr.policy.models import find_model, not_loaded

    path = find_model(name)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise not_loaded(name, error) from None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise NoShape(f"the memory of {name!r} cannot be estimated ({reason})") from None
    return shape_of(model, name)


def shape_of(model: Any, name: str) -> ModelShape:
    """The shape of a model that is there, with or without weights."""
    import torch

    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 1
    experts = getattr(config, "num_experts_per_tok", None) or 1
    inner = getattr(config, "moe_intermediate_size", None) if experts > 1 else None
    inner = inner or getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    linears = [
        (part.rpartition(".")[2], module.in_features, module.out_features)
        for part, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    return ModelShape(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=inner * experts,
        vocabulary=config.vocab_size,
        linears=tuple(linears),
    )


def this_device() -> Device:
    """The device that a run on this machine would take, and what is free on it now."""
    import torch

    from dopr.policy.models import best_device

    kind = best_device()
    if kind == "cuda":
        # Each process of several has its own; asking about another would settle on it.
        number = min(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count() - 1)
        free, total = torch.cuda.mem_get_info(number)
        return Device(kind, torch.cuda.get_device_name(number), total, free)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(kind, "this machine", total, min(_available() or total, total))


def _available() -> int | None:
    """Bytes that programs can still get, where the system says so."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None

"""Whether a run fits a device: sentences for `dopr plan --memory` and the start of `dopr train`."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from dopr.errors import UserError
from dopr.planning.memory import GIB, Estimate, MemorySettings, ModelShape, estimate, mend
from dopr.planning.shapes import Device, NoShape, read_shape, this_device
from dopr.settings import TrainSettings

logger = logging.getLogger(__name__)

_SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
_LONGEST = 32  # prompts that are tokenised to find the longest


def size(count: float) -> str:
    """Bytes for reading."""
    if count >= GIB / 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 18 else f"{count / 1024:.1f} KiB"


def complaint(shape: ModelShape, settings: MemorySettings, device: Device) -> str | None:
    """One sentence with the mend where a run does not fit, None where it does."""
    needed = estimate(shape, settings, device.total)
    own = shape.parameters * settings.stored
    if settings.vllm == "colocate" and needed.vllm < own:
        return (
            f"vLLM's share of {settings.vllm_share:g} is {size(needed.vllm)}, less "
            f"than the weights' {size(own)}; raise vllm_gpu_memory_utilization or take another mode"
        )
    if needed.peak <= device.free:
        return None
    phase = "generating" if needed.generation > needed.update else "the update"
    text = (
        f"this run needs about {size(needed.peak)} for {phase} ({largest_parts(needed)}) and "
        f"{size(device.free)} of {size(device.total)} are free on {device.name}"
    )
    changes, smaller = mend(shape, settings, device.free, device.total)
    how = " and ".join(f"{name} {str(value).lower()}" for name, value in changes.items())
    if smaller.peak > device.free:
        even = f" even with {how}" if how else ""
        less = "a smaller model or a larger device"
        if smaller.generation > smaller.update:
            less = "fewer prompts_per_step, fewer num_generations or a smaller model"
        return f"{text}; it does not fit{even}, so take {less}"
    return f"{text}; with {how} it needs about {size(smaller.peak)}"


def largest_parts(needed: Estimate) -> str:
    """The three largest parts of the phase that needs most."""
    names = ["weights", "optimizer", "reference", "vllm"]
    if needed.generation > needed.update:
        names += ["kv_cache", "sampling"]
    else:
        names += ["gradients", "copies", "logits", "activations"]
    ordered = sorted(names, key=lambda name: -getattr(needed, name))[:3]
    return ", ".join(f"{name.replace('_', ' ')} {size(getattr(needed, name))}" for name in ordered)


def refuse_weights(shape: ModelShape, settings: MemorySettings, device: Device) -> None:
    """Stop a run that no change of its other settings can save.

    Raises:
        UserError: the weights alone exceed the device.
    """
    weights = shape.parameters * settings.stored
    if weights > device.total:
        mild = " or dtype bfloat16" if settings.dtype == "float32" else ""
        raise UserError(
            f"the weights of {shape.name!r} alone take {size(weights)} as {settings.dtype}, and "
            f"{device.name} has {size(device.total)}; take a smaller model{mild}"
        )


def check_memory(settings: TrainSettings, shape: tuple[int, int], prompts: Sequence[Any]) -> None:
    """Warn before the weights are loaded where a run will not fit; nothing is said otherwise.

    Nor is anything said where parameters are spread over devices (FSDP, DeepSpeed): the estimate
    does not know how.

    Args:
        settings: of the run.
        shape: rollouts in a forward pass and passes in an update.
        prompts: of the data set; the longest give the length.

    Raises:
        UserError: the weights alone exceed the device.
    """
    if any(os.environ.get(name) == "true" for name in _SHARDED):
        return
    device = this_device()
    try:
        model = read_shape(settings.model, settings.trust_remote_code)
        longest = _longest(settings, prompts)
    except (NoShape, OSError, ValueError):
        return  # loading model and tokenizer will say what is wrong with them, if anything
    run = run_settings(settings, shape, longest, device.kind)
    refuse_weights(model, run, device)
    text = complaint(model, run, device)
    if text is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        logger.warning("warning: %s", text)


def run_settings(
    settings: TrainSettings, shape: tuple[int, int], prompt_length: int, device: str
) -> MemorySettings:
    """What the settings of a run mean for the memory of one device."""
    batch, passes = shape
    on_gpu = device == "cuda"
    lora = settings.lora
    targets = (lora or {}).get("target_modules") or MemorySettings.lora_targets
    checkpointing = settings.gradient_checkpointing
    return MemorySettings(
        num_generations=1,
        prompts_per_step=batch * passes,  # only the product counts
        batch_size=batch,
        prompt_length=prompt_length,
        completion_length=settings.max_completion_length,
        dtype=settings.dtype,
        mixed=on_gpu if settings.bf16 is None else settings.bf16,
        checkpointing=on_gpu if checkpointing is None else checkpointing,
        lora=None if lora is None else int(lora.get("r", 8)),
        lora_targets=(targets,) if isinstance(targets, str) else tuple(targets),
        optimizer=_optimizer(str(settings.trl.get("optim", "adamw"))),
        reference=settings.beta > 0 and lora is None,
        vllm=settings.vllm_mode if settings.use_vllm else "none",
        vllm_share=float(settings.trl.get("vllm_gpu_memory_utilization", 0.3)),
        device=device,
    )


def _optimizer(name: str) -> str:
    """Which of the known optimisers transformers' name stands for; AdamW where none fits."""
    if "8bit" in name:
        return "adamw_8bit"
    return next((known for known in ("adafactor", "sgd") if name.startswith(known)), "adamw")


def _longest(settings: TrainSettings, prompts: Sequence[Any]) -> int:
    """Tokens of the longest prompt, sought among those with most characters."""
    from transformers import AutoTokenizer

    from dopr.evaluation import prompt_token_ids
    from dopr.models import resolve_model

    code = settings.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(settings.model), trust_remote_code=code)
    wordy = sorted(prompts, key=lambda prompt: -len(str(prompt)))[:_LONGEST]
    return max(len(ids) for ids in prompt_token_ids(tokenizer, wordy))

"""Whether a run fits this machine, told before its weights are loaded."""

import heapq
import logging
import os
from collections.abc import Sequence
from typing import Any

from dopr.policy.memory import MemorySettings
from dopr.policy.memory_check import complaint, refuse_weights
from dopr.policy.models import base_model, resolve_model
from dopr.policy.shapes import NoShape, read_shape, this_device
from dopr.runs.settings import TrainSettings

logger = logging.getLogger(__name__)

_SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
_LONGEST = 32  # prompts that are tokenised to find the longest


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
        model = read_shape(base_model(settings.model), settings.trust_remote_code)
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
        mixed=on_gpu and settings.mixes_on_gpu if settings.bf16 is None else settings.bf16,
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

    from dopr.policy.prompts import prompt_token_ids

    code = settings.trust_remote_code
    model = resolve_model(base_model(settings.model))
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=code)
    wordy = heapq.nlargest(_LONGEST, prompts, key=lambda prompt: len(str(prompt)))
    ids = prompt_token_ids(tokenizer, wordy, settings.template_options)
    longest = max(map(len, ids))
    return min(longest, settings.max_prompt_length or longest)

"""`dopr plan --memory`: whether a run will fit, before it is started. Light, as the command is."""

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dopr.cli.shared import print_table
from dopr.core.errors import UserError

if TYPE_CHECKING:
    from dopr.policy.memory import Estimate, MemorySettings, ModelShape
    from dopr.policy.shapes import Device

_MEANINGS = {
    "weights": "all the time",
    "optimizer": "all the time",
    "reference": "all the time, a second copy of the weights",
    "vllm": "all the time, colocated",
    "gradients": "update",
    "copies": "update, bfloat16 copies under autocast",
    "logits": "update, log-probabilities in tiles",
    "activations": "update",
    "kv_cache": "generating",
    "sampling": "generating, logits of the next token",
}


def add_memory_arguments(command: argparse.ArgumentParser) -> None:
    """The options of the estimate; none of them is for another plan."""
    group = command.add_argument_group("memory (with --memory; nothing else is planned then)")
    add = group.add_argument
    add("--memory", action="store_true", help="estimate the memory of a run, without its weights")
    add("--model", help="folder, Hub id, GGUF file, or tiny-reasoner")
    add("--num-generations", type=int, default=8, help="rollouts of a prompt (default: 8)")
    add("--prompts-per-step", type=int, default=4, help="on one device (default: 4)")
    add("--batch-size", type=int, help="rollouts in a forward pass (default: all, at most 128)")
    add("--max-prompt-length", type=int, default=512, help="tokens (default: 512)")
    add("--max-completion-length", type=int, default=256, help="tokens (default: 256)")
    add("--dtype", default="float32", help="of the weights (default: float32)")
    add("--bf16", action="store_true", help="compute in bfloat16 beside float32 weights")
    add("--gradient-checkpointing", action="store_true", help="keep only the layers' inputs")
    add("--lora", type=int, metavar="RANK", help="train adapters of this rank")
    add("--lora-targets", nargs="+", metavar="NAME", help="default: q_proj v_proj; all-linear")
    add("--optimizer", default="adamw", help="adamw, adamw_8bit, adafactor, sgd (default: adamw)")
    add("--reference-model", action="store_true", help="kept where beta is above 0, without LoRA")
    add("--vllm", default="none", help="none, colocate or server (default: none)")
    add("--vllm-share", type=float, default=0.3, help="of the device's memory (default: 0.3)")
    add("--device-gib", type=float, help="memory of a GPU to plan for (default: this machine)")


def run_memory(arguments: argparse.Namespace, console: Any) -> int:
    """Make the estimate and print it.

    Raises:
        UserError: a mistake in the options, or the model's configuration cannot be read.
    """
    from dopr.policy.memory import GIB, estimate
    from dopr.policy.memory_check import complaint
    from dopr.policy.shapes import Device, read_shape, this_device

    if not arguments.model:
        raise UserError("--memory needs a model; add --model MODEL")
    if arguments.device_gib is not None and not 0 < arguments.device_gib < math.inf:
        raise UserError(
            f"--device-gib is {arguments.device_gib:g}; it must be above 0, and a number"
        )
    total = round((arguments.device_gib or 0) * GIB)
    device = Device("cuda", f"a GPU of {total / GIB:g} GiB", total, total)
    device = device if total else this_device()
    settings = _settings(arguments, device.kind)
    shape = read_shape(arguments.model, arguments.trust_remote_code)
    needed = estimate(shape, settings, device.total)
    text = complaint(shape, settings, device)
    if arguments.json:
        result = _as_json(shape, settings, needed, device)
        print(json.dumps(result | {"fits": text is None, "complaint": text}, indent=2))
        return 0
    _print(shape, needed, device, console)
    verdict = text or f"fits: {device.name} has {device.free / GIB:.1f} GiB free"
    console.print(verdict, markup=False, highlight=False, soft_wrap=True)
    return 0


def _settings(arguments: argparse.Namespace, device: str) -> "MemorySettings":
    from dopr.policy.memory import MemorySettings

    settings = MemorySettings(
        num_generations=arguments.num_generations,
        prompts_per_step=arguments.prompts_per_step,
        batch_size=arguments.batch_size,
        prompt_length=arguments.max_prompt_length,
        completion_length=arguments.max_completion_length,
        dtype=arguments.dtype,
        mixed=arguments.bf16,
        checkpointing=arguments.gradient_checkpointing,
        lora=arguments.lora,
        lora_targets=tuple(arguments.lora_targets or MemorySettings.lora_targets),
        optimizer=arguments.optimizer,
        reference=arguments.reference_model,
        vllm=arguments.vllm,
        vllm_share=arguments.vllm_share,
        device=device,
    )
    settings.check()
    return settings


def _as_json(
    shape: "ModelShape", settings: "MemorySettings", needed: "Estimate", device: "Device"
) -> dict[str, Any]:
    """Bytes by part, the two phases, the peak, and what they are held against."""
    from dopr.policy.memory import trained_parameters

    model = {k: v for k, v in asdict(shape).items() if k != "linears"}
    model["trained"] = trained_parameters(shape, settings)[0]
    phases = {"update": needed.update, "generation": needed.generation, "peak": needed.peak}
    return {
        "model": model,
        "settings": asdict(settings),
        "bytes": asdict(needed),
        **phases,
        "device": asdict(device),
    }


def _print(shape: "ModelShape", needed: "Estimate", device: "Device", console: Any) -> None:
    from dopr.policy.memory_check import size

    rows = [
        [name.replace("_", " "), size(getattr(needed, name)), when]
        for name, when in _MEANINGS.items()
        if getattr(needed, name)
    ]
    rows.append(["update", size(needed.update), "the most during the update"])
    rows.append(["generation", size(needed.generation), "the most while generating"])
    title = f"{shape.name}: {shape.parameters:,} parameters"
    print_table(["part", "memory", "when"], rows, title=title, right=["memory"], console=console)
    kept, spared = needed.activations_kept, needed.activations_checkpointed
    console.print(
        f"activations take {size(kept)} without gradient checkpointing and {size(spared)} with it; "
        f"logits of a whole micro-batch would take {size(needed.logits_whole)}",
        highlight=False,
        soft_wrap=True,
    )

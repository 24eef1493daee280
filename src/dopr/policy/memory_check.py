"""Whether a run fits a device: sentences for `dopr plan --memory` and the start of `dopr train`."""

from dopr.core.errors import UserError
from dopr.policy.memory import GIB, Estimate, MemorySettings, ModelShape, estimate, mend
from dopr.policy.shapes import Device


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

"""Which loop samples: ours where it is known to fit, the library's own everywhere else.

A model, an adapter, an input or a setting that `dopr.policy.decoding` does not know is left to the
library's loop, which is said once; sampling never fails for want of ours.
"""

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import GenerationConfig

from dopr.policy.decoding import DivergedError, sample

logger = logging.getLogger(__name__)

# Families whose models are a stack of layers of these classes, called with the arguments used here,
# and nothing around it: layer, attention, and feed-forward part.
_KNOWN_PARTS = {
    "LlamaForCausalLM": ("LlamaDecoderLayer", "LlamaAttention", "LlamaMLP"),
    "MistralForCausalLM": ("MistralDecoderLayer", "MistralAttention", "MistralMLP"),
    "Qwen2ForCausalLM": ("Qwen2DecoderLayer", "Qwen2Attention", "Qwen2MLP"),
    "Qwen3ForCausalLM": ("Qwen3DecoderLayer", "Qwen3Attention", "Qwen3MLP"),
}
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
# What `generate` hands to a decoding loop with text alone; anything else is not known here.
_KNOWN_INPUTS = {
    *("logits_processor", "stopping_criteria", "generation_config"),
    *("attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"),
    *("cache_position", "synced_gpus", "next_sequence_length"),
}
# Settings that ask for another way of decoding.
_OTHER_LOOPS = (
    "assistant_early_exit",
    "cache_implementation",
    "compile_config",
    "constraints",
    "dola_layers",
    "force_words_ids",
    "penalty_alpha",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "watermarking_config",
)
_GIVEN_UP: weakref.WeakSet[Any] = weakref.WeakSet()  # models that `sample` failed on


def is_supported(model: Any) -> bool:
    """Whether this loop can stand in for the library's own with `model` (adapters included)."""
    base = base_model(model)
    parts = _KNOWN_PARTS.get(type(base).__name__)
    config: Any = getattr(base, "config", None)
    if parts is None or config is None or _learns_a_prompt(model) or base in _GIVEN_UP:
        return False
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    dropout = getattr(config, "attention_dropout", 0.0) if base.training else 0.0
    noise = base.training and hasattr(base.get_input_embeddings(), "neftune_noise_alpha")
    return bool(
        getattr(config, "_attn_implementation", None) == "sdpa"
        and set(kinds) == {"full_attention"}
        and (type(base).__name__ != "MistralForCausalLM" or config.sliding_window is None)
        and not dropout
        and not noise
        and getattr(base.model.rotary_emb, "rope_type", None) in _FIXED_ROTARY
        and len(set(getattr(base, "hf_device_map", {}).values())) <= 1
        and all(_is_known(layer, parts) for layer in base.model.layers)
    )


def base_model(model: Any) -> Any:
    """The language model itself, under any adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _learns_a_prompt(model: Any) -> bool:
    """Whether an adapter puts learned tokens before the prompt, which only peft's loop does."""
    return any(entry.is_prompt_learning for entry in getattr(model, "peft_config", {}).values())


def _is_known(layer: Any, parts: tuple[str, str, str]) -> bool:
    """Whether a layer is the library's own, with no hook on it and nothing in its place."""
    modules = (layer, getattr(layer, "self_attn", None), getattr(layer, "mlp", None))
    return all(
        type(module).__name__ == name
        and not any(map(_is_foreign, module._forward_hooks.values()))
        and not module._forward_pre_hooks
        and "forward" not in vars(module)
        for module, name in zip(modules, parts, strict=True)
    )


def _is_foreign(hook: Any) -> bool:
    """Whether a hook is a user's; the library's stay once hidden states have been asked for."""
    return not getattr(hook, "__module__", "").startswith("transformers.")


def decoding_loop(
    model: Any, exact: bool = False, config: GenerationConfig | None = None
) -> Callable[..., torch.Tensor] | None:
    """What to give to `model.generate` as `custom_generate`; None stands for its own loop.

    Args:
        model: the policy, with or without adapters.
        exact: keep to the library's shapes, so that every bit of the logits is the same.
        config: what `generate` will be called with.
    """
    if not is_supported(model):
        _say_once(f"{type(base_model(model)).__name__} samples by the library's own loop")
        return None
    if config is not None and not _is_plain(config, base_model(model)):
        _say_once("these generation settings sample by the library's own loop")
        return None
    return functools.partial(_sample_or_leave, exact=exact)


@functools.cache
def _say_once(text: str) -> None:
    logger.warning(text)


@contextlib.contextmanager
def faster_generation(model: Any, config: GenerationConfig | None, exact: bool) -> Iterator[None]:
    """Let `model.generate`, called by someone else with `config`, use this loop where it can."""
    loop = decoding_loop(model, exact, config) if config is not None else None
    if loop is None:
        yield
        return
    own = vars(model).get("generate")  # a wrapper that someone put on this very model
    model.generate = functools.partial(model.generate, custom_generate=loop)
    try:
        yield
    finally:
        del model.generate
        if own is not None:
            model.generate = own


def _is_plain(config: GenerationConfig, model: Any) -> bool:
    """Whether `generate` is asked for one sampled or greedy completion a row and no more.

    What `config` leaves open is taken from the model's own generation settings, as `generate` does.
    """
    own = getattr(model, "generation_config", None)

    def asked(name: str) -> Any:
        value = getattr(config, name, None)
        return getattr(own, name, None) if value is None else value

    return (
        (asked("num_beams") or 1) == 1
        and (asked("num_return_sequences") or 1) == 1
        and asked("use_cache") is not False
        and not any(asked(name) for name in _OTHER_LOOPS)
    )


def _sample_or_leave(
    model: Any, input_ids: torch.Tensor, exact: bool, **asked: Any
) -> torch.Tensor:
    """`sample`, or from the same random state the library's loop where `sample` cannot go on."""
    theirs: Callable[[], torch.Tensor] = functools.partial(model._sample, input_ids, **asked)
    unknown = [k for k, v in asked.items() if k not in _KNOWN_INPUTS and v is not None]
    mask = asked.get("attention_mask")
    if mask is not None and mask.dim() != 2:
        unknown.append("attention_mask")
    if unknown:
        _say_once(f"inputs {', '.join(unknown)} are sampled by the library's own loop")
    if unknown or model in _GIVEN_UP:
        return theirs()
    devices = [input_ids.device] if input_ids.device.type == "cuda" else []
    before = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]
    try:
        return sample(model, input_ids, exact=exact, **asked)
    except (DivergedError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # after a fault of the device nothing more can be computed on it
    # A model that looks like one of the known and is none may fail anywhere in the loop; the run
    # goes on with the loop that its authors tested. What would fail there too is raised by it.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        logger.warning("sampling by the library's own loop from now on (%s)", reason)
        _GIVEN_UP.add(model)
        torch.set_rng_state(before[0])
        for device, state in zip(devices, before[1], strict=True):
            torch.cuda.set_rng_state(state, device)
    return theirs()

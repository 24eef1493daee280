"""Decoder layers read one token further by their operations alone.

The library's layers are made for any number of tokens, caches and attention kernels; at one token
and a small model most of their time goes into finding out which. These call the same modules'
weights in the same order. Sums are formed differently, so logits agree to rounding, not to the bit.
Adapters (LoRA) and other changed modules are called as they are.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dopr.policy.roomy_cache import RoomyLayer

# Not cuDNN's: it makes a plan for every new number of rows or tokens, and here each call is one.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Operation = Callable[[torch.Tensor], torch.Tensor]


def attention_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Within it, attention takes a kernel that asks for no preparation at a new length."""
    return sdpa_kernel(_KERNELS) if device.type == "cuda" else nullcontext()


def as_operation(module: Any) -> Operation:
    """What a module computes, without the module's own overhead where it is a known one."""
    plain = not module._forward_hooks and not module._forward_pre_hooks
    if plain and "forward" not in vars(module):  # TRL replaces some methods of single modules
        if type(module) is nn.Linear:
            return functools.partial(functional.linear, weight=module.weight, bias=module.bias)
        if isinstance(module, nn.SiLU) or type(module).__name__ == "SiLUActivation":
            return functional.silu
        if type(module).__name__.endswith("RMSNorm"):
            return functools.partial(_rms_norm, weight=module.weight, eps=module.variance_epsilon)
    operation: Operation = module
    return operation


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if hidden.dtype == weight.dtype:
        return functional.rms_norm(hidden, tuple(weight.shape), weight, eps)
    # Under autocast heads come in half precision while the weights are float32.
    normed = functional.rms_norm(hidden.float(), tuple(weight.shape), None, eps)
    return weight * normed.to(hidden.dtype)


class DirectLayer:
    """One layer of a Llama, Mistral, Qwen2 or Qwen3 model.

    Args:
        layer: the library's layer; its weights are looked up now, so make a new object after an
            update.
        cache: the layer's keys and values.
    """

    def __init__(self, layer: Any, cache: RoomyLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.cache = cache
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.first_norm = as_operation(layer.input_layernorm)
        self.query, self.key = as_operation(attention.q_proj), as_operation(attention.k_proj)
        self.value, self.output = as_operation(attention.v_proj), as_operation(attention.o_proj)
        self.head_norms = None
        if hasattr(attention, "q_norm"):
            self.head_norms = as_operation(attention.q_norm), as_operation(attention.k_norm)
        self.second_norm = as_operation(layer.post_attention_layernorm)
        self.gate, self.up = as_operation(mlp.gate_proj), as_operation(mlp.up_proj)
        self.activation, self.down = as_operation(mlp.act_fn), as_operation(mlp.down_proj)

    def __call__(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        cosine: torch.Tensor,
        sine: torch.Tensor,
    ) -> torch.Tensor:
        """Read one token of each row.

        Args:
            hidden: shape (rows, hidden width).
            mask: (rows, 1, 1, tokens so far), False where a key is padding; None for no padding.
            cosine, sine: rotation of this place, (rows or 1, 1, head width); the first half of
                `sine` is negative, for the rotation by `roll`.

        Returns:
            The layer's output, shape (rows, hidden width).
        """
        hidden = hidden + self._attend(self.first_norm(hidden), mask, cosine, sine)
        normed = self.second_norm(hidden)
        return hidden + self.down(self.activation(self.gate(normed)) * self.up(normed))

    def _attend(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        cosine: torch.Tensor,
        sine: torch.Tensor,
    ) -> torch.Tensor:
        rows = len(hidden)
        query = self.query(hidden).view(rows, -1, self.width)
        key = self.key(hidden).view(rows, -1, self.width)
        if self.head_norms is not None:
            query, key = self.head_norms[0](query), self.head_norms[1](key)
        heads, key_heads = query.shape[1], key.shape[1]
        both = torch.cat([query, key], dim=1)
        both = torch.addcmul(both * cosine, both.roll(self.width // 2, -1), sine)
        value = self.value(hidden).view(rows, key_heads, self.width)
        keys, values = self.cache.append(both[:, heads:], value)
        # The heads that share a key stand beside each other as if they were tokens.
        query = both[:, :heads].view(rows, key_heads, heads // key_heads, self.width)
        attended = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=self.scaling
        )
        return self.output(attended.reshape(rows, heads * self.width))

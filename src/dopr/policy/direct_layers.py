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


def is_direct(module: Any) -> bool:
    """Whether `as_operation` does without the module: it is a known one that nobody changed."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)  # TRL replaces some methods of single modules
    ) and (
        type(module) in (nn.Linear, nn.SiLU)
        or (type(module) is nn.Embedding and module.max_norm is None)
        or type(module).__name__ == "SiLUActivation"
        or type(module).__name__.endswith("RMSNorm")
    )


def as_operation(module: Any) -> Operation:
    """What a module computes, without the module's own overhead where it is a known one.

    Weights are looked up and transposed now, so the operation is good until the next update; what
    casts them, as autocast does, must be entered before it is made.
    """
    operation: Operation = module
    if not is_direct(module):
        return operation
    if isinstance(module, nn.Linear):
        if torch.is_autocast_enabled(module.weight.device.type):
            # It keeps its copies of parameters, of views of them it makes a new one each time.
            return functools.partial(functional.linear, weight=module.weight, bias=module.bias)
        transposed = module.weight.t()
        if module.bias is None:
            return functools.partial(torch.mm, mat2=transposed)
        return functools.partial(torch.addmm, module.bias, mat2=transposed)
    if isinstance(module, nn.Embedding):
        return functools.partial(functional.embedding, weight=module.weight)
    if type(module).__name__.endswith("RMSNorm"):
        return _as_rms_norm(module.weight, module.variance_epsilon)
    return functional.silu


def _as_rms_norm(weight: torch.Tensor, eps: float) -> Operation:
    """On a CPU the library's is made of ten operations, which at one token take longer than what
    they compute: with r the length of a vector of n numbers, its root of the mean square plus eps
    is hypot(r, sqrt(n eps)) / sqrt(n).
    """
    whole = weight.dtype in (torch.float32, torch.float64)
    if weight.device.type != "cpu" or not whole or torch.is_autocast_enabled("cpu"):
        return functools.partial(_rms_norm, weight=weight, eps=eps)
    scale = weight.detach() * len(weight) ** 0.5
    least = torch.tensor((len(weight) * eps) ** 0.5, dtype=weight.dtype)

    def norm(hidden: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(hidden, 2, -1, True)
        return hidden.div(torch.hypot(length, least)).mul_(scale)

    return norm


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if hidden.dtype == weight.dtype:
        return functional.rms_norm(hidden, tuple(weight.shape), weight, eps)
    # Under autocast heads come in half precision while the weights are float32.
    normed = functional.rms_norm(hidden.float(), tuple(weight.shape), None, eps)
    return weight * normed.to(hidden.dtype)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """Attention of one token of each row.

    On a CPU, in full precision, by two products of matrices: they take two thirds of the time of
    the kernel that is made for many tokens.

    Args:
        query: shape (rows, key heads, heads that share a key, width).
        keys, values: shape (rows, key heads, tokens, width).
        mask: shape (rows, 1, 1, tokens), False where a key is padding; None for no padding.
        scaling: of the scores.

    Returns:
        Shape as `query`.
    """
    precise = query.dtype == keys.dtype and query.dtype in (torch.float32, torch.float64)
    if query.device.type != "cpu" or not precise:
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling
        )
    scores = torch.baddbmm(
        query.new_empty(1, 1, 1),
        query.flatten(0, 1),
        keys.flatten(0, 1).transpose(1, 2),
        beta=0,
        alpha=scaling,
    )
    if mask is not None:
        scores.view(*query.shape[:3], -1).masked_fill_(~mask, -torch.inf)
    return torch.bmm(torch.softmax(scores, dim=-1), values.flatten(0, 1)).view(query.shape)


class DirectLayer:
    """One layer of a Llama, Mistral, Qwen2 or Qwen3 model.

    Args:
        layer: the library's layer; see `as_operation` on when to make a new object.
        cache: the layer's keys and values.

    Attributes:
        is_direct: nothing in it is called but operations of torch.
    """

    def __init__(self, layer: Any, cache: RoomyLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.cache = cache
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.is_direct = True
        self.first_norm = self._take(layer.input_layernorm)
        self.query, self.key = self._take(attention.q_proj), self._take(attention.k_proj)
        self.value, self.output = self._take(attention.v_proj), self._take(attention.o_proj)
        self.head_norms = None
        if hasattr(attention, "q_norm"):
            self.head_norms = self._take(attention.q_norm), self._take(attention.k_norm)
        self.second_norm = self._take(layer.post_attention_layernorm)
        self.gate, self.up = self._take(mlp.gate_proj), self._take(mlp.up_proj)
        self.activation, self.down = self._take(mlp.act_fn), self._take(mlp.down_proj)

    def _take(self, module: Any) -> Operation:
        self.is_direct &= is_direct(module)
        return as_operation(module)

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
        attended = attend(query, keys, values, mask, self.scaling)
        return self.output(attended.reshape(rows, heads * self.width))

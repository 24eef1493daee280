"""Stands in for the GPU kernel that TRL's asynchronous trainer takes its attention from."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    softmax_scale: float | None = None,
    causal: bool = True,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """Attention of several sequences laid end to end; the last query sees all of its keys.

    Args:
        query: shape (tokens, heads, width).
        key, value: shape (keys, key heads, width).
        query_starts, key_starts: where each sequence begins, and the end of the last.
        longest_query, longest_key: unused; the kernel plans its grid by them.
        window_size: anything but (-1, -1) is not there.
    """
    assert causal and window_size == (-1, -1)
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for i in range(len(query_starts) - 1):
        q = query[query_starts[i] : query_starts[i + 1]].transpose(0, 1)
        span = slice(int(key_starts[i]), int(key_starts[i + 1]))
        k, v = (x[span].transpose(0, 1).repeat_interleave(repeats, 0) for x in (key, value))
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=softmax_scale
            ).transpose(0, 1)
        )
    return torch.cat(outputs)


def install(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let TRL's asynchronous trainer run on the CPU; everything else of it is TRL's.

    Args:
        replace: pytest's `monkeypatch.setattr`, for what is to be undone.
    """
    from trl.experimental.async_grpo import async_grpo_trainer, packing

    kernels = SimpleNamespace(flash_attn_varlen_func=varlen_attention)
    replace(packing, "_flash_attn", lambda: kernels)
    # It asks for the name of the GPU, to say what share of its speed was used.
    replace(async_grpo_trainer, "get_peak_flops_per_device", lambda accelerator, dtype: None)

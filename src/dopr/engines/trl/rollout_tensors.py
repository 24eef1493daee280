"""Tensors of finished rollouts: pick rows, pad to equal length, cut into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from dopr.core.errors import UserError

Batch = dict[str, Tensor]

# Prompts are padded on the left and completions on the right, as TRL does.
_LEFT_PADDED = ("prompt_ids", "prompt_mask")
_PADDING_IS_PAD_TOKEN = ("prompt_ids", "completion_ids")
_NEUTRAL_ONE = ("importance_sampling_ratio", "tool_mask")


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one round's output.

    Attributes:
        batch: TRL's output for the round on this process.
        indices: shape (k,), rows of it.
        advantages: shape (k,), one per row.
        prompt_id: row of the pool.
        blank: the group's rewards do not differ.
    """

    batch: Batch
    indices: Tensor
    advantages: Tensor
    prompt_id: int
    blank: bool


def row_tensors(batch: Batch) -> Batch:
    """The tensors that have one row a rollout."""
    return {key: v for key, v in batch.items() if isinstance(v, Tensor) and v.ndim > 0}


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A copy on the CPU; NumPy knows no bfloat16, so that becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor.clone()).numpy()


def concatenate(parts: Sequence[Rows], pad_token_id: int) -> Batch:
    """One batch of all parts' rows, tensors padded to the longest.

    Raises:
        UserError: the rollouts hold images, whose tensors have no row a completion.
    """
    batches = _with_engine_fields([part.batch for part in parts])
    keys = list(row_tensors(batches[0]))
    if any("pixel_values" in part.batch for part in parts):
        raise UserError(
            "strategies that discard or mix rollouts do not support images yet; "
            "use strategy='uniform' without options"
        )
    result: Batch = {}
    for key in keys:
        if key == "advantages":
            continue
        tensors = [b[key][part.indices] for b, part in zip(batches, parts, strict=True)]
        result[key] = _pad_and_stack(key, tensors, pad_token_id)
    result["advantages"] = torch.cat([part.advantages for part in parts])
    for key, values in (
        ("dopr_prompt", [part.prompt_id for part in parts]),
        ("dopr_blank", [part.blank for part in parts]),
    ):
        result[key] = torch.cat(
            [torch.full_like(p.indices, v) for p, v in zip(parts, values, strict=True)]
        )
    return result


def _with_engine_fields(batches: list[Batch]) -> list[Batch]:
    """Batches that all have what an engine such as vLLM adds, where any has it.

    A run resumed with an engine may hold rollouts made without one. Those were sampled from the
    policy itself, so there is nothing to correct.
    """
    sampled, ratio = "sampling_per_token_logps", "importance_sampling_ratio"
    by_sequence = any(b[ratio].size(1) == 1 for b in batches if ratio in b)
    with_ratio, with_sampled = (any(key in b for b in batches) for key in (ratio, sampled))
    completed = []
    for batch in batches:
        added: Batch = {}
        if with_sampled and sampled not in batch:
            added[sampled] = batch["old_per_token_logps"]
        if with_ratio and ratio not in batch:
            ones = torch.ones_like(batch["old_per_token_logps"])
            added[ratio] = ones[:, :1] if by_sequence else ones
        completed.append(batch | added)
    return completed


def _pad_and_stack(key: str, tensors: list[Tensor], pad_token_id: int) -> Tensor:
    width = max((t.size(1) for t in tensors if t.ndim > 1), default=0)
    fill = pad_token_id if key in _PADDING_IS_PAD_TOKEN else float(key in _NEUTRAL_ONE)
    padded = []
    for tensor in tensors:
        missing = width - tensor.size(1) if tensor.ndim > 1 else 0
        if missing:
            padding = tensor.new_full((tensor.size(0), missing), fill)
            left = key in _LEFT_PADDED
            tensor = torch.cat([padding, tensor] if left else [tensor, padding], dim=1)
        padded.append(tensor)
    return torch.cat(padded)


def share(batch: Batch, accelerator: Any, pad_token_id: int) -> Batch:
    """The rows of all processes on every process, in order; tensors padded to the longest."""
    shared = {}
    for key, tensor in row_tensors(batch).items():
        if tensor.ndim > 1:
            fill = pad_token_id if key in _PADDING_IS_PAD_TOKEN else int(key in _NEUTRAL_ONE)
            first = key in _LEFT_PADDED
            # An integer: accelerate makes a mask with a padding of 0.0 one of floats.
            tensor = accelerator.pad_across_processes(
                tensor, dim=1, pad_index=fill, pad_first=first
            )
        shared[key] = accelerator.gather(tensor)
    return shared


def fill_up(batch: Batch, rows: int) -> Batch:
    """The batch with blank rows appended until it has `rows`: no completion token, no advantage."""
    present = len(batch["advantages"])
    if present >= rows:
        return batch
    blank = [0] * (rows - present)
    result = {}
    for key, tensor in batch.items():
        extra = tensor[blank].clone()
        if key in ("completion_mask", "advantages"):
            extra.zero_()
        elif key == "dopr_prompt":
            extra.fill_(-1)
        result[key] = torch.cat([tensor, extra])
    return result


def trim(batch: Batch, multiple: int | None = None) -> Batch:
    """Cut columns that are padding in every row: a forward pass should not pay for them.

    Args:
        batch: at least one row.
        multiple: lengths of prompts and of completions stay multiples of this (TRL's
            pad_to_multiple_of), as far as they were.
    """
    step = multiple or 1
    prompt_width = -(-int(batch["prompt_mask"].sum(1).max()) // step) * step
    completion_width = -(-max(int(batch["completion_mask"].sum(1).max()), 1) // step) * step
    result = {}
    for key, tensor in batch.items():
        if key in _LEFT_PADDED:
            tensor = tensor[:, -prompt_width:]
        elif tensor.ndim > 1 and tensor.size(1) == batch["completion_ids"].size(1):
            tensor = tensor[:, :completion_width]
        result[key] = tensor
    return result


def micro_batch_shape(rows: int, most_rows: int, steps: int, dense: bool) -> tuple[int, int]:
    """How many micro-batches hold `rows` rows, and how many rows each.

    Args:
        rows: rows on the fullest process.
        most_rows: rows that fit on the device at once (TRL's per_device_train_batch_size).
        steps: micro-batches that TRL will ask for.
        dense: fill as few as possible; else spread over all of them (needed where one generation
            serves several optimiser steps).

    Returns:
        (number of micro-batches with rows, rows in each); the first is at least 1.
    """
    needed = min(steps, max(1, -(-rows // most_rows))) if dense else steps
    return needed, max(1, -(-rows // needed))


def cut(batch: Batch, pieces: int, multiple: int | None = None) -> list[Batch]:
    """Cut into `pieces` micro-batches of equal numbers of rows, each trimmed (see `trim`)."""
    size = len(batch["advantages"]) // pieces
    return [
        trim({key: tensor[i * size : (i + 1) * size] for key, tensor in batch.items()}, multiple)
        for i in range(pieces)
    ]

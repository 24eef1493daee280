"""Tensors of finished rollouts: pick rows, pad to equal length, cut into micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from dopr.engines.trl import pictures

# A tensor's rows, or a list's entries where they are of unequal size, belong to one rollout each.
Batch = dict[str, Any]

# Prompts are padded on the left and completions on the right, as TRL does.
_LEFT_PADDED = ("prompt_ids", "prompt_mask")
_PADDING_IS_PAD_TOKEN = ("prompt_ids", "completion_ids")
_NEUTRAL_ONE = ("importance_sampling_ratio", "tool_mask")


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one round's output.

    Attributes:
        batch: TRL's output for the round on this process, one row or entry a rollout.
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


def by_rollout(batch: Batch) -> Batch:
    """What has one row or entry a rollout; single numbers of the whole round are left out."""
    return {
        key: value
        for key, value in batch.items()
        if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)
    }


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A copy on the CPU; NumPy knows no bfloat16, so that becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor.clone()).numpy()


def pack(batch: Batch, rows: slice) -> dict[str, Any]:
    """Some rollouts as arrays and plain numbers, for a checkpoint."""
    packed: dict[str, Any] = {}
    for key, value in by_rollout(batch).items():
        if isinstance(value, Tensor):
            packed[key] = to_array(value[rows])
        else:
            chosen = value[rows]
            packed[key] = [to_array(v) if isinstance(v, Tensor) else v for v in chosen]
    return packed


def unpack(packed: dict[str, Any], device: torch.device) -> Batch:
    """What `pack` packed."""

    def tensor(value: Any) -> Any:
        return value if isinstance(value, int) else torch.as_tensor(value, device=device)

    return {
        key: [tensor(v) for v in value] if isinstance(value, list) else tensor(value)
        for key, value in packed.items()
    }


def concatenate(parts: Sequence[Rows], pad_token_id: int) -> Batch:
    """One batch of all parts' rows, tensors padded to the longest."""
    batches = _with_engine_fields([part.batch for part in parts])
    batches = pictures.in_all([by_rollout(batch) for batch in batches])
    widths = [batch["prompt_ids"].size(1) for batch in batches]
    result: Batch = {}
    for key in batches[0]:
        if key == "advantages":
            continue
        chosen = [
            _take(batch[key], part.indices) for batch, part in zip(batches, parts, strict=True)
        ]
        result[key] = (
            _pad_whole_sequences(chosen, widths)
            if key in pictures.WHOLE_SEQUENCE
            else _pad_and_stack(key, chosen, pad_token_id)
        )
    result["advantages"] = torch.cat([part.advantages for part in parts])
    for key, values in (
        ("dopr_prompt", [part.prompt_id for part in parts]),
        ("dopr_blank", [part.blank for part in parts]),
    ):
        result[key] = torch.cat(
            [torch.full_like(p.indices, v) for p, v in zip(parts, values, strict=True)]
        )
    return result


def _take(value: Any, indices: Tensor) -> Any:
    return value[indices] if isinstance(value, Tensor) else [value[i] for i in indices.tolist()]


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


def _pad_and_stack(key: str, values: list[Any], pad_token_id: int) -> Any:
    """The rows of all values, padded to equal shape."""
    if isinstance(values[0], list):
        entries = [entry for value in values for entry in value]
        return pictures.padded(entries) if isinstance(entries[0], Tensor) else entries
    if key in pictures.FIELDS:
        return torch.cat(pictures.padded(values))
    width = max((t.size(1) for t in values if t.ndim > 1), default=0)
    fill = pad_token_id if key in _PADDING_IS_PAD_TOKEN else float(key in _NEUTRAL_ONE)
    padded = []
    for tensor in values:
        missing = width - tensor.size(1) if tensor.ndim > 1 else 0
        padded.append(_pad_columns(tensor, missing, fill, left=key in _LEFT_PADDED))
    return torch.cat(padded)


def _pad_columns(tensor: Tensor, missing: int, fill: float, left: bool) -> Tensor:
    if not missing:
        return tensor
    padding = tensor.new_full((tensor.size(0), missing), fill)
    return torch.cat([padding, tensor] if left else [tensor, padding], dim=1)


def _pad_whole_sequences(values: list[Tensor], prompt_widths: list[int]) -> Tensor:
    """Pad what has a column for each token of prompt and completion on either side."""
    before = max(prompt_widths)
    after = max(t.size(1) - width for t, width in zip(values, prompt_widths, strict=True))
    padded = []
    for tensor, width in zip(values, prompt_widths, strict=True):
        longer = _pad_columns(tensor, before - width, 0, left=True)
        padded.append(_pad_columns(longer, before + after - longer.size(1), 0, left=False))
    return torch.cat(padded)


def share(batch: Batch, accelerator: Any, pad_token_id: int) -> Batch:
    """The rows of all processes on every process, in order; tensors padded to the longest."""
    shared: Batch = {}
    for key, value in by_rollout(batch).items():
        if isinstance(value, list):
            everyones = gather_object([v.cpu() if isinstance(v, Tensor) else v for v in value])
            device = accelerator.device
            shared[key] = [v.to(device) if isinstance(v, Tensor) else v for v in everyones]
            continue
        if value.ndim > 1:
            fill = pad_token_id if key in _PADDING_IS_PAD_TOKEN else int(key in _NEUTRAL_ONE)
            first = key in _LEFT_PADDED
            # An integer: accelerate makes a mask with a padding of 0.0 one of floats.
            value = accelerator.pad_across_processes(value, dim=1, pad_index=fill, pad_first=first)
        shared[key] = accelerator.gather(value)
    return shared


def fill_up(batch: Batch, rows: int) -> Batch:
    """The batch with blank rows appended until it has `rows`: no completion token, no advantage."""
    present = len(batch["advantages"])
    if present >= rows:
        return batch
    blank = [0] * (rows - present)
    result: Batch = {}
    for key, value in batch.items():
        if isinstance(value, list):
            result[key] = value + [value[i] for i in blank]
            continue
        extra = value[blank].clone()
        if key in ("completion_mask", "advantages"):
            extra.zero_()
        elif key == "dopr_prompt":
            extra.fill_(-1)
        result[key] = torch.cat([value, extra])
    return result


def trim(batch: Batch, multiple: int | None = None) -> Batch:
    """Cut columns that are padding in every row: a forward pass should not pay for them.

    Args:
        batch: at least one row.
        multiple: lengths of prompts and of completions stay multiples of this (TRL's
            pad_to_multiple_of), as far as they were.
    """
    step = multiple or 1
    lengths = batch["completion_mask"].sum(1)
    prompts, completions = batch["prompt_ids"].size(1), batch["completion_ids"].size(1)
    prompt_width = min(prompts, -(-int(batch["prompt_mask"].sum(1).max()) // step) * step)
    completion_width = min(completions, -(-max(int(lengths.max()), 1) // step) * step)
    if "num_images" in batch and not bool(lengths.all()):
        # A completion that does not count may still hold the places of pictures a tool gave.
        completion_width = completions
    result = {}
    for key, value in batch.items():
        if key in _LEFT_PADDED:
            value = value[:, -prompt_width:]
        elif key in pictures.WHOLE_SEQUENCE:
            value = value[:, prompts - prompt_width : prompts + completion_width]
        elif key in pictures.FIELDS or not isinstance(value, Tensor):
            pass
        elif value.ndim > 1 and value.size(1) == completions:
            value = value[:, :completion_width]
        result[key] = value
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
        pictures.without_empty(
            trim({k: value[i * size : (i + 1) * size] for k, value in batch.items()}, multiple)
        )
        for i in range(pieces)
    ]

"""What a vision-language model reads beside tokens, one entry a rollout.

TRL keeps a batch's pictures end to end, as many to a rollout as it has. To pick rollouts and mix
those of several rounds, they are kept here as lists with an entry for each rollout (TRL's
`split_pixel_values_by_grid`), or as tensors with a row for each where the processor made those.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

FIELDS = (
    "pixel_values",
    "image_grid_thw",
    "image_position_ids",
    "image_sizes",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_images",
    "num_tiles",
)
# Kinds of token, one column for each token of prompt and completion.
WHOLE_SEQUENCE = ("token_type_ids", "mm_token_type_ids")


def forward_fields(batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a batch that a forward pass needs for its pictures."""
    return {key: batch[key] for key in (*FIELDS, *WHOLE_SEQUENCE) if key in batch}


def in_all(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Batches that all have what any has of these fields; rollouts of others have no picture.

    Args:
        batches: one row or entry a rollout.
    """
    example = {key: batch[key] for batch in reversed(batches) for key in forward_fields(batch)}
    return [batch | _without_pictures(batch, example) for batch in batches]


def _without_pictures(batch: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The fields of `example` that a batch lacks, for rollouts that have no picture."""
    ids = batch["prompt_ids"]
    rows, added = ids.size(0), {}
    for key, like in example.items():
        if key in batch:
            continue
        if key in WHOLE_SEQUENCE:
            added[key] = like.new_zeros(rows, ids.size(1) + batch["completion_ids"].size(1))
        elif isinstance(like, Tensor):
            added[key] = like.new_zeros(rows, *like.shape[1:])
        else:
            added[key] = [like[0][:0] if isinstance(like[0], Tensor) else 0] * rows
    return added


def padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with zeros at the end of every dimension but the first, to equal sizes there."""
    largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    result = []
    for tensor in tensors:
        missing = [0, 0] * len(largest)
        for place, (size, wanted) in enumerate(zip(tensor.shape[1:], largest, strict=True)):
            missing[2 * (len(largest) - 1 - place) + 1] = wanted - size
        result.append(functional.pad(tensor, missing) if any(missing) else tensor)
    return result


def without_empty(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch without picture fields where none of its rollouts has a picture.

    Args:
        batch: a micro-batch.
    """
    if sum(batch.get("num_images", [1])):
        return batch
    return {key: value for key, value in batch.items() if key not in FIELDS}

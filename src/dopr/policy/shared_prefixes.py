"""Reading one prompt's completions with the prompt read once, in the forward and backward pass.

As rows, a prompt with 16 completions goes through the model 16 times. Packed, all tokens that
matter stand behind each other in one row: every distinct prompt once, then the completions, and no
padding. Only attention must know which token belongs where: a prompt attends to itself, a
completion to its prompt and to itself. The layers, adapters, checkpointing, autocast and the head
are the library's own, and give what they give for rows up to rounding.

`transformers` looks attention functions up by name; the one named `sdpa` is wrapped once, when a
packed row is first read, and does as before for everything else. Source: prefix grouping
[2506.05433, S]; own implementation.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dopr.policy import generation
from dopr.policy.direct_layers import attention_kernels

# Packing must leave out a fifth of the tokens of rows to pay for putting them in place.
_WORTH = 0.8
# On a GPU a small step waits for its kernels to be launched, and packing launches more of them. On
# an H200 it took 18 ms more in 16 layers (docs/results/gpu.json), 1.1 ms a layer and not quite
# twice that here, to be on the safe side; the rate of computing is assumed.
_LAUNCHES_S = 2e-3
_FLOP_PER_S = 2e14
_LAYOUT = "dopr_packed_row"  # argument of the layers that carries a `PackedRow` to the attention


@dataclass(frozen=True, slots=True, eq=False)
class PackedRow:
    """Prompts, each once, then completions without their last tokens (nothing is read off these).

    Of B rows with U distinct prompts, of at most P and C tokens; N tokens in all, L to score.

    Attributes:
        ids: shape (1, N).
        positions: of the tokens in their rows, shape (1, N).
        prompt_tokens: how many of the N tokens are of prompts.
        prompts: places of each prompt's tokens among those of all, filled up with 0; shape (U, P).
        completions: the same among the tokens of all completions, shape (B, C - 1).
        owners: the prompt of each row, shape (B,).
        mask: what a completion's tokens attend to, of its prompt and itself; shape
            (B, 1, C - 1, P + C - 1).
        unpad_prompts, unpad_completions: places of the N tokens in the last two as flat lists.
        labels: a token that counts for nothing, then those to score; shape (1, L + 1).
        readers: of each label's successor, the token that it is predicted from; shape (L + 1,).
        targets: places of the labels in a flat (B, C), shape (L,).
        shape: B and C.
    """

    ids: Tensor
    positions: Tensor
    prompt_tokens: int
    prompts: Tensor
    completions: Tensor
    owners: Tensor
    mask: Tensor
    unpad_prompts: Tensor
    unpad_completions: Tensor
    labels: Tensor
    readers: Tensor
    targets: Tensor
    shape: tuple[int, int]

    def as_rows(self, values: Tensor) -> Tensor:
        """Values of the scored tokens, shape (1, L), as rows (B, C) with 0 where nothing counts."""
        rows, width = self.shape
        flat = values.new_zeros(rows * width)
        return flat.index_copy(0, self.targets, values[0]).view(rows, width)


def is_supported(model: Any) -> bool:
    """Whether `model` (adapters included) reads packed rows as it reads rows.

    The families of our decoding loop, with the attention `sdpa` and without dropout, whose noise
    the rollouts of a prompt would share.
    """
    return generation.is_supported(model) and not any(
        isinstance(module, nn.Dropout) and module.p > 0 and module.training
        for module in model.modules()
    )


def fewest_saved(model: Any) -> int:
    """Tokens of rows that must be left out on the model's device for packing to save time.

    On a GPU what computing them takes in a layer, forward and backward (6 operations a parameter
    and token), must exceed what launching the additional kernels takes.
    """
    if model.device.type == "cpu":
        return 1
    sizes = generation.base_model(model).config
    of_a_layer = 4 * sizes.hidden_size**2 + 3 * sizes.hidden_size * sizes.intermediate_size
    return int(_LAUNCHES_S * _FLOP_PER_S / (6 * of_a_layer))


def pack(
    ids: Tensor, mask: Tensor, completion_width: int, fewest_saved: int = 1
) -> PackedRow | None:
    """Rows as one packed row, or None where it would not pay or they are not plain.

    Args:
        ids: prompts padded on the left, then completions padded on the right; shape (B, tokens).
        mask: 1 where a token counts, shape (B, tokens).
        completion_width: C, columns of the completions.
        fewest_saved: tokens of the rows, padding included, that must be left out.
    """
    split = ids.shape[1] - completion_width
    if split < 1 or completion_width < 1:
        return None
    in_prompt, in_completion = (mask != 0).split([split, completion_width], dim=1)
    before, after = in_prompt.sum(1), in_completion.sum(1)
    plain = _is_left_aligned(in_prompt.flip(1), before) & _is_left_aligned(in_completion, after)
    known = torch.cat([in_prompt, ids[:, :split] * in_prompt], dim=1)
    found, owners = torch.unique(known, dim=0, return_inverse=True)
    found = found[:, split:]
    first = torch.full((len(found),), len(ids), device=ids.device)
    first = first.scatter_reduce(0, owners, torch.arange(len(ids), device=ids.device), "amin")
    lengths = before[first]
    kept = (after - 1).clamp(min=0)
    # The one wait for the device.
    facts = torch.stack([plain.all(), before.min(), lengths.sum(), kept.sum(), after.sum()])
    all_plain, shortest, prompt_tokens, completion_tokens, scored = facts.tolist()
    packed = prompt_tokens + completion_tokens
    shares = len(found) < len(ids)
    pays = packed <= min(_WORTH * ids.numel(), ids.numel() - fewest_saved)
    if not all_plain or not shares or shortest < 1 or scored < 1 or not pays:
        return None
    return _lay_out(ids, split, found, owners, lengths, after, int(prompt_tokens))


def _is_left_aligned(counts: Tensor, lengths: Tensor) -> Tensor:
    """Whether each row is ones and then zeros, shape (B,)."""
    return (counts == _first(lengths, counts.shape[1])).all(1)


def _first(lengths: Tensor, width: int) -> Tensor:
    """True for the first `lengths` places of each row, shape (rows, width)."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def _places(used: Tensor) -> Tensor:
    """The running number of each place in use, 0 for the others; shape as `used`."""
    return (used.flatten().cumsum(0) - 1).view(used.shape).masked_fill(~used, 0)


def _lay_out(
    ids: Tensor,
    split: int,
    found: Tensor,
    owners: Tensor,
    lengths: Tensor,
    after: Tensor,
    prompt_tokens: int,
) -> PackedRow:
    """See `pack`; `found` are the distinct prompts, `lengths` theirs, `after` the completions'."""
    device, width = ids.device, ids.shape[1] - split
    prompt_width = int(lengths.max())
    in_prompt = _first(lengths, prompt_width)
    # From padded on the left to padded on the right.
    shifted = torch.arange(prompt_width, device=device) + (split - lengths)[:, None]
    prompt_ids = found.gather(1, shifted.clamp(max=split - 1))
    completion_ids = ids[:, split:]
    kept = (after - 1).clamp(min=0)
    kept_width = int(kept.max())
    in_kept, scored = _first(kept, kept_width), _first(after, width)
    places = _places(in_kept)
    causal = torch.ones(kept_width, kept_width, dtype=torch.bool, device=device).tril()
    own = causal.expand(len(ids), -1, -1)
    to_prompt = in_prompt[owners, None].expand(-1, kept_width, -1)
    ends = _places(in_prompt).max(1).values  # of each prompt's last token
    readers = torch.cat([ends[owners, None], prompt_tokens + places], dim=1)
    readers = readers[_first(after, kept_width + 1)]
    steps = torch.arange(max(prompt_width, kept_width), device=device)
    prompt_positions = steps[:prompt_width].expand(len(found), -1)[in_prompt]
    completion_positions = (lengths[owners, None] + steps[:kept_width])[in_kept]
    return PackedRow(
        ids=torch.cat([prompt_ids[in_prompt], completion_ids[:, :kept_width][in_kept]])[None],
        positions=torch.cat([prompt_positions, completion_positions])[None],
        prompt_tokens=prompt_tokens,
        prompts=_places(in_prompt),
        completions=places,
        owners=owners,
        mask=torch.cat([to_prompt, own], dim=2)[:, None],
        unpad_prompts=in_prompt.flatten().nonzero()[:, 0],
        unpad_completions=in_kept.flatten().nonzero()[:, 0],
        labels=torch.cat([ids.new_zeros(1), completion_ids[scored]])[None],
        readers=torch.cat([readers, readers.new_zeros(1)]),
        targets=scored.flatten().nonzero()[:, 0],
        shape=(len(ids), width),
    )


@contextlib.contextmanager
def reading(model: Any, row: PackedRow) -> Iterator[None]:
    """Let `model`, called with `row.labels` by someone else, read the packed row.

    It then gives for each label what a model gives that has read the rows: the logits (or what is
    made of them) at place i predict `labels[i + 1]`.

    Args:
        model: one that `is_supported`.
        row: of `pack`.
    """
    _wrap_attention()
    stack = generation.base_model(model).model

    def put_in(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs | {"input_ids": row.ids, "position_ids": row.positions, "use_cache": False}
        # A mask with four dimensions is handed on to the attention as it is.
        return (), given | {"attention_mask": row.mask, _LAYOUT: row}

    def take_out(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.index_select(1, row.readers)
        return output

    hooks = [
        stack.register_forward_pre_hook(put_in, with_kwargs=True),
        stack.register_forward_hook(take_out),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _wrap_attention() -> None:
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if getattr(usual, "reads_packed_rows", False):
        return

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        row: PackedRow | None = kwargs.pop(_LAYOUT, None)
        if row is None:
            result: tuple[Tensor, None] = usual(module, query, key, value, mask, **kwargs)
            return result
        # Entered here and not around the model: checkpointing calls this again on its way back.
        with attention_kernels(query.device):
            return _attend(usual, module, query, key, value, row, kwargs), None

    attention.reads_packed_rows = True  # type: ignore[attr-defined]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention


def _attend(
    usual: Any,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: PackedRow,
    kwargs: dict[str, Any],
) -> Tensor:
    """Attention of a packed row, shapes (1, heads, N, width); the result is (1, N, heads, width).

    Prompts and completions are taken apart and padded for it, and put together again. By
    `index_select` throughout: the gradient of indexing with a tensor is added up on a CPU in an
    order that its threads decide, and one seed would not give one result.
    """
    tokens = [x[0].transpose(0, 1) for x in (query, key, value)]  # (N, heads, width)
    of_prompts = [_as_batch(x[: row.prompt_tokens], row.prompts) for x in tokens]
    # Padding comes last, where being causal hides it from every token that counts.
    attended, _ = usual(module, *of_prompts, None, **kwargs)
    parts = [attended.flatten(0, 1).index_select(0, row.unpad_prompts)]
    if row.completions.numel():
        own = [_as_batch(x[row.prompt_tokens :], row.completions) for x in tokens]
        keys, values = (
            torch.cat([_handed_out(shared, row.owners), mine], dim=2)
            for shared, mine in zip(of_prompts[1:], own[1:], strict=True)
        )
        attended, _ = usual(module, own[0], keys, values, row.mask, **kwargs)
        parts.append(attended.flatten(0, 1).index_select(0, row.unpad_completions))
    return torch.cat(parts)[None]


def _handed_out(shared: Tensor, owners: Tensor) -> Tensor:
    """Each completion's copy of its prompt's keys or values. A GPU adds their gradients up in the
    tensor's own precision, so that a prompt of many completions would lose it in half precision.
    """
    if shared.device.type == "cpu" or shared.dtype == torch.float32:
        return shared.index_select(0, owners)
    return shared.float().index_select(0, owners).to(shared.dtype)


def _as_batch(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens of shape (n, heads, width) as padded rows, (rows, heads, places, width)."""
    rows = tokens.index_select(0, places.flatten())
    return rows.view(*places.shape, *tokens.shape[1:]).transpose(1, 2)

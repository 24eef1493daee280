"""Sampling completions with less work between the tokens.

`generate` of transformers takes a decoding loop as an argument; this is one for plain decoder
models on a single device. It samples from the same distribution as the library's own loop, and
saves what that loop spends on every token:

- keys and values go into room set aside for them and are not copied at every token;
- the layers' operations are called without the wrappers around them (`dopr.policy.direct_layers`);
- where no code of others sees a tensor, autograd notes nothing about them (inference mode);
- rollouts of one prompt share its prefill;
- rows that have ended leave the batch;
- a token takes one random number a row.

The last three and the operations change the last bit of a logit or the order of random numbers.
`exact` does without all but the first and calls the library's layers, so that the same random state
gives the same tokens.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache

from dopr.policy.direct_layers import DirectLayer, as_operation, attention_kernels, is_direct
from dopr.policy.roomy_cache import RoomyLayer

# Changes of the logits that ask nothing but a row's own logits and length.
_ROW_BY_ROW = (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    MinPLogitsWarper,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
)
# On a GPU, asking whether all rows have ended waits for it; here is how many tokens go in between.
_TOKENS_BETWEEN_CHECKS = 16


class DivergedError(RuntimeError):
    """The policy's logits are not numbers any more."""


def sample(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    exact: bool = False,
    **model_kwargs: Any,
) -> torch.Tensor:
    """One completion for each row, as `generate` asks a decoding loop for it.

    The tokens after the prompt are read in the precision in which the model's own forward pass
    read the prompt, be it wrapped in autocast (as accelerate wraps it) or not.

    Args:
        input_ids: left-padded prompts, shape (rows, tokens).
        logits_processor: temperature and other changes of the logits.
        stopping_criteria: end marks, the longest length, and any other.
        exact: see `decoding_loop`.
        model_kwargs: `attention_mask` and `position_ids`, shape (rows, tokens).

    Returns:
        Prompts and completions, shape (rows, up to the longest length); ended rows are padded.
    """
    end = stopping_criteria.max_length
    assert end is not None  # `generate` always sets one
    decoder = _Decoder(model, end, exact)
    logits = decoder.prefill(
        input_ids, model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    )
    marks, others = _split_ends(stopping_criteria, input_ids.device)
    row_by_row = all(type(p) in _ROW_BY_ROW for p in logits_processor)
    steps = _Steps(
        change=_in_turn(logits_processor) if row_by_row else _on_a_copy(logits_processor),
        ended=_end_test(marks, others),
        sampling=generation_config.do_sample,
        pad=generation_config.pad_token_id or 0,
        may_drop=row_by_row and not exact,
    )
    (rows, start), pad = input_ids.shape, steps.pad
    tokens = torch.cat([input_ids, input_ids.new_full((rows, end - start), pad)], dim=1)
    with decoder.precision, attention_kernels(input_ids.device):
        decoder.look_up_weights()
        # Where nobody else gets to see a tensor of the loop, it goes without what autograd notes.
        closed = decoder.is_direct and row_by_row and not others
        with torch.inference_mode() if closed else contextlib.nullcontext():
            width = _continue(decoder, tokens, start, logits, steps)
    return tokens[:, :width]


@dataclass(frozen=True)
class _Steps:
    """What is done between two tokens.

    Attributes:
        change: new logits from the tokens so far, shape (alive, tokens), and logits.
        ended: whether each row has, from its tokens, the last of them and its scores.
        sampling: or the likeliest token.
        pad: what ended rows are filled with.
        may_drop: whether rows that have ended may leave the batch.
    """

    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ended: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    sampling: bool
    pad: int
    may_drop: bool


def _continue(
    decoder: "_Decoder", tokens: torch.Tensor, start: int, logits: torch.Tensor, steps: _Steps
) -> int:
    """Token after token, from the logits of the first.

    Args:
        tokens: shape (rows, end); written to, from place `start` on.
        logits: of the tokens at that place.

    Returns:
        How many of the columns came to use.
    """
    (rows, end), device = tokens.shape, tokens.device
    alive: torch.Tensor | slice = slice(None)  # rows still in the batch
    is_open = torch.ones(rows, dtype=torch.bool, device=device)
    between = 1 if device.type == "cpu" else _TOKENS_BETWEEN_CHECKS
    for at in range(start, end):
        scores = steps.change(tokens[alive, :at], logits.float())
        chosen = _choose(scores, alive, rows, steps.sampling, decoder.exact)
        chosen = torch.where(is_open, chosen, steps.pad)
        tokens[alive, at] = chosen
        is_open &= ~steps.ended(tokens[alive, : at + 1], chosen, scores)
        if (at + 1 - start) % between == 0:
            left = int(is_open.sum())
            if left == 0:
                break
            if steps.may_drop and 2 * left <= len(is_open):
                decoder.take_rows(is_open.nonzero().squeeze(1))
                alive = torch.arange(rows, device=device)[alive][is_open]
                chosen, is_open = chosen[is_open], is_open[is_open]
        if at + 1 < end:
            logits = decoder.next(chosen, at)
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError("the policy's logits are not finite: its weights have diverged")
    return at + 1


def _in_turn(processors: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """One after another; the library's list reads their signatures at every token."""

    def change(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        for processor in processors:
            logits = processor(tokens, logits)
        return logits

    return change


def _on_a_copy(processors: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Some processors write into what they are given."""
    return lambda tokens, logits: processors(tokens, logits.clone())


def _split_ends(
    criteria: StoppingCriteriaList, device: torch.device
) -> tuple[list[torch.Tensor], StoppingCriteriaList]:
    """End marks, and criteria of any other kind than these and the length."""
    marks = [c.eos_token_id.to(device) for c in criteria if hasattr(c, "eos_token_id")]
    kept = [c for c in criteria if not hasattr(c, "eos_token_id") and not hasattr(c, "max_length")]
    return marks, StoppingCriteriaList(kept)


def _end_test(
    marks: list[torch.Tensor], others: StoppingCriteriaList
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Whether each row has ended, given its tokens, the last one and its scores; length aside."""

    def test(tokens: torch.Tensor, last: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ended = torch.zeros_like(last, dtype=torch.bool)
        for ids in marks:
            ended |= (last[:, None] == ids).any(1)
        return ended | others(tokens, scores) if others else ended

    return test


def _choose(
    scores: torch.Tensor, alive: torch.Tensor | slice, rows: int, sampling: bool, exact: bool
) -> torch.Tensor:
    """A token for each row still in the batch, shape (alive,).

    One uniform number a row, drawn for every row, so that what one row gets does not depend on
    which others have ended; `exact` draws noise for every token of the vocabulary, as
    `torch.multinomial` does, which takes longer than the model on a CPU.
    """
    if not sampling:
        return scores.argmax(dim=-1)
    probabilities = torch.softmax(scores, dim=-1)
    if exact:
        return torch.multinomial(probabilities, num_samples=1).squeeze(1)
    reached = probabilities.cumsum(dim=-1, dtype=torch.float64)
    wanted = torch.rand(rows, 1, dtype=torch.float64, device=scores.device)[alive]
    place = torch.searchsorted(reached, wanted * reached[:, -1:], right=True)
    return place.squeeze(1).clamp(max=scores.shape[-1] - 1)


class _Decoder:
    """The model with what it has read so far."""

    def __init__(self, model: Any, end: int, exact: bool) -> None:
        self.model, self.stack, self.exact = model, model.model, exact
        self.rooms = [RoomyLayer(end) for _ in self.stack.layers]
        self.cache, self.end = Cache(layers=[*self.rooms]), end
        self.mask: torch.Tensor | None = None  # (rows, end), False for padding
        self.padding: torch.Tensor | None = None  # (rows,) tokens of padding
        # How the model's layers were computed when they read the prompt.
        self.precision: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def prefill(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None
    ) -> torch.Tensor:
        """Read the prompts, each distinct run of rows once; logits of the next token."""
        new = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        if not self.exact:
            new[1:] = (ids[1:] != ids[:-1]).any(1)
            if mask is not None:
                new[1:] |= (mask[1:] != mask[:-1]).any(1)
        shared = not bool(new.all())
        if shared:
            ids, mask = ids[new], None if mask is None else mask[new]
            if positions is not None and len(positions) > 1:
                positions = positions[new]
        listener = self.stack.register_forward_pre_hook(self._note_precision)
        try:
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        finally:
            listener.remove()
        self._note_padding(mask, ids.shape[1])
        self._note_rotation(logits)
        if shared:
            origin = new.cumsum(0) - 1
            self.take_rows(origin)
            logits = logits[origin]
        return logits

    def look_up_weights(self) -> None:
        """Make the operations that read a token, within the precision that they are to have."""
        pairs = zip(self.stack.layers, self.rooms, strict=True)
        self.layers = [DirectLayer(layer, cache) for layer, cache in pairs]
        around = self.stack.embed_tokens, self.stack.norm, self.model.get_output_embeddings()
        self.embed, self.norm, self.head = map(as_operation, around)
        parts = [*map(is_direct, around), *(layer.is_direct for layer in self.layers)]
        self.is_direct = all(parts) and not self.exact

    def _note_precision(self, *_: Any) -> None:
        kind = self.model.device.type
        if torch.is_autocast_enabled(kind):
            self.precision = torch.autocast(kind, torch.get_autocast_dtype(kind))

    def _note_padding(self, mask: torch.Tensor | None, width: int) -> None:
        if mask is None or bool(mask.all()):
            return
        self.mask = torch.ones(len(mask), self.end, dtype=torch.bool, device=mask.device)
        self.mask[:, :width] = mask.bool()
        self.padding = width - mask.sum(1)

    def _note_rotation(self, like: torch.Tensor) -> None:
        """Cosine and sine of every place, each of shape (end, head width)."""
        places = torch.arange(self.end, device=like.device)[None]
        dtype = next(self.stack.parameters()).dtype
        cosine, sine = self.stack.rotary_emb(like.new_zeros(1, dtype=dtype), places)
        self.cosine, self.sine = cosine[0], sine[0]
        self.signed_sine = self.sine.clone()
        self.signed_sine[:, : self.sine.shape[1] // 2] *= -1

    def next(self, chosen: torch.Tensor, at: int) -> torch.Tensor:
        """Read one more token of each row, which stands at place `at`; logits of the next."""
        places: torch.Tensor | slice = slice(at, at + 1)
        mask = None
        if self.mask is not None and self.padding is not None:
            places, mask = at - self.padding, self.mask[:, None, None, : at + 1]
        if self.exact:
            return self._next_exactly(chosen, mask, places)
        hidden = self.embed(chosen)
        cosine, sine = self.cosine[places, None], self.signed_sine[places, None]
        for layer in self.layers:
            hidden = layer(hidden, mask, cosine, sine)
        return self.head(self.norm(hidden))

    def _next_exactly(
        self, chosen: torch.Tensor, mask: torch.Tensor | None, places: torch.Tensor | slice
    ) -> torch.Tensor:
        hidden = self.stack.embed_tokens(chosen[:, None])
        for layer in self.stack.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=(self.cosine[places, None], self.sine[places, None]),
                past_key_values=self.cache,
                use_cache=True,
            )
        return self.model.get_output_embeddings()(self.stack.norm(hidden))[:, -1]

    def take_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        for room in self.rooms:
            room.take_rows(rows)
        if self.mask is not None and self.padding is not None:
            self.mask, self.padding = self.mask[rows], self.padding[rows]

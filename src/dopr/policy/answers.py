"""How likely the policy finds the reference answers of prompts, without generating anything."""

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dopr.policy.generation import base_model, is_supported
from dopr.policy.prompts import TemplateOptions, prompt_texts, prompt_token_ids

LONGEST = 64  # tokens of an answer; longer ones are cut
_LEAST_SHARED = 8  # fewer first tokens in common are not worth a pass before
_MOST_LOGITS, _MOST_TOKENS = 2**27, 2**15  # of a forward pass

Tokens = list[int]
Row = tuple[int, Tokens, Tokens]  # the place of a prompt, its tokens and those of its answer


def is_answer(value: Any) -> bool:
    """Whether a reference can stand as the completion itself: a number, or a text."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(answer: Any) -> str:
    """As a person writes it: columns with gaps turn whole numbers into 3.0."""
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return str(answer).strip()


def read_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    batch_size: int,
    template_options: TemplateOptions = None,
    temperature: float = 1.0,
    longest: int = LONGEST,
) -> tuple[NDArray[np.float64], int]:
    """Log-likelihood in nats of each reference answer as the beginning of the completion.

    In a text that does not end in white space the answer follows after a space, in a chat without
    one. What prompts of a batch begin with alike (a system prompt, worked examples of a kind) is
    read once where the model is of a kind whose cache is known.

    Args:
        prompts: texts or chats.
        answers: a text or a number for each.
        batch_size: prompts in a forward pass, at most; fewer where they are long or the vocabulary
            is large.
        template_options: as for `dopr.policy.prompts.prompt_texts`.
        temperature: that rollouts are sampled at; 0 reads at 1.
        longest: tokens of an answer that count; those of a completion are enough.

    Returns:
        The values in the order of the prompts, NaN where there is no such answer, and the number of
        tokens read.
    """
    values = np.full(len(prompts), np.nan)
    rows = [i for i, answer in enumerate(answers) if is_answer(answer)]
    heads = prompt_token_ids(tokenizer, [prompts[i] for i in rows], template_options)
    asked, given = [prompts[i] for i in rows], [answers[i] for i in rows]
    ends = _ends(tokenizer, asked, heads, given, template_options)
    known = [(i, head, end[:longest]) for i, head, end in zip(rows, heads, ends, strict=True)]
    known = [row for row in known if row[1] and row[2]]
    known.sort(key=lambda row: row[1])  # those that begin alike stand together
    size = _fitting(known, batch_size, model)
    shares = is_supported(model)
    training, tokens = model.training, 0
    model.eval()
    try:
        for first in range(0, len(known), size):
            for batch in _by_sharing(known[first : first + size], shares):
                read = [row for family, _ in batch for row in family]
                values[[i for i, _, _ in read]] = _forward(model, batch, temperature or 1.0)
                tokens += sum(len(head) + len(end) for _, head, end in read)
                tokens -= sum(shared * (len(family) - 1) for family, shared in batch)
    finally:
        model.train(training)
    return values, tokens


def _ends(
    tokenizer: Any,
    prompts: list[Any],
    heads: list[Tokens],
    answers: list[Any],
    template_options: TemplateOptions,
) -> list[Tokens]:
    """Tokens of the answers, as they follow the prompts where those keep their own tokens."""
    if not prompts:
        return []
    openings = [" " if isinstance(p, str) and p[-1:].strip() else "" for p in prompts]
    texts = [opening + _text(answer) for opening, answer in zip(openings, answers, strict=True)]
    starts = prompt_texts(tokenizer, prompts, template_options)
    both = [start + text for start, text in zip(starts, texts, strict=True)]
    whole = tokenizer(both, add_special_tokens=isinstance(prompts[0], str))["input_ids"]
    alone = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [
        ids[len(head) :] if ids[: len(head)] == head else list(end)
        for ids, head, end in zip(whole, heads, alone, strict=True)
    ]


def _fitting(rows: Sequence[Row], size: int, model: Any) -> int:
    """How many prompts fit into a forward pass: some gigabytes of logits, cache and states."""
    if not rows:
        return size
    head, end = max(len(row[1]) for row in rows), max(len(row[2]) for row in rows)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return max(1, min(size, _MOST_LOGITS // (vocabulary * (end + 1)), _MOST_TOKENS // head))


def _by_sharing(rows: Sequence[Row], shares: bool) -> list[list[tuple[Sequence[Row], int]]]:
    """Batches of families of rows, each with how many first tokens of its prompts are read once.

    One batch has those that share, the other the rest: rows of both in one would be padded to the
    longest.
    """
    families = _families(rows) if shares else [(rows, 0)]
    alike = [family for family in families if family[1]]
    rest = [family for family in families if not family[1]]
    return [batch for batch in (alike, rest) if batch]


def _families(rows: Sequence[Row]) -> list[tuple[Sequence[Row], int]]:
    """Neighbours that are read with fewest tokens, with how many first ones they share.

    A prompt's last token is never shared: the answer's first is read off it.
    """
    most = [len(head) - 1 for _, head, _ in rows]
    next_to = [_common(a[1], b[1]) for a, b in pairwise(rows)]
    saved, begins, kept = [0] * (len(rows) + 1), [0] * (len(rows) + 1), [0] * (len(rows) + 1)
    for end in range(1, len(rows) + 1):
        saved[end], begins[end] = saved[end - 1], end - 1
        shared = most[end - 1]
        for start in range(end - 2, -1, -1):
            shared = min(shared, most[start], next_to[start])
            if shared < _LEAST_SHARED:
                break
            total = saved[start] + shared * (end - start - 1)
            if total > saved[end]:
                saved[end], begins[end], kept[end] = total, start, shared
    found, end = [], len(rows)
    while end:
        found.append((rows[begins[end] : end], kept[end]))
        end = begins[end]
    return found[::-1]


def _common(a: Tokens, b: Tokens) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


@torch.no_grad()
def _forward(
    model: Any, batch: Sequence[tuple[Sequence[Row], int]], temperature: float
) -> NDArray[np.float64]:
    """Log-likelihood of each row's answer after its prompt, shape (rows,), family by family."""
    pairs = [(head[shared:], end) for family, shared in batch for _, head, end in family]
    ids, mask, places = _padded([head + end for head, end in pairs], model.device)
    given: dict[str, Any] = {"use_cache": False}
    if batch[0][1]:
        cache, before, lengths = _read_beginnings(model, batch)
        places = places + lengths[:, None]
        given = {"past_key_values": cache, "use_cache": True}
        mask = torch.cat([before, mask], dim=1)
    tail = max(len(end) for _, end in pairs) + 1
    given |= {"position_ids": places, "logits_to_keep": tail}
    logits = model(input_ids=ids, attention_mask=mask, **_known(model, given)).logits[:, -tail:-1]
    logits = logits.float()
    picked = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    picked = picked.gather(-1, ids[:, 1 - tail :].unsqueeze(-1)).squeeze(-1)
    ends = torch.tensor([len(end) for _, end in pairs], device=model.device)
    counted = torch.arange(tail - 1, device=model.device) >= tail - 1 - ends[:, None]
    return np.asarray((picked * counted).sum(1).double().cpu().numpy())


def _read_beginnings(
    model: Any, batch: Sequence[tuple[Sequence[Row], int]]
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """What families begin with, each read once: for every row its cache, mask and length."""
    beginnings = [family[0][1][:shared] for family, shared in batch]
    ids, mask, places = _padded(beginnings, model.device)
    cache = model(
        input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1
    ).past_key_values
    sizes = torch.tensor([len(family) for family, _ in batch], device=model.device)
    of_row = torch.arange(len(batch), device=model.device).repeat_interleave(sizes)
    cache.batch_select_indices(of_row)
    return cache, mask[of_row], mask.sum(1)[of_row]


def _padded(
    rows: Sequence[Tokens], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens with padding before them, the mask of those that count, and their places."""
    width = max(map(len, rows))
    padding = torch.tensor([width - len(row) for row in rows], device=device)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    places = torch.arange(width, device=device) - padding[:, None]
    return ids, (places >= 0).long(), places.clamp(min=0)


def _known(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the model's forward pass has."""
    whole = base_model(getattr(model, "_orig_mod", model))
    known = inspect.signature(type(whole).forward).parameters
    return {name: value for name, value in given.items() if name in known}

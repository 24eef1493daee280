"""How likely the policy finds the reference answers of prompts, without generating anything."""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dopr.policy.generation import base_model, is_supported
from dopr.policy.prompts import TemplateOptions, prompt_texts, prompt_token_ids

LONGEST = 64  # tokens of an answer; longer ones are cut
# Fewer first tokens in common are not worth a pass of their own, and fewer prompts than these no
# batch of their own for what they share.
_LEAST_SHARED, _FEWEST = 8, 8
_MOST_LOGITS, _MOST_TOKENS = 2**27, 2**15  # of a forward pass

Tokens = list[int]


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
    one. What a batch of prompts begins with alike (a system prompt, worked examples) is read once
    where the model is of a kind whose cache is known.

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
    training, tokens = model.training, 0
    model.eval()
    try:
        for batch, shared in _batches(known, size, is_supported(model)):
            pairs = [(head[shared:], end) for _, head, end in batch]
            found = _forward(model, batch[0][1][:shared], pairs, temperature or 1.0)
            values[[i for i, _, _ in batch]] = found
            tokens += shared + sum(len(head) + len(end) for head, end in pairs)
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


def _fitting(rows: list[tuple[int, Tokens, Tokens]], size: int, model: Any) -> int:
    """How many prompts fit into a forward pass: some gigabytes of logits, cache and states."""
    if not rows:
        return size
    head, end = max(len(row[1]) for row in rows), max(len(row[2]) for row in rows)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return max(1, min(size, _MOST_LOGITS // (vocabulary * (end + 1)), _MOST_TOKENS // head))


def _batches(
    rows: list[tuple[int, Tokens, Tokens]], size: int, may_share: bool
) -> Iterator[tuple[list[tuple[int, Tokens, Tokens]], int]]:
    """Neighbours, at most `size` at a time, with how many first tokens of the prompt they share.

    A batch ends where the next prompt would halve what its prompts share, and where enough of those
    that follow share twice as much with each other. A prompt's last token is never shared: the
    answer's first is read off it.
    """
    batch: list[tuple[int, Tokens, Tokens]] = []
    shared = 0
    for i, row in enumerate(rows):
        most = len(row[1]) - 1
        common = min(_common(batch[0][1], row[1]), shared, most) if batch else most
        ahead = _common(row[1], rows[i + _FEWEST - 1][1]) if i + _FEWEST <= len(rows) else 0
        ends = 2 * common < shared >= _LEAST_SHARED and len(batch) >= _FEWEST
        begins = 2 * common < ahead >= _LEAST_SHARED
        if len(batch) == size or (batch and may_share and (ends or begins)):
            yield batch, _worth(shared, batch, may_share)
            batch, common = [], most
        batch.append(row)
        shared = common
    if batch:
        yield batch, _worth(shared, batch, may_share)


def _worth(shared: int, batch: Sequence[Any], may_share: bool) -> int:
    return shared if may_share and len(batch) > 1 and shared >= _LEAST_SHARED else 0


def _common(a: Tokens, b: Tokens) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


@torch.no_grad()
def _forward(
    model: Any, shared: Tokens, pairs: Sequence[tuple[Tokens, Tokens]], temperature: float
) -> NDArray[np.float64]:
    """Log-likelihood of each pair's second part after `shared` and its first, shape (pairs,)."""
    device, count = model.device, len(pairs)
    width = max(len(head) + len(end) for head, end in pairs)
    padding = torch.tensor([width - len(head) - len(end) for head, end in pairs], device=device)
    ids = [[0] * (width - len(head) - len(end)) + head + end for head, end in pairs]
    places = torch.arange(width, device=device)
    given: dict[str, Any] = {"use_cache": False}
    mask = (places >= padding[:, None]).long()
    if shared:
        first = torch.tensor([shared], device=device)
        start = model(input_ids=first, use_cache=True, logits_to_keep=1)
        start.past_key_values.batch_repeat_interleave(count)
        given = {"past_key_values": start.past_key_values, "use_cache": True}
        mask = torch.cat([mask.new_ones(count, len(shared)), mask], dim=1)
    tail = max(len(end) for _, end in pairs) + 1
    tokens = torch.tensor(ids, device=device)
    given["position_ids"] = len(shared) + (places - padding[:, None]).clamp(min=0)
    given["logits_to_keep"] = tail
    whole = base_model(getattr(model, "_orig_mod", model))
    known = inspect.signature(type(whole).forward).parameters
    given = {name: value for name, value in given.items() if name in known}
    logits = model(input_ids=tokens, attention_mask=mask, **given).logits[:, -tail:-1]
    logits = logits.float()
    picked = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    picked = picked.gather(-1, tokens[:, 1 - tail :].unsqueeze(-1)).squeeze(-1)
    lengths = torch.tensor([len(end) for _, end in pairs], device=device)
    counted = torch.arange(tail - 1, device=device) >= tail - 1 - lengths[:, None]
    return (picked * counted).sum(1).double().cpu().numpy()

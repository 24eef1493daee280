"""What a strategy may ask of the policy besides paid rollouts: perplexity, embedding, ..."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.nn import ModuleList

from dopr.core.strategy import Measure
from dopr.policy.answers import LONGEST, read_answers
from dopr.policy.prompts import TemplateOptions, prompt_token_ids
from dopr.policy.sampling import Sampling, sample_rewards

QUANTITIES = frozenset({"perplexity", "embedding", "answer_likelihood", "success_rate"})


def read_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    quantity: str,
    batch_size: int,
    template_options: TemplateOptions = None,
    layers: int | None = None,
) -> tuple[NDArray[np.float64], int]:
    """Perplexity or embedding of each prompt under the model.

    Args:
        prompts: texts or chats.
        quantity: `perplexity` (exp of the mean negative log-probability of a prompt's tokens after
            the first, shape (k,)) or `embedding` (mean last hidden state, shape (k, width)).
        batch_size: prompts in a forward pass.
        template_options: as for `dopr.policy.prompts.prompt_texts`.
        layers: of the model that an embedding goes through; None, or more than there are, takes
            all, 0 is the mean of the tokens' embeddings.

    Returns:
        The values, in the order of the prompts, and the number of tokens read; where an
        embedding goes through a part of the layers, that part of the tokens, rounded up.
    """
    encoded = prompt_token_ids(tokenizer, prompts, template_options)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    values: list[Any] = [None] * len(encoded)
    training = model.training
    model.eval()
    try:
        with _first_layers(model, layers if quantity == "embedding" else None) as share:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                found = _forward(model, [encoded[i] for i in rows], quantity)
                for i, value in zip(rows, found, strict=True):
                    values[i] = value
    finally:
        model.train(training)
    tokens = sum(len(ids) for ids in encoded)
    return np.asarray(values, dtype=np.float64), math.ceil(tokens * share)


@contextlib.contextmanager
def _first_layers(model: Any, layers: int | None) -> Iterator[float]:
    """Leave a model its first layers alone for a while; yields their share of all.

    A model whose layers are not found, or that was compiled with all of them, keeps all.
    """
    decoder = _decoder(model)
    names = [name for name in ("layers", "h") if isinstance(_member(decoder, name), ModuleList)]
    if layers is None or not names or hasattr(model, "_orig_mod"):
        yield 1.0
        return
    name = names[0]
    whole = _member(decoder, name)
    setattr(decoder, name, ModuleList(list(whole)[:layers]))
    try:
        yield min(layers, len(whole)) / len(whole)
    finally:
        setattr(decoder, name, whole)


def _decoder(model: Any) -> Any:
    """The model without its head: logits over a vocabulary would be most of the memory."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


def _member(module: Any, name: str) -> Any:
    return getattr(module, name, None)


@torch.no_grad()
def _forward(model: Any, ids: list[list[int]], quantity: str) -> NDArray[np.float64]:
    width = max(len(row) for row in ids)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=model.device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (width - len(row)) for row in ids], device=model.device
    )
    if quantity == "embedding":
        output = _decoder(model)(input_ids=tokens, attention_mask=mask, use_cache=False)
        states = output.last_hidden_state.float() * mask.unsqueeze(-1)
        return (states.sum(1) / mask.sum(1, keepdim=True)).double().cpu().numpy()
    output = model(input_ids=tokens, attention_mask=mask)
    logps = torch.log_softmax(output.logits[:, :-1].float(), dim=-1)
    picked = logps.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1) * mask[:, 1:]
    mean = picked.sum(1) / mask[:, 1:].sum(1).clamp(min=1)
    return torch.exp(-mean).double().cpu().numpy()


def measure(
    asked: Measure,
    model: Any,
    tokenizer: Any,
    pool: Dataset,
    reward_funcs: Sequence[Any],
    weights: Sequence[float],
    sampling: Sampling,
    answer_column: str = "answer",
) -> tuple[NDArray[np.float64], int]:
    """The measured values, one row a prompt, and the tokens read for them."""
    rows = pool.select(list(asked.prompt_ids))
    if asked.quantity == "success_rate":
        rewards, _ = sample_rewards(
            model, tokenizer, rows, reward_funcs, asked.samples, sampling, weights
        )
        return np.nan_to_num(np.nanmean(rewards, axis=1)), 0
    if asked.quantity == "answer_likelihood":
        return read_answers(
            model,
            tokenizer,
            list(rows["prompt"]),
            list(rows[answer_column]),
            sampling.batch_size,
            sampling.template_options,
            temperature=sampling.temperature,
            longest=min(LONGEST, sampling.max_new_tokens),
        )
    return read_prompts(
        model,
        tokenizer,
        list(rows["prompt"]),
        asked.quantity,
        sampling.batch_size,
        sampling.template_options,
        asked.layers,
    )

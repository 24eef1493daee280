"""Completions of prompts and their rewards, outside of training.

Nothing here touches the training: the random state is put back afterwards, and what is generated
is not counted as rollouts of the run.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import GenerationConfig

from dopr.core.errors import UserError
from dopr.policy.generation import decoding_loop

_NOT_COLUMNS = ("prompt", "completion", "completion_ids")

Reward = Callable[..., list[float | None]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn.

    Args:
        max_new_tokens: tokens a completion.
        temperature: 0 takes the likeliest token.
        top_p: nucleus.
        batch_size: sequences generated at once.
        seed: of the draws.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 256
    seed: int = 0


def sample_rewards(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    k: int,
    sampling: Sampling,
    weights: Sequence[float] | None,
) -> tuple[NDArray[np.float64], int]:
    """Rewards of shape (prompts, k) and the number of generated tokens."""
    with isolated_random_state(sampling.seed):
        ids = generate(model, tokenizer, list(dataset["prompt"]), k, sampling)
        rewards = score(dataset, ids, tokenizer, reward_funcs, k, weights)
    return rewards.reshape(len(dataset), k), sum(len(row) for row in ids)


@contextlib.contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the global generators and put them back afterwards, so that training goes on unmoved."""
    python, old, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(old)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def prompt_texts(tokenizer: Any, prompts: Sequence[Any]) -> list[str]:
    """What the model reads of each prompt: plain text as it is, chats by the chat template."""
    if not prompts or isinstance(prompts[0], str):
        return list(prompts)
    return list(
        tokenizer.apply_chat_template(list(prompts), tokenize=False, add_generation_prompt=True)
    )


def prompt_token_ids(tokenizer: Any, prompts: Sequence[Any]) -> list[list[int]]:
    """Token ids of each prompt, as TRL makes them."""
    chat = bool(prompts) and not isinstance(prompts[0], str)
    texts = prompt_texts(tokenizer, prompts)
    return list(tokenizer(texts, add_special_tokens=not chat)["input_ids"])


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Any], k: int, sampling: Sampling
) -> list[list[int]]:
    """k completions of each prompt as token ids up to the end mark, shape (prompts * k,).

    Prompts of like length are generated together. The model is put back into its mode.
    """
    encoded = prompt_token_ids(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    rows = [i * k + j for i in order for j in range(k)]
    result: list[list[int]] = [[] for _ in rows]
    config = _generation_config(tokenizer, sampling)
    training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), sampling.batch_size):
            batch = rows[start : start + sampling.batch_size]
            inputs, mask = _left_padded(
                [encoded[row // k] for row in batch], tokenizer.pad_token_id
            )
            output = model.generate(
                input_ids=inputs.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                custom_generate=decoding_loop(model, config=config),
            )
            for row, ids in zip(batch, output[:, inputs.size(1) :].tolist(), strict=True):
                result[row] = _until_end(ids, tokenizer.eos_token_id)
    finally:
        model.train(training)
    return result


def _generation_config(tokenizer: Any, sampling: Sampling) -> GenerationConfig:
    """Every sampling option set, so that the model's own defaults do not slip in."""
    common = {
        "max_new_tokens": sampling.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "repetition_penalty": 1.0,
        "use_cache": True,
    }
    if sampling.temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        **common,
    )


def _left_padded(ids: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both of shape (rows, longest)."""
    width = max(len(row) for row in ids)
    inputs = torch.tensor([[pad] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    return inputs, mask


def _until_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def score(
    dataset: Dataset,
    completion_ids: list[list[int]],
    tokenizer: Any,
    reward_funcs: Sequence[Reward],
    k: int,
    weights: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """The weighted sum of the rewards of each completion, NaN where none could score it."""
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    prompts = [prompt for prompt in dataset["prompt"] for _ in range(k)]
    chat = not isinstance(prompts[0], str)
    completions = [[{"role": "assistant", "content": t}] for t in texts] if chat else texts
    columns = {
        name: [value for value in dataset[name] for _ in range(k)]
        for name in dataset.column_names
        if name not in _NOT_COLUMNS
    }
    table = np.empty((len(texts), len(reward_funcs)))
    for j, reward in enumerate(reward_funcs):
        values = reward(
            prompts=prompts, completions=completions, completion_ids=completion_ids, **columns
        )
        if len(values) != len(texts):
            name = getattr(reward, "__name__", str(reward))
            raise UserError(
                f"reward {name!r} returned {len(values)} rewards for {len(texts)} completions"
            )
        table[:, j] = [np.nan if value is None else value for value in values]
    factors = np.ones(len(reward_funcs)) if weights is None else np.asarray(weights, dtype=float)
    return weighted_total(table, factors)


def weighted_total(rewards: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """The weighted sum of the rewards of each completion, NaN where none could score it.

    Args:
        rewards: NaN where one could not score, shape (completions, functions).
        weights: of the functions, shape (functions,).
    """
    total = np.nansum(rewards * weights, axis=1)
    total[np.isnan(rewards).all(axis=1)] = np.nan
    return total.astype(np.float64)

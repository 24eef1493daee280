"""Completions of prompts and their rewards, outside of training.

Nothing here touches the training: the random state is put back afterwards, and what is generated
is not counted as rollouts of the run.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import GenerationConfig

from dopr.core.errors import UserError
from dopr.policy.ends import Ends
from dopr.policy.generation import decoding_loop
from dopr.policy.prompts import prompt_token_ids

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
        template_options: what the chat template reads besides the messages (TRL's
            `chat_template_kwargs`).
        generation_options: TRL's `generation_kwargs`, of which the end marks and stop strings are
            heeded; the other options are those named here.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 256
    seed: int = 0
    template_options: Mapping[str, Any] | None = None
    generation_options: Mapping[str, Any] | None = None


def sample_rewards(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    k: int,
    sampling: Sampling,
    weights: Sequence[float] | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Rewards of shape (prompts, k), and the token ids of their completions, (prompts * k,).

    Args:
        on_progress: told how many completions are generated, and of how many.
    """
    with isolated_random_state(sampling.seed):
        ids = generate(model, tokenizer, list(dataset["prompt"]), k, sampling, on_progress)
        rewards = score(dataset, ids, tokenizer, reward_funcs, k, weights)
    return rewards.reshape(len(dataset), k), ids


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


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    k: int,
    sampling: Sampling,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """k completions of each prompt as token ids up to the end mark, shape (prompts * k,).

    They end where rollouts in training do: at each of the model's and the tokenizer's end marks and
    at stop strings. Prompts of like length are generated together. The model is put back into its
    mode.
    """
    encoded = prompt_token_ids(tokenizer, prompts, sampling.template_options)
    ends = Ends.of(model, tokenizer, sampling.generation_options)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    rows = [i * k + j for i in order for j in range(k)]
    result: list[list[int]] = [[] for _ in rows]
    config = _generation_config(tokenizer, sampling, ends)
    # With a loop of someone else's the library loses the tokenizer that stop strings need.
    how: dict[str, Any] = {"tokenizer": tokenizer}
    if not ends.strings:
        how = {"custom_generate": decoding_loop(model, config=config)}
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
                **how,
            )
            for row, ids in zip(batch, output[:, inputs.size(1) :].tolist(), strict=True):
                result[row] = ends.cut(ids, tokenizer)
            if on_progress is not None:
                on_progress(start + len(batch), len(rows))
    finally:
        model.train(training)
    return result


def _generation_config(tokenizer: Any, sampling: Sampling, ends: Ends) -> GenerationConfig:
    """Every sampling option set, so that the model's own defaults do not slip in."""
    common = {
        "max_new_tokens": sampling.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": list(ends.marks) or None,
        "stop_strings": list(ends.strings) or None,
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

"""avg@k and pass@k with intervals, and the share of prompts that carry a signal.

Nothing here touches the training: the random state is put back afterwards, and what is generated
is not counted as rollouts of the run.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import GenerationConfig

from dopr.decoding import decoding_loop
from dopr.errors import UserError
from dopr.strategies.base import REWARD_TOLERANCE

RIGHT = 1.0 - 1e-6  # a rollout counts as right from this reward on
RESAMPLES = 1000
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


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What an evaluation found.

    Attributes:
        rewards: shape (prompts, k), NaN where nothing could score the completion.
        generated_tokens: in all completions together, the end mark included.
        seconds: for generating and scoring.
        summary: the fields of eval.jsonl that an evaluation knows by itself.
    """

    rewards: NDArray[np.float64]
    generated_tokens: int
    seconds: float
    summary: dict[str, Any]


def evaluate(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    *,
    k: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> EvalResult:
    """Sample k completions of every prompt and score them.

    avg@k is the mean reward (a completion that could not be scored is left out and counted in
    `unscored`); pass@k is the chance that one of k completions is right, where right means a reward
    of 1. Intervals are 95%, by bootstrap over prompts.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        dataset: columns `prompt` (text or chat) and whatever the rewards read.
        reward_funcs: in TRL's signature; their rewards are added up.
        weights: one factor a reward.

    Raises:
        UserError: the dataset is empty, or a reward misbehaves.
    """
    if len(dataset) == 0:
        raise UserError("there is nothing to evaluate on: the dataset has no rows")
    began = time.perf_counter()
    sampling = Sampling(max_new_tokens, temperature, top_p, batch_size, seed)
    rewards, tokens = sample_rewards(model, tokenizer, dataset, reward_funcs, k, sampling, weights)
    seconds = time.perf_counter() - began
    summary: dict[str, Any] = summarise(rewards, k, seed) | {
        "k": k,
        "temperature": temperature,
        "top_p": top_p,
        "num_prompts": len(dataset),
        "unscored": int(np.isnan(rewards).sum()),
        "mean_length": tokens / rewards.size,
        "eval_s": round(seconds, 3),
    }
    return EvalResult(rewards, tokens, seconds, summary)


def summarise(rewards: NDArray[np.float64], k: int, seed: int = 0) -> dict[str, float | None]:
    """avg@k and pass@k of rewards of shape (prompts, samples), with the bounds of their intervals.

    A completion without a score counts as not right in pass@k.
    """
    scored = ~np.isnan(rewards).all(axis=1)
    means = np.nanmean(rewards[scored], axis=1) if scored.any() else np.empty(0)
    right = np.sum(np.nan_to_num(rewards, nan=-np.inf) >= RIGHT, axis=1)
    passed = pass_at_k(rewards.shape[1], right, k)
    result: dict[str, float | None] = {}
    for name, values in (("avg@k", means), ("pass@k", passed)):
        low, high = bootstrap_mean(values, seed)
        result[name] = float(values.mean()) if values.size else None
        result[f"{name}_low"], result[f"{name}_high"] = low, high
    return result


def pass_at_k(samples: int, right: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Chance that at least one of k of the `samples` is right, without bias, shape as `right`.

    Source: Chen et al. 2021 [2107.03374, V]: 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: k is more than the samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k} with {samples} samples; it must lie between 1 and that")
    # C(n - c, k) / C(n, k) = product over i in (n - c, n] of (1 - k / i), zero once n - c < k.
    factors = np.ones(samples + 1)
    factors[1:] = np.cumprod(1.0 - k / np.arange(samples, 0, -1).clip(min=k))
    return 1.0 - factors[np.asarray(right)]


def bootstrap_mean(
    values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """95% bounds of the mean of `values`, shape (n,), by resampling them; null when n is 0."""
    n = len(values)
    if n == 0:
        return None, None
    rng = np.random.default_rng([seed, n])
    chunk = max(1, 4_000_000 // n)
    means = [
        values[rng.integers(0, n, size=(min(chunk, resamples - start), n))].mean(axis=1)
        for start in range(0, resamples, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def measure_signal_rate(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    *,
    group_size: int,
    num_prompts: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Share of groups whose rewards differ when every prompt is rolled out once by `model`.

    Args:
        num_prompts: how many prompts to try, a seeded sample; null tries all.

    Returns:
        `size` of the pool, `signal_rate`, its 95% `signal_rate_interval`, `group_size`,
        `num_prompts` tried, the mean reward and the shares of `solved` and `hopeless` groups.
    """
    size = len(dataset)
    if num_prompts is not None and num_prompts < size:
        chosen = np.random.default_rng(seed).choice(size, num_prompts, replace=False)
        dataset = dataset.select(np.sort(chosen))
    sampling = Sampling(max_new_tokens, temperature, top_p, batch_size, seed)
    rewards, _ = sample_rewards(
        model, tokenizer, dataset, reward_funcs, group_size, sampling, weights
    )
    low, high = (
        np.nan_to_num(rewards, nan=np.inf).min(1),
        np.nan_to_num(rewards, nan=-np.inf).max(1),
    )
    informative = (high - low > REWARD_TOLERANCE).astype(float)
    blank = informative == 0
    return {
        "size": size,
        "signal_rate": float(informative.mean()),
        "signal_rate_interval": list(bootstrap_mean(informative, seed)),
        "group_size": group_size,
        "num_prompts": len(dataset),
        "mean_reward": float(np.nanmean(rewards)) if not np.isnan(rewards).all() else None,
        "solved": float(np.mean(blank & (high >= RIGHT))),
        "hopeless": float(np.mean(blank & (high < RIGHT))),
    }


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
                custom_generate=decoding_loop(model),
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

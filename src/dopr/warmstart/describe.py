"""What a model made by the warm start can do: accuracy by habit, and where a group has a signal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import reasoning_gym
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dopr.tasks.gym import parse_options
from dopr.tasks.tiny_pools import POOLS
from dopr.warmstart.families import Entry
from dopr.warmstart.habits import HABITS, OPENINGS, final_answer, habit_of

GROUP_SIZE = 8
MAX_COMPLETION_LENGTH = 64


def load_pool(urls: Sequence[str]) -> list[tuple[Any, Entry]]:
    """Problems of a pool, each question once, with the reasoning-gym data set that scores it.

    Args:
        urls: `gym:NAME?key=value&...`.

    Raises:
        UserError: a family or an option is not known.
    """
    pool: dict[str, tuple[Any, Entry]] = {}
    for url in urls:
        name, _, query = url.removeprefix("gym:").partition("?")
        scorer = reasoning_gym.create_dataset(name, **parse_options(name, query))
        for entry in scorer:
            pool.setdefault(entry["question"], (scorer, entry))
    return list(pool.values())


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    greedy: bool = False,
    batch_size: int = 1024,
) -> list[str]:
    """One completion for each prompt, at temperature 1 or greedily.

    Returns:
        Completions of at most `MAX_COMPLETION_LENGTH` tokens, without padding or end mark.
    """
    texts: list[str] = []
    model.eval()
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(list(prompts[start : start + batch_size]), padding=True)
        ids = torch.tensor(batch["input_ids"], device=model.device)
        mask = torch.tensor(batch["attention_mask"], device=model.device)
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=not greedy,
            temperature=None if greedy else 1.0,
            top_k=None if greedy else 0,
            top_p=None if greedy else 1.0,
            max_new_tokens=MAX_COMPLETION_LENGTH,
        )
        texts += tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def _scores(pool: Sequence[tuple[Any, Entry]], texts: Sequence[str], each: int) -> np.ndarray:
    """reasoning-gym's scores of the completions, of shape (prompts, each); no answer scores 0."""
    answers = [final_answer(text) for text in texts]
    scores = [
        0.0 if answer is None else float(scorer.score_answer(answer, entry))
        for answer, (scorer, entry) in zip(
            answers, (item for item in pool for _ in range(each)), strict=True
        )
    ]
    return np.array(scores).reshape(len(pool), each)


def signal_rate(scores: np.ndarray) -> float:
    """Share of groups of 8 rollouts whose rewards differ; `scores` has shape (prompts, k * 8)."""
    groups = scores.reshape(-1, GROUP_SIZE)
    return float((groups.max(axis=1) > groups.min(axis=1)).mean())


def describe_pool(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pool: Sequence[tuple[Any, Entry]],
    rollouts: int = 16,
) -> dict[str, float]:
    """Success rates over a pool at temperature 1.

    Args:
        model: the model to sample from.
        tokenizer: its tokenizer.
        pool: problems and their scorers, as `load_pool` gives them.
        rollouts: completions a prompt, a multiple of 8.

    Returns:
        `accuracy`, `signal_rate`, `solved`, `hopeless` and `mixed` (shares of prompts whose every,
        no or some rollout is right), `partial` (share of rollouts with partial credit),
        `mean_tokens` and `rollouts_per_second`.
    """
    prompts = [entry["question"] for _, entry in pool for _ in range(rollouts)]
    started = time.perf_counter()
    texts = sample(model, tokenizer, prompts)
    seconds = time.perf_counter() - started
    scores = _scores(pool, texts, rollouts)
    right = (scores == 1.0).mean(axis=1)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    figures = {
        "prompts": len(pool),
        "accuracy": right.mean(),
        "signal_rate": signal_rate(scores),
        "solved": (right == 1).mean(),
        "hopeless": (right == 0).mean(),
        "mixed": ((right > 0) & (right < 1)).mean(),
        "partial": ((scores > 0) & (scores < 1)).mean(),
        "mean_tokens": np.mean(lengths),
        "rollouts_per_second": len(prompts) / seconds,
    }
    kinds = np.array([habit_of(text) or "other" for text in texts])
    flat = (scores == 1.0).ravel()
    for habit in HABITS:
        chosen = kinds == habit
        figures[f"{habit}_share"] = chosen.mean()
        figures[f"{habit}_accuracy"] = flat[chosen].mean() if chosen.any() else float("nan")
    return {key: round(float(value), 3) for key, value in figures.items()}


def careful_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pool: Sequence[tuple[Any, Entry]],
    rollouts: int = 4,
) -> float:
    """Accuracy at temperature 1 when every completion is made to begin carefully."""
    opening = OPENINGS["careful"]
    prompts = [entry["question"] + opening for _, entry in pool for _ in range(rollouts)]
    return float((_scores(pool, sample(model, tokenizer, prompts), rollouts) == 1.0).mean())


def describe_family(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    prompts: int,
    rollouts: int,
) -> dict[str, Any]:
    """Figures of one family on its pools.

    Args:
        model: the model to sample from.
        tokenizer: its tokenizer.
        name: the family's reasoning-gym name.
        prompts: how many prompts of each pool, spread evenly over it.
        rollouts: completions a prompt, a multiple of 8.

    Returns:
        `half`, `hard` and `eval`, each as `describe_pool` gives them, and for the last one also
        `careful_forced` and `greedy` accuracy.
    """
    result: dict[str, Any] = {}
    for kind, urls in POOLS[name].items():
        pool = load_pool(urls)
        pool = pool[:: max(1, len(pool) // prompts)]
        result[kind] = describe_pool(model, tokenizer, pool, rollouts)
        if kind == "eval":
            greedy = sample(model, tokenizer, [e["question"] for _, e in pool], greedy=True)
            result[kind]["greedy"] = round(float((_scores(pool, greedy, 1) == 1.0).mean()), 3)
            result[kind]["careful_forced"] = round(careful_accuracy(model, tokenizer, pool), 3)
    return result


def describe_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    families: Iterable[str],
    prompts: int = 128,
    rollouts: int = 16,
) -> dict[str, dict[str, Any]]:
    """`describe_family` for each family, drawn with a fixed seed."""
    torch.manual_seed(0)
    return {name: describe_family(model, tokenizer, name, prompts, rollouts) for name in families}

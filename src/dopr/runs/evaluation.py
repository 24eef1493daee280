"""avg@k and pass@k with intervals, and the share of prompts that carry a signal.

Nothing here touches the training: the random state is put back afterwards, and what is generated
is not counted as rollouts of the run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.statistics import mean_interval
from dopr.core.strategy import REWARD_TOLERANCE, RIGHT
from dopr.policy.sampling import Reward, Sampling, sample_rewards

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What an evaluation found.

    Attributes:
        rewards: shape (prompts, k), NaN where nothing could score the completion.
        completion_ids: token ids of each completion, k a prompt in the order of the prompts.
        seconds: for generating and scoring.
        summary: the fields of eval.jsonl that an evaluation knows by itself.
    """

    rewards: NDArray[np.float64]
    completion_ids: list[list[int]]
    seconds: float
    summary: dict[str, Any]

    @property
    def generated_tokens(self) -> int:
        """In all completions together, the end mark included."""
        return sum(len(ids) for ids in self.completion_ids)


def evaluate(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    sampling: Sampling,
    *,
    k: int = 1,
    weights: Sequence[float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Sample k completions of every prompt and score them.

    avg@k is the mean reward (a completion that could not be scored is left out and counted in
    `unscored`); pass@k is the chance that one of k completions is right, where right means a reward
    of 1; `signal_rate` is the share of prompts whose k rewards differ, null for k 1. Intervals are
    95%, by bootstrap over prompts. Where a column `eval_set` names more than one set, `sets` of the
    summary holds the same figures for each of them.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        dataset: columns `prompt` (text or chat) and whatever the rewards read.
        reward_funcs: in TRL's signature; their rewards are added up.
        sampling: how completions are drawn; its seed is the bootstrap's too.
        k: completions a prompt.
        weights: one factor a reward.
        on_progress: told how many completions are done, and of how many.

    Raises:
        UserError: the dataset is empty, or a reward misbehaves.
    """
    if len(dataset) == 0:
        raise UserError("there is nothing to evaluate on: the dataset has no rows")
    began = time.perf_counter()
    rewards, ids = sample_rewards(
        model, tokenizer, dataset, reward_funcs, k, sampling, weights, on_progress
    )
    seconds = time.perf_counter() - began
    lengths = np.array([len(row) for row in ids]).reshape(rewards.shape)
    summary = _figures(rewards, lengths, k, sampling.seed) | {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "eval_s": round(seconds, 3),
    }
    names = list(dataset["eval_set"]) if "eval_set" in dataset.column_names else []
    if len(set(names)) > 1:
        summary["sets"] = {
            name: _figures(rewards[rows], lengths[rows], k, sampling.seed)
            for name in dict.fromkeys(names)
            if len(rows := [i for i, other in enumerate(names) if other == name])
        }
    return EvalResult(rewards, ids, seconds, summary)


def _figures(
    rewards: NDArray[np.float64], lengths: NDArray[np.int64], k: int, seed: int
) -> dict[str, Any]:
    """What is known of completions of some prompts, both arrays of shape (prompts, k)."""
    return summarise(rewards, k, seed) | {
        "signal_rate": float(_differ(rewards).mean()) if k > 1 else None,
        "k": k,
        "num_prompts": len(rewards),
        "unscored": int(np.isnan(rewards).sum()),
        "mean_length": float(lengths.mean()),
    }


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


def _differ(rewards: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a prompt's rewards differ, those left out that are missing; shape (prompts,)."""
    low = np.nan_to_num(rewards, nan=np.inf).min(1)
    high = np.nan_to_num(rewards, nan=-np.inf).max(1)
    differ: NDArray[np.bool_] = high - low > REWARD_TOLERANCE
    return differ


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
    if not len(values):
        return None, None
    return mean_interval(values, np.random.default_rng([seed, len(values)]), resamples)


def measure_signal_rate(
    model: Any,
    tokenizer: Any,
    dataset: Dataset,
    reward_funcs: Sequence[Reward],
    sampling: Sampling,
    *,
    group_size: int,
    num_prompts: int | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Share of groups whose rewards differ when every prompt is rolled out once by `model`.

    Args:
        sampling: how completions are drawn; its seed is also that of the sample of prompts.
        group_size: rollouts in a group.
        num_prompts: how many prompts to try, a seeded sample; None tries all.
        weights: one factor a reward.

    Returns:
        `size` of the pool, `signal_rate`, its 95% `signal_rate_interval`, `group_size`,
        `num_prompts` tried, the mean reward and the shares of `solved` and `hopeless` groups.
    """
    size = len(dataset)
    if num_prompts is not None and num_prompts < size:
        chosen = np.random.default_rng(sampling.seed).choice(size, num_prompts, replace=False)
        dataset = dataset.select(np.sort(chosen))
    rewards, _ = sample_rewards(
        model, tokenizer, dataset, reward_funcs, group_size, sampling, weights
    )
    informative = _differ(rewards).astype(float)
    blank, high = informative == 0, np.nan_to_num(rewards, nan=-np.inf).max(1)
    scored = ~np.isnan(rewards).all(axis=1)
    return {
        "size": size,
        "signal_rate": float(informative.mean()),
        "signal_rate_interval": list(bootstrap_mean(informative, sampling.seed)),
        "group_size": group_size,
        "num_prompts": len(dataset),
        "mean_reward": float(np.nanmean(rewards)) if not np.isnan(rewards).all() else None,
        "solved": float(np.mean(blank & (high >= RIGHT))),
        "hopeless": float(np.mean(blank & scored & (high < RIGHT))),
    }

"""What the likelihood of reference answers tells of success rates, before anything is trained.

    python benchmarks/answer_likelihood.py            # SmolLM2-135M, four minutes on two cores
    python benchmarks/answer_likelihood.py --model tiny-reasoner --reward gym --longest 64 \\
        --dataset tiny:leg_counting/half
    python benchmarks/answer_likelihood.py --model runs/svamp/model --chat --longest 24 \\
        --dataset runs/svamp/train.jsonl --answer-column solution --name smollm2-135m-svamp
    python benchmarks/answer_likelihood.py --model runs/steps/model --longest 32 \\
        --end-marks 198 \\
        --dataset examples/arithmetic_in_steps.py:arithmetic --answer-column solution \\
        --name smollm2-135m-steps

Prompts are drawn from a pool, answered at temperature 1, and their reference answers are read.
Told are the correlation of likelihood and success rate, beside that of the rates of one half of the
answers with those of the other (a perfect forecast would correlate more with the rates of all); the
share of groups of four that carry a signal, among all prompts and among the sixteenth that a
forecast ranks first by p (1 - p); and the log-likelihood of groups of four under the likelihood as
a Beta distribution worth so many rollouts. Writes docs/results/answer-likelihood/NAME.json.
"""

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dopr.policy.answers import read_answers
from dopr.policy.measuring import read_prompts
from dopr.policy.models import load_model
from dopr.policy.sampling import Sampling, sample_rewards
from dopr.rewards import load_reward
from dopr.strategies.parts.shared_rates import log_likelihood
from dopr.tasks import load_task

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "answer-likelihood"
GROUP = 4
WORTHS = (1, 2, 4, 8, 16, 32)
FOLDS = 8


def informative(rewards: np.ndarray) -> float:
    """Share of groups of `GROUP` whose rewards differ, rewards of shape (prompts, k)."""
    groups = rewards.reshape(len(rewards), -1, GROUP)
    return float((groups.min(2) != groups.max(2)).mean())


def first(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[: max(1, len(scores) // 16)]


def by_embedding(embeddings: np.ndarray, rates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each prompt's rate as like prompts foretell it, whose rates are known: kernel regression on
    sixteen principal axes, by folds.
    """
    seen = (embeddings - embeddings.mean(0)) / np.maximum(embeddings.std(0), 1e-6)
    seen = seen @ np.linalg.svd(seen, full_matrices=False)[2][:16].T
    distances = np.square(seen[:, None] - seen).sum(-1)
    kernel = np.exp(-distances / (2 * np.median(distances)))
    order, found = rng.permutation(len(rates)), np.empty(len(rates))
    for fold in range(FOLDS):
        out = order[fold::FOLDS]
        known = np.setdiff1d(order, out)
        mean = rates[known].mean()
        inner = kernel[np.ix_(known, known)] + 0.5 * np.eye(len(known))
        weights = np.linalg.solve(inner, rates[known] - mean)
        found[out] = mean + kernel[np.ix_(out, known)] @ weights
    return found


def figures(rewards: np.ndarray, said: np.ndarray, embeddings: np.ndarray) -> dict[str, Any]:
    """See the module; rewards 0 or 1 of shape (prompts, k), the others' first axis is prompts."""
    rates, likely = rewards.mean(1), np.exp(said)
    one, other = rewards[:, 0::2].mean(1), rewards[:, 1::2].mean(1)
    like = by_embedding(embeddings, rates, np.random.default_rng(0))
    right = rewards.reshape(len(rewards), -1, GROUP).sum(2)
    count = np.full_like(right, GROUP)
    bounded = np.repeat(np.clip(likely, 0.01, 0.99)[:, None], right.shape[1], axis=1)

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a, b)[0, 1])

    def worth(p: np.ndarray) -> np.ndarray:
        return p * (1 - p)

    return {
        "mean_reward": float(rates.mean()),
        "correlation": {
            "likelihood": correlation(likely, rates),
            "log-likelihood": correlation(said, rates),
            "like prompts, all rates known": correlation(like, rates),
            "one half of the answers with the other": correlation(one, other),
        },
        "informative": {
            "all prompts": informative(rewards),
            "the first sixteenth by likelihood": informative(rewards[first(worth(likely))]),
            "the first sixteenth by like prompts, all rates known": informative(
                rewards[first(worth(like))]
            ),
            # Judged by the answers that it was not chosen by.
            "the first sixteenth by the rates of half of the answers": informative(
                rewards[first(worth(one))][:, 1::2]
            ),
        },
        "log_likelihood_of_groups": {
            str(k): float(log_likelihood(right, count, k * bounded, k * (1 - bounded)).mean())
            for k in WORTHS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dataset", default="examples/short_answers.py:worked")
    parser.add_argument("--reward", default="math")
    parser.add_argument("--longest", type=int, default=6, help="tokens of a completion")
    parser.add_argument("--end-marks", type=int, nargs="*", help="besides the model's own")
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--chat", action="store_true", help="prompts are asked as chats")
    parser.add_argument("--answer-column", default="answer", help="what is read")
    parser.add_argument("--name", help="of the file; of the model and the pool where left out")
    options = parser.parse_args()
    pool = load_task(options.dataset, split="train", chat=options.chat).shuffle(seed=1)
    pool = pool.select(range(min(options.prompts, len(pool))))
    model, tokenizer = load_model(options.model)
    if options.end_marks is None:  # a line feed ends an answer by example
        options.end_marks = [2, 198] if options.model == "smollm2-135m" else []
    ends = {"eos_token_id": options.end_marks} if options.end_marks else None
    sampling = Sampling(options.longest, generation_options=ends)
    rewards, _ = sample_rewards(
        model, tokenizer, pool, [load_reward(options.reward)], options.k, sampling, None
    )
    prompts = list(pool["prompt"])
    said, _ = read_answers(model, tokenizer, prompts, list(pool[options.answer_column]), 64)
    embeddings, _ = read_prompts(model, tokenizer, prompts, "embedding", 64, layers=1)
    result = {
        "model": options.model,
        "dataset": options.dataset,
        "answer_column": options.answer_column,
        "prompts": len(pool),
        "answers_each": options.k,
        **figures((rewards > 0.5).astype(float), said, embeddings),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "transformers")},
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    name = options.name or f"{options.model}-{options.dataset.split(':')[-1].replace('/', '-')}"
    (OUTPUT / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""Pools of prompts whose rewards are known, for the tests of strategies."""

from typing import Any

import numpy as np

from dopr.core.ledger import Ledger
from dopr.strategies import Group, Measure

QUANTITIES = frozenset({"perplexity", "embedding", "success_rate"})


def group(prompt: int, rewards: Any, tokens_each: int = 1, **fields: Any) -> Group:
    """A finished group with these rewards; further fields as `Group` has them."""
    tokens = np.full(len(rewards), tokens_each, dtype=np.int64)
    return Group(prompt, np.array(rewards, float), tokens, **fields)


def ledger_of(*rewards: list[float], size: int | None = None, discount: float = 1.0) -> Ledger:
    """A ledger that has seen one group a prompt, for the first prompts of a pool."""
    ledger = Ledger(size or len(rewards), discount)
    ledger.observe(group(i, values) for i, values in enumerate(rewards))
    ledger.end_step()
    return ledger


def bernoulli_pool(success: np.ndarray, seed: int = 0) -> Any:
    """Rolls out prompts whose success rates are known."""
    rng = np.random.default_rng(seed)
    return lambda requests: [
        group(r.prompt_id, rng.random(r.num_rollouts) < success[r.prompt_id]) for r in requests
    ]


def measurer(success: np.ndarray) -> Any:
    """Answers measures of a pool whose success rates are known; embeddings tell of the rate."""
    rng = np.random.default_rng(1)

    def measure(asked: Measure) -> tuple[np.ndarray, int]:
        rates = success[list(asked.prompt_ids)]
        if asked.quantity == "embedding":
            return np.column_stack([rates, 0.1 * rng.normal(size=(len(rates), 2))]), len(rates)
        if asked.quantity == "perplexity":
            return 1 + rates, len(rates)
        return rates, 0

    return measure

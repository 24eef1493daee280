"""Every way of dividing a budget of rollouts, tried out: what the quick ways are held against."""

import itertools

import numpy as np
from hypothesis import strategies as st

rates = st.lists(st.floats(0, 1), min_size=1, max_size=3)


def all_divisions(prompts: int, low: int, high: int, budget: int) -> list[tuple[int, ...]]:
    """All ways of giving each prompt from `low` to `high` rollouts that spend the budget."""
    counts = itertools.product(range(low, high + 1), repeat=prompts)
    return [c for c in counts if sum(c) == budget]


def best_value(values: np.ndarray, low: int, budget: int) -> float:
    """The most that any division is worth; `values` has a row a prompt, a column a size."""
    prompts, options = values.shape
    return max(
        sum(values[i, n - low] for i, n in enumerate(counts))
        for counts in all_divisions(prompts, low, low + options - 1, budget)
    )


def value_of(values: np.ndarray, low: int, counts: np.ndarray) -> float:
    """What one division is worth."""
    return float(values[np.arange(len(counts)), counts - low].sum())

"""Success probabilities from rewards of any scale, and Beta posteriors over them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group
from dopr.core.success_rates import to_unit


def success_rate(group: Group, ledger: Ledger) -> float:
    """Mean of the group's rewards in [0, 1], NaN where nothing could be scored."""
    return float(to_unit(group.mean, ledger))


def outcome_variance(group: Group, ledger: Ledger) -> float:
    """Variance of the group's rewards in [0, 1]: p(1-p) for verdicts, 0 where none was scored."""
    scored = to_unit(group.scored, ledger)
    return float(scored.var()) if scored.size else 0.0


def sized(column: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    """The column as it is, or a new one with a row for each of `size` prompts if it is still empty.

    Args:
        column: shape (size, ...) or (0, ...).
        size: prompts in the pool.
        fill: value of a new row.
    """
    if len(column) == size:
        return column
    return np.full((size, *column.shape[1:]), fill, dtype=column.dtype)


def update_posterior(
    counts: NDArray[np.float64], group: Group, ledger: Ledger, decay: float, prior: float = 1.0
) -> None:
    """Add a group's outcomes to its prompt's Beta posterior, in place.

    alpha <- decay alpha + (1 - decay) prior + successes, beta likewise with failures; a reward of
    u in [0, 1] is u of a success. Source: MoPPS [thu-rllab/MoPPS, V].

    Args:
        counts: shape (size, 2), alpha and beta of every prompt.
        group: finished group; a group without a scored rollout changes nothing.
        ledger: scale of the rewards.
        decay: lambda in [0, 1]; 1 forgets nothing.
        prior: alpha and beta of a prompt never visited.
    """
    outcomes = to_unit(group.scored, ledger)
    if not outcomes.size:
        return
    successes = outcomes.sum()
    found = np.array([successes, outcomes.size - successes])
    counts[group.prompt_id] = decay * counts[group.prompt_id] + (1 - decay) * prior + found

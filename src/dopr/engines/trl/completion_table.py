"""TRL's table of completions, put right where TRL could not know what became of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.driver import StepOutcome


def correct_advantages(
    logs: dict[str, Any], outcome: StepOutcome, advantages: list[NDArray[np.float64]]
) -> None:
    """Write the advantages trained with into the rows of this step; 0 for what was not kept.

    Args:
        logs: TRL's `_logs`, whose last rows are this step's generated rollouts.
        outcome: of the step.
        advantages: of all rollouts of each kept group.
    """
    made = [segment for group in outcome.generated for segment in group.handle]
    table = {id(segment): np.zeros(segment.count) for segment in made}
    for group, values in zip(outcome.kept, advantages, strict=True):
        trained = np.zeros(group.num_rollouts)
        chosen = slice(None) if group.kept is None else group.kept
        trained[chosen] = values[chosen]
        first = 0
        for segment in group.handle:
            if id(segment) in table:
                table[id(segment)] = trained[first : first + segment.count]
            first += segment.count
    logged = logs["advantages"]
    flat = np.concatenate([table[id(segment)] for segment in made] or [np.empty(0)])
    for _ in range(min(len(flat), len(logged))):
        logged.pop()
    logged.extend(flat.tolist())


def clear_table(logs: dict[str, Any]) -> None:
    """Empty TRL's `_logs`."""
    for name in ("prompt", "completion", "advantages", "images"):
        logs[name].clear()
    for name in ("rewards", "extra"):
        for column in logs[name].values():
            column.clear()

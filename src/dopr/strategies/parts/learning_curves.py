"""Recorded histories of a pre-run, and what they say about which prompts to train on."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError

Array = NDArray[np.float64]


def load_history(path: str | Path) -> dict[int, Array]:
    """Read a history: prompt index -> mean training accuracy in each epoch, NaN where missing.

    Args:
        path: JSON object, prompt index -> list of numbers; null stands for a missing epoch.

    Raises:
        UserError: the file is missing or of another shape.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no history file {str(path)!r}; give a JSON file of per-epoch accuracies")
    try:
        history = {
            int(prompt): np.array([np.nan if v is None else v for v in values], dtype=float)
            for prompt, values in json.loads(file.read_text()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(path)!r} is not a history: expected a JSON object of prompt index -> list of "
            f"accuracies ({error})"
        ) from None
    for values in history.values():
        values[~np.isfinite(values)] = np.nan
    if not history:
        raise UserError(f"the history {str(path)!r} holds no prompt")
    if not recorded_entries(history):
        raise UserError(f"the history {str(path)!r} holds no accuracy of any prompt")
    if min(history) < 0:
        raise UserError(f"the history {str(path)!r} has prompt {min(history)}; rows start at 0")
    return history


def recorded_entries(history: dict[int, Array]) -> int:
    """Number of accuracies in a history; each stands for one group of rollouts."""
    return int(sum(np.isfinite(values).sum() for values in history.values()))


def as_table(history: dict[int, Array]) -> tuple[NDArray[np.int64], Array]:
    """A history as prompt indices, shape (k,), and accuracies, shape (k, epochs), NaN if missing.

    Prompts come in the order of their index.
    """
    prompts = sorted(history)
    epochs = max(len(values) for values in history.values())
    table = np.full((len(prompts), epochs), np.nan)
    for row, prompt in enumerate(prompts):
        table[row, : len(history[prompt])] = history[prompt]
    return np.array(prompts, dtype=np.int64), table


def deviations(accuracies: Array) -> Array:
    """Standard deviation of each prompt's accuracy over the epochs, NaN where there is none.

    Args:
        accuracies: shape (k, epochs), NaN where missing.

    Source: 1-shot RLVR [2504.20571, V], historical variance score.
    """
    known = np.isfinite(accuracies)
    count = known.sum(1)
    safe = np.maximum(count, 1)
    means = np.where(known, accuracies, 0.0).sum(1) / safe
    squares = np.where(known, np.square(accuracies - means[:, None]), 0.0).sum(1)
    return np.where(count > 0, np.sqrt(squares / safe), np.nan)


def alignment_scores(accuracies: Array) -> Array:
    """How well each prompt's learning curve follows the mean curve; at most 1.

    With r_ik the accuracy of prompt i in epoch k and rbar_k the mean over the prompts,

        s_i = 1 - sum_k (r_ik - rbar_k)^2 / sum_k (1 - rbar_k)^2

    A missing epoch takes the value of the next; a prompt that is still incomplete has no score and
    no part in the mean. Where every prompt is always right, all score 1.

    Args:
        accuracies: in [0, 1], shape (k, epochs), NaN where missing.

    Returns:
        Shape (k,), NaN without a score.

    Source: LIMR [2502.11886; code GAIR-NLP/LIMR, V].
    """
    filled = accuracies.copy()
    filled[:, :-1] = np.where(np.isnan(accuracies[:, :-1]), accuracies[:, 1:], accuracies[:, :-1])
    complete = ~np.isnan(filled).any(1)
    scores = np.full(len(filled), np.nan)
    if not complete.any():
        return scores
    curves = filled[complete]
    mean = curves.mean(0)
    largest = float(np.square(1 - mean).sum())
    distances = np.square(curves - mean).sum(1)
    scores[complete] = 1 - distances / largest if largest > 0 else 1.0
    return scores


def rank_by_history(path: str | Path) -> list[int]:
    """Prompts of a recorded history, highest standard deviation of per-epoch accuracy first.

    Args:
        path: JSON object, prompt index -> list of per-epoch mean training accuracies.

    Raises:
        UserError: the file is missing or of another shape.

    Source: 1-shot RLVR [2504.20571, V], historical variance score.
    """
    prompts, accuracies = as_table(load_history(path))
    return [int(prompts[row]) for row in rank(deviations(accuracies))]


def rank(scores: Array) -> NDArray[np.int64]:
    """Positions from the highest score to the lowest, those without (NaN) last, ties in order."""
    return np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")

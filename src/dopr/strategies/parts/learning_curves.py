"""Recorded histories of a pre-run, and what they say about which prompts to train on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError

Array = NDArray[np.float64]


FILE_KIND = "a JSON object of prompt -> list of per-epoch accuracies"


def read_curves(path: str | Path) -> dict[str, Array]:
    """The history in a JSON file: prompt -> accuracy in each epoch, NaN where it holds null.

    Raises:
        UserError: the file is missing or of another shape.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no history file {str(path)!r}; give {FILE_KIND}")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{str(path)!r} cannot be read as JSON ({' '.join(str(error).split())}); give "
            f"{FILE_KIND}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} is no history; it must be {FILE_KIND}")
    return to_curves(content, path)


def to_curves(content: Mapping[str, Any], path: str | Path) -> dict[str, Array]:
    """Lists of accuracies as arrays, NaN where they hold null.

    Args:
        content: prompt -> list of numbers and nulls.
        path: where it was read, for messages.

    Raises:
        UserError: no prompt, something else than a list, or something in it that is no number.
    """
    if not content:
        raise UserError(f"the history {str(path)!r} holds no prompt")
    return {str(p): _to_curve(p, values, path) for p, values in content.items()}


def _to_curve(prompt: str, values: Any, path: str | Path) -> Array:
    where = f"prompt {prompt!r} of {str(path)!r}"
    if not isinstance(values, list):
        raise UserError(f"{where} has no list of per-epoch accuracies but {str(values)[:40]!r}")
    curve = np.full(len(values), np.nan)
    for epoch, value in enumerate(values):
        if value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UserError(f"{where} has {str(value)[:40]!r} at epoch {epoch}, which is no number")
        try:
            curve[epoch] = value
        except OverflowError:  # a whole number of hundreds of digits
            curve[epoch] = np.inf if value > 0 else -np.inf
    return curve


def load_history(path: str | Path) -> dict[int, Array]:
    """Read the history of a pre-run: row of the pool -> mean training accuracy in each epoch.

    Args:
        path: JSON object, row number -> list of numbers; null and infinities stand for a missing
            epoch and become NaN.

    Raises:
        UserError: the file is missing or of another shape.
    """
    curves = read_curves(path)
    try:
        history = {int(prompt): values for prompt, values in curves.items()}
    except ValueError:
        raise UserError(
            f"{str(path)!r} is not a history of rows: its prompts must be row numbers, from 0 on"
        ) from None
    for values in history.values():
        values[~np.isfinite(values)] = np.nan
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

"""Runs in the child: reasoning-gym's own scorers. Imports nothing from `dopr` (see worker.py)."""

import ast
import importlib
import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

# These scorers call eval() on what the model wrote. Only a literal is ever right, so they get one.
_EVALUATING = ("string_insertion", "spiral_matrix", "binary_matrix", "number_sorting", "n_queens")
# These compare boards with tuples, which JSON has turned into lists.
_BOARDS = ("arc_agi", "rearc")


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], float | None]:
    """The function that scores a request; what it imports is loaded before the first one."""
    warnings.filterwarnings("ignore")
    importlib.import_module("reasoning_gym")  # now, rather than within the first request's limit
    return score


def score(request: dict[str, Any]) -> float | None:
    """reasoning-gym's score of an answer, in [0, 1] and often partial; None for a broken entry.

    Args:
        request: `family`, `config` (JSON of the options that differ from the family's defaults),
            `prediction`, and `entry` (`question`, `answer`, `metadata`).
    """
    entry = request["entry"]
    if request["family"] in _BOARDS:
        for key in ("input", "output"):
            entry["metadata"][key] = _tuples(entry["metadata"][key])
    scorer = _scorer(request["family"], request["config"])
    try:
        return float(scorer.score_answer(answer=request["prediction"], entry=entry))
    except Exception:
        # A scorer may trip over a malformed answer: wrong. If it trips over the reference as well,
        # the entry is broken, and that is for the parent to count.
        scorer.score_answer(answer=entry["answer"], entry=entry)
        return 0.0


@lru_cache(maxsize=256)
def _scorer(family: str, config: str) -> Any:
    import reasoning_gym

    scorer = reasoning_gym.create_dataset(family, **{**json.loads(config), "seed": 0})
    if family in _EVALUATING:
        importlib.import_module(type(scorer).__module__).eval = ast.literal_eval  # type: ignore[attr-defined]
    return scorer


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value

r"""Runs in the child: are two mathematical answers the same? By sympy, and our own comparison.

Imports nothing from `dopr` (see worker.py); its modules import one another relatively.
"""

import logging
from collections.abc import Callable
from typing import Any

from .prose import candidates
from .structure import readable, same_answer


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], float | None]:
    """The function that grades; the parent's time limit is its only one."""
    logging.disable(logging.WARNING)
    same_answer(r"\frac{x}{2}", "3 x")  # loads the grammar now, not within a request's limit
    return grade


def grade(request: dict[str, Any]) -> float | None:
    """1.0 where the prediction is one of the references, 0.0 where not, None if none is readable.

    Args:
        request: `golds`, the accepted answers; `prediction`, an answer or, where `whole` is true, a
            completion in which no answer is marked.
    """
    golds = [gold for gold in request["golds"] if readable(gold)]
    if not golds:
        return None
    prediction = request["prediction"]
    answers = candidates(prediction) if request["whole"] else [prediction]
    if any(same_answer(gold, answer) for gold in golds for answer in answers):
        return 1.0
    if request["whole"]:
        return 0.0
    # An answer may be a sentence.
    return float(any(same_answer(g, a) for g in golds for a in candidates(prediction, marked=True)))

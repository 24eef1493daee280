r"""Runs in the child: are two mathematical answers the same? By sympy, and our own comparison.

Imports nothing from `dopr` (see worker.py); its modules import one another relatively.
"""

import logging
from collections.abc import Callable
from typing import Any

from .prose import Reading, candidates
from .structure import readable, same_answer
from .written import is_finished, is_unfinished, repeats


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], float | None]:
    """The function that grades; the parent's time limit is its only one."""
    logging.disable(logging.WARNING)
    same_answer(r"\frac{x}{2}", "3 x")  # loads the grammar now, not within a request's limit
    return grade


def grade(request: dict[str, Any]) -> float | None:
    """1.0 where the prediction is one of the references, 0.0 where not, None if none is readable.

    Args:
        request: `golds`, the accepted answers; `prediction`, an answer or, where `whole` is true, a
            completion in which no answer is marked; `question`, the prompt.
    """
    golds = [gold for gold in request["golds"] if readable(gold)]
    if not golds:
        return None
    prediction = request["prediction"]
    question = request.get("question", "")
    answers = candidates(prediction) if request["whole"] else [Reading(prediction, True)]
    if _any_right(golds, answers, question):
        return 1.0
    if request["whole"]:
        return 0.0
    # An answer may be a sentence.
    return float(_any_right(golds, candidates(prediction, marked=True), question))


def _any_right(golds: list[str], answers: list[Reading], question: str) -> bool:
    return any(_is_right(gold, answer, question) for gold in golds for answer in answers)


def _is_right(gold: str, answer: Reading, question: str) -> bool:
    """Whether an answer is the reference's and says it; what merely came last must be a result."""
    if not same_answer(gold, answer.text) or repeats(question, gold, answer.text):
        return False
    return answer.told or not (is_finished(gold) and is_unfinished(answer.text))

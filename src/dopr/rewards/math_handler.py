r"""Runs in the child: are two mathematical answers the same? By math-verify and sympy.

Imports nothing from `dopr` (see worker.py).
"""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

# The order within a completion that has no marker: a box first, then the last formula or number.
_CONFIG = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textrm|textit|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|~")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!)(?=\d{3}(?!\d))")
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER_WITH_WORDS = re.compile(r"(\\?\$?-?\d[\d,]*(?:\.\d+)?)\s+[A-Za-z][A-Za-z ]*\.?")
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)")
_BARE_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)")
_BARE_NAME = re.compile(r"(?<![\\A-Za-z])(pi|infty|theta|sin|cos|tan|log|ln)(?![A-Za-z])")
_LETTER_CHOICE = re.compile(r"\(?([A-Za-z])\)?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]+(?: [A-Za-z'-]+)*")


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], float | None]:
    """The function that grades a request."""
    # Signal-based limits are off on purpose: they turn a timeout into "not equal" without a word.
    # The parent's limit stops this whole process instead, and is counted.
    logging.disable(logging.WARNING)
    return grade


def grade(request: dict[str, Any]) -> float | None:
    """1.0 where prediction and gold are equal, 0.0 where not, None where the gold is unreadable.

    Args:
        request: `gold`, an answer; `prediction`, an answer or, where `whole` is true, a completion
            in which no answer is marked.
    """
    gold, prediction, whole = request["gold"], request["prediction"], request["whole"]
    if whole:
        return _grade(_COMMA.sub("", gold), prediction, whole) or _grade(gold, prediction, whole)
    # "12,102" is one number or two; equal in either reading is equal.
    verdict = _grade(_COMMA.sub("", gold), _COMMA.sub("", prediction), whole)
    if verdict != 1.0 and (_COMMA.search(gold) or _COMMA.search(prediction)):
        return _grade(_COMMA.sub(", ", gold), _COMMA.sub(", ", prediction), whole)
    return verdict


def _grade(gold: str, prediction: str, whole: bool) -> float | None:
    if not whole:
        gold_form, form = canonical(gold), canonical(prediction)
        if gold_form == form:
            return 1.0
        if is_text(gold):
            return float(gold_form.lower() == form.lower())
    gold_parsed = _parse_answer(gold)
    if not gold_parsed:
        return None
    parsed = _parse_whole(prediction) if whole else _parse_answer(prediction)
    if not parsed:
        return 0.0
    return float(verify(list(gold_parsed), list(parsed), timeout_seconds=None))


def canonical(text: str) -> str:
    """The answer without what does not change its meaning: dollars, spacing, `\\text{}`, commas."""
    text = _TEXT_COMMAND.sub(r" \1 ", text.replace("\\$", "").replace("$", ""))
    text = _THOUSANDS.sub("", text)
    text = _DEGREES.sub("", _SPACING.sub(" ", text))
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\s+", "", text).rstrip(".")
    choice = _LETTER_CHOICE.fullmatch(text)
    return choice[1] if choice else text


def is_text(answer: str) -> bool:
    r"""Whether the answer is a word or a choice, `\text{east}` or `(C)`, and no formula."""
    bare = answer.strip().strip("$").strip()
    unwrapped = _TEXT_COMMAND.sub(r"\1", bare).strip().rstrip(".")
    if unwrapped != bare:
        return not any(character.isdigit() for character in unwrapped) and "\\" not in unwrapped
    return bool(_WORDS.fullmatch(unwrapped) and len(unwrapped) > 3) or bool(
        re.fullmatch(r"\([A-Z]\)", unwrapped)
    )


def _as_latex(answer: str) -> str:
    """Plain-text mathematics as LaTeX, and a number without the words after it."""
    answer = answer.strip().strip("*").strip()
    number = _NUMBER_WITH_WORDS.fullmatch(answer)
    if number:
        answer = number[1]
    answer = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", answer.replace("**", "^"))
    answer = _BARE_ROOT.sub(r"\\sqrt{\1}", answer)
    return _BARE_NAME.sub(r"\\\1 ", answer)


@lru_cache(maxsize=4096)
def _parse_answer(answer: str) -> tuple[Any, ...]:
    cleaned = _THOUSANDS.sub("", _as_latex(answer))
    if "$" not in cleaned.replace("\\$", "") and "\\(" not in cleaned and "\\[" not in cleaned:
        cleaned = f"${cleaned}$"
    return tuple(parse(cleaned, _CONFIG, parsing_timeout=None))


def _parse_whole(completion: str) -> tuple[Any, ...]:
    return tuple(parse(completion, _CONFIG, parsing_timeout=None))

r"""Where the answer is in a text that does not mark it: after `the answer is`, else at the end.

A number keeps what follows it (`2 million`, `2x`, `5 percent`), for that is part of its value.

Imports nothing from `dopr` (see worker.py).
"""

import re
from dataclasses import dataclass

from .text import word_set
from .units import is_connector, is_telling

_ANCHOR = re.compile(r"\banswers?\b[^\n.:=$]{0,60}?(?:\b(?:is|are|was|be)\b|[:=])[ \t:]*", re.I)
_FORMULA = re.compile(
    r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\d])\$([^$\n]+?)(?<!\\)\$",
    re.S,
)
_JOINED = re.compile(r"\s*(?:,?\s*(?:and|or)|,)\s*")
_NUMBER = re.compile(
    r"(?:(?<=^)|(?<=[\s=(\[:*\"'~>]))"
    r"[-+]?\s?(?:\\?\$|[€£¥])?\s?-?(?:\\frac\s*\{[^{}]*\}\{[^{}]*\}|(?:\d[\d,]*)?\.?\d+(?:/\d+)?)"
    r"(?:\s*(?:\*\*|[-+*/^×·:−÷⋅∙•∕＋＊⨯✕])\s*\(?-?\d+(?:\.\d+)?\)?|\^\{-?\d+\})*(?![\^_{])"
    r"(?:\s*\\?%|\s?\\(?:pi(?![a-z])|sqrt\s*\{[^{}]*\})|[A-Za-z°]+(?:\^\{?\d+\}?)?|\s\s?(?:pi|π|√\d+|[xyzn](?![A-Za-z]|\s*[\d(])))?"
    r"(?P<words>(?:\s+[A-Za-z][A-Za-z.']*){0,4})"
)
# Of the words after a number those that tell something of it; the next sentence is another thing.
_JOINING = word_set("over plus minus divided multiplied factorial squared cubed mod modulo choose")
# What joins two numbers of a text to one thing, of which neither is the answer: `10 and 5`,
# `1 times 7`. After a comma another clause may begin: `in 2021, 88 people`.
_ONE_THING = re.compile(
    r"\s*(?:(?P<comma>,)|,?\s*(?:and|or|&|plus|minus|times|mod|modulo|over|[xX]"
    r"|multiplied by|divided by|to the power of|[-+*/×·−÷⋅∙•∕＋＊⨯✕]"
    r"|\\(?:times|cdot|ast|div|pm|b?mod)))\s+(?:the\s+)?"
)
_CLAUSE = re.compile(r"\s+(?!(?:is|are|we|you|can|has|have|by|in|as|which|then|using)\b)[a-z]")
_END = re.compile(r"[.!?](?=\s+[A-Z$\\*]|\s*$)|\n")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@dataclass(frozen=True)
class Reading:
    """What a text may give as its answer.

    Attributes:
        text: the answer.
        told: whether the text says that it is the answer; else it is what came last.
    """

    text: str
    told: bool


def candidates(text: str, marked: bool = False) -> list[Reading]:
    """What a text may give as its answer: a few readings of one place.

    Args:
        text: a completion; or, where `marked`, an answer that may be a sentence.
    """
    if marked and len(_WORD.findall(re.sub(r"\\text\{[^{}]*\}", "", text))) < 2:
        return []
    found: list[str] = []
    last: list[str] = []
    anchors = list(_ANCHOR.finditer(text))
    if anchors:
        rest = text[anchors[-1].end() :].lstrip(" \t\n*:")
        phrase = rest[: _sentence_end(rest)].strip(" \t*")
        found = [phrase, *_first(phrase)]
    if len(found) < 2:  # no formula and no number there
        last = _last(text)
    told = [Reading(each, True) for each in found]
    return list(dict.fromkeys(r for r in [*told, *(Reading(e, marked) for e in last)] if r.text))


def _sentence_end(text: str) -> int:
    """Where the first sentence ends, outside of formulas."""
    formulas = [match.span() for match in _FORMULA.finditer(text) if not _is_prose(match)]
    for match in _END.finditer(text):
        if not any(start < match.start() < end - 1 for start, end in formulas):
            return match.start()
    return len(text)


def _first(text: str) -> list[str]:
    """The first formula, else the first number."""
    formulas, numbers = _find(text)
    if formulas:
        end = 1
        while end < len(formulas) and _JOINED.fullmatch(
            text[formulas[end - 1].end() : formulas[end].start()]
        ):
            end += 1
        return _together(text, formulas[:end])
    return [_number(numbers[0])] if numbers else []


def _last(text: str) -> list[str]:
    """The formula or number that ends last."""
    formulas, numbers = _find(text)
    if formulas and (not numbers or formulas[-1].end() > numbers[-1].end()):
        start = len(formulas) - 1
        while start > 0:
            between = text[formulas[start - 1].end() : formulas[start].start()]
            if not (_JOINED.fullmatch(between) or _ONE_THING.fullmatch(between)):
                break
            start -= 1
        return _together(text, formulas[start:])
    return [_ending(text, numbers)] if numbers else []


def _ending(text: str, numbers: "list[re.Match[str]]") -> str:
    """The last number, with those that it is joined to."""
    last = len(numbers) - 1
    start = last
    while start > 0:
        joint = _ONE_THING.fullmatch(
            text, numbers[start - 1].start("words"), numbers[start].start()
        )
        if not joint or (joint["comma"] and _CLAUSE.match(text, numbers[last].start("words"))):
            break
        start -= 1
    return text[numbers[start].start() : numbers[last].start()] + _number(numbers[last])


def _find(text: str) -> "tuple[list[re.Match[str]], list[re.Match[str]]]":
    """The formulas of a text, and the numbers outside of them."""
    formulas = [match for match in _FORMULA.finditer(text) if not _is_prose(match)]
    inside = [match.span() for match in formulas]
    numbers = [
        match
        for match in _NUMBER.finditer(text)
        if not any(start <= match.start() < end for start, end in inside)
    ]
    return formulas, numbers


def _together(text: str, formulas: "list[re.Match[str]]") -> list[str]:
    """Formulas that only a comma or `and` separates as one list; of equations the last as well."""
    content = [next(g for g in match.groups() if g is not None) for match in formulas]
    after = re.match(r"\s*(?:\\?%|percent\b|per cent\b)", text[formulas[-1].end() :])
    content[-1] += after[0] if after else ""
    joined = ", ".join(content)
    return [joined, content[-1]] if "=" in joined else [joined]


def _number(match: "re.Match[str]") -> str:
    words: list[str] = []
    for word in match["words"].split():
        known = is_telling(word) or word in _JOINING
        if not known and not (words and is_connector(word)):
            break
        words.append(word)
        if word.endswith("."):
            break
    while words and is_connector(words[-1]):
        words.pop()
    return " ".join([match[0][: match.start("words") - match.start()].strip(), *words])


def _is_prose(match: "re.Match[str]") -> bool:
    """Whether what stands between two dollars is no formula: `$5 and she has $`."""
    content = re.sub(r"\\text\s*\{[^{}]*\}", "", next(g for g in match.groups() if g is not None))
    words = [word for word in _WORD.findall(content) if len(word) > 2]
    return len(words) > 1

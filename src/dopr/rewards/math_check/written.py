r"""Whether an answer says a value, or only what is to be worked out: `88`, and not `38 + 50`.

The question itself has the reference's value: a policy that is paid for it learns to repeat it. So
what counts is how a value is written. Text alone is looked at, nothing is evaluated.

Imports nothing from `dopr` (see worker.py).
"""

import re
from functools import lru_cache
from math import gcd

from .text import TEXT, group, is_choice, is_text, joined_thousands, split, tidy, without_thousands
from .units import quantity

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[-+]?{_DECIMAL}"
_WHOLE = r"[-+]?(?:\d+|\{[-+]?\d+\}|\([-+]?\d+\))"
_RAISED = r"(?:\^|\*\*)"
_TIMES = r"(?:\*|\\(?:times|cdot|ast))"
_FRACTION = (
    rf"[-+]?(?:\\frac(?:\{{{_SIGNED}\}}|\d) ?(?:\{{{_SIGNED}\}}|\d)"
    rf"|\(?{_DECIMAL}\)?/\(?{_SIGNED}\)?)"
)
# Numbers written out: decimal, repeating, mixed, times a power of ten; fractions are above.
_LITERAL = re.compile(
    rf"{_SIGNED}(?:\\ldots)?|{_SIGNED}[eE][-+]?\d+|[-+]?\d*\.\d*\\(?:overline|bar|dot)\{{?\d+\}}?"
    rf"|[-+]?\d+(?: \d+/\d+|\\frac(?:\{{\d+\}}|\d) ?(?:\{{\d+\}}|\d))"
    rf"|{_SIGNED}{_TIMES}10{_RAISED}{_WHOLE}"
)
_SIMPLE_FRACTION = re.compile(_FRACTION)
_POWER = (
    rf"(?:{_DECIMAL}|\({_SIGNED}\)|\({_FRACTION}\)){_RAISED}"
    rf"(?:{_WHOLE}|\d|\{{{_FRACTION}\}}|\({_FRACTION}\))"
)
_POWERS = re.compile(
    rf"[-+]?(?:{_POWER}"
    rf"|\\frac(?:\{{(?:{_SIGNED}|{_POWER})\}}|\d)(?:\{{(?:{_SIGNED}|{_POWER})\}}|\d)"
    rf"|(?:{_DECIMAL}|{_POWER})/(?:{_DECIMAL}|{_POWER})|\d+!)"
)
_ROOTED = re.compile(r"[\^*][({][^(){}]*(?:/|\\frac)")  # a power that is a root
_ROOT = re.compile(
    rf"[-+]?(?:\\sqrt(?:\[\d+\])?(?:\{{(?:{_SIGNED}|{_FRACTION})\}}|\d)"
    rf"|\\?(?:sqrt|cbrt)\((?:{_SIGNED}|{_FRACTION})\)|\\sqrt\d+)"
)
_BRACKETS = 5  # around a number, that many are looked through
_ORNAMENT = re.compile(r"\\(?:underline|bm|boldsymbol|color\{\w+\}|textcolor\{\w+\})|\\ ")
# What asks for work. A family that the reference uses itself is no question.
_ANYWHERE = (
    r"\\i*int(?![a-z])",
    r"\\sum(?![a-z])",
    r"\\prod(?![a-z])",
    r"\\lim(?![a-z])",
    r"\\frac\s*\{\s*(?:d|\\partial)[^{}]*\}\s*\{\s*(?:d|\\partial)\s*[a-z]",
    r"gcd|lcm|GCD|LCM",
    r"\\det(?![a-z])|\\begin\{vmatrix",
)
# Of letters these are answers: `log_2 n`, `max(a, b)`. Of numbers they are to be worked out.
_OF_NUMBERS = (
    r"\\?(?<![A-Za-z])(?:log|ln|lg)(?![a-z])",
    r"\\?(?<![A-Za-z])(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])",
    r"\\?(?<![A-Za-z])(?:max|min|bmod|pmod|mod)(?![a-z])",
    r"\\l(?:floor|ceil)(?![a-z])",
    r"\\d?t?binom(?![a-z])|\\choose(?![a-z])",
)
_INEQUALITY = re.compile(r"<|>|\\(?:le|ge|neq)(?![A-Za-z])")
_EITHER = re.compile(
    r"\\text\{\s*(?:or|and|,)?\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])|;|\\(?:lor|land)(?![a-z])"
)
_BARE = re.compile(r"\\?[A-Za-z]+(?:_\w+)?(?:\([A-Za-z]\))?")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_EXACT = re.compile(r"\\(?:sqrt|pi)(?![a-z])")
_ROUNDED = re.compile(r"-?\d*\.\d{4,}")


def _compact(text: str) -> str:
    """One spelling of a value's form: no blanks but between digits, no ornaments, no brackets."""
    text = _ORNAMENT.sub("", joined_thousands(text))
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", TEXT.sub(r"\1", text))
    for _ in range(_BRACKETS):
        bare = text[1:] if text[:1] in ("+", "-") else text
        held = group(bare)
        if held is None or held[0] not in ("(", "[", "{"):
            break
        text = text[: len(text) - len(bare)] + held[1]
    return text


def _is_number(form: str) -> bool:
    return bool(_LITERAL.fullmatch(form) or _SIMPLE_FRACTION.fullmatch(form))


def is_question(gold: str, answer: str) -> bool:
    r"""Whether an answer leaves to be worked out what the reference has worked out.

    Where the reference is a number (a decimal, fraction or power), a number, power, factorial or
    root is an answer and nothing else is: no sum, no product, no function. Where it is a formula,
    an answer may not have what the reference is the result of (`\int`, `\sum`, `\lim`, `\gcd`, of
    numbers also logarithms, angles' functions, the largest, the remainder and the like).

    Args:
        gold: the value of the reference, without its unit, tidied.
        answer: that of the answer, without its unit and without `million` and the like.
    """
    wanted, found = _compact(gold), _compact(answer)
    if wanted == found:
        return False
    if _is_number(wanted) or (_POWERS.fullmatch(wanted) and not _ROOTED.search(wanted)):
        if _is_number(found) or _POWERS.fullmatch(found) or _ROOT.fullmatch(found):
            return False
        if not (_ROUNDED.fullmatch(wanted) and _EXACT.search(found)):
            return True  # else it may be exact where the reference is rounded
    families = _ANYWHERE if _LETTER.search(wanted) else (*_ANYWHERE, *_OF_NUMBERS)
    return any(re.search(f, found) and not re.search(f, wanted) for f in families)


def is_finished(text: str) -> bool:
    """Whether a text is a number that nothing is left to do with: no power, no `36/2`."""
    form = _compact(quantity(without_thousands(tidy(text))).number)
    if not _is_number(form):
        return False
    if re.search(r"\\frac|/", form) and not _LITERAL.fullmatch(form):
        return _is_reduced(form)
    return True


def _is_reduced(fraction: str) -> bool:
    if not _SIMPLE_FRACTION.fullmatch(fraction):
        return False
    parts = re.findall(_DECIMAL, fraction)
    if len(parts) == 1 and len(parts[0]) == 2:  # \frac12
        parts = list(parts[0])
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return False
    above, below = int(parts[0]), int(parts[1])
    return below > 1 and gcd(above, below) == 1


def is_unfinished(answer: str) -> bool:
    r"""Whether an answer is a number with something left to do: `2^{10}`, `5!`, `36/2`."""
    last = without_thousands(tidy(answer)).rpartition("=")[2]
    for item in split(last):
        form = _compact(quantity(item).number)
        worth = _POWERS.fullmatch(form) or _ROOT.fullmatch(form) or _is_number(form)
        if worth and not _LITERAL.fullmatch(form) and not _is_reduced(form):
            return True
    return False


def is_solved(relation: str) -> bool:
    """Whether an inequality has one name alone on a side: `x < 3`, `|x| < 3`, not `2x < 6`."""
    for part in _EITHER.sub(",", relation).split(","):
        if not _INEQUALITY.search(part):
            continue
        sides = _INEQUALITY.split(re.sub(r"\\(?:infty|[lr]?vert)(?![A-Za-z])|[\s{}]", " ", part))
        sides = [side.strip(" |") for side in sides]
        names = [side for side in sides if _BARE.fullmatch(side)]
        if not any(sum(_has(side, name) for side in sides) == 1 for name in names):
            return False
    return True


def _has(side: str, name: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", side))


def repeats(question: str, gold: str, answer: str) -> bool:
    """Whether an answer is a formula that the question has as it stands, and the reference is not.

    `(x+1)^2 - x^2` is worth `2x + 1` and is what was to be simplified. A number is no formula, for
    what is asked may be one of the numbers given.

    Args:
        question: the prompt; blank where it is not known.
        gold: the reference.
        answer: an answer of its value.
    """
    if not question.strip() or is_finished(answer) or is_text(tidy(gold)) or is_choice(tidy(gold)):
        return False
    wanted, found, asked = _spelled(gold), _spelled(answer), _spelled(question)
    if wanted == found or any(_stands_in(asked, each) for each in _with_its_side(wanted)):
        return False
    formulas = [each for each in _with_its_side(found) if re.search(r"[\d\\+*/^=<>!-]", each)]
    return any(_stands_in(asked, each) for each in formulas)


def _with_its_side(text: str) -> list[str]:
    """A text, and of `f(x) = 2x` the right side."""
    name, equals, side = text.rpartition("=")
    return [text, side] if equals and side and _BARE.fullmatch(name) else [text]


def _stands_in(text: str, formula: str) -> bool:
    """Whether a text has a formula, not as a part of a longer one."""
    before, after = r"(?<![\w+*/^(\[|\\.-])", r"(?![\w+*/^!%)\](-]|\.\d)"
    return bool(re.search(before + re.escape(formula) + after, text))


@lru_cache(maxsize=256)
def _spelled(text: str) -> str:
    """A text with its formulas in one spelling, as far as they are compared letter for letter."""
    text = TEXT.sub(r" \1 ", tidy(text))
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}|\\frac\s*(\d)\s*(\d)", _over, text)
    text = re.sub(r"\\(?:times|cdot|ast)(?![A-Za-z])", "*", text.replace("**", "^"))
    text = re.sub(r"\\div(?![A-Za-z])", "/", text)
    text = re.sub(r"\{(\w+)\}", r"\1", text)
    return re.sub(r"\s*([-+*/^=<>!,])\s*", r"\1", text)


def _over(match: "re.Match[str]") -> str:
    above, below = (part for part in match.groups() if part is not None)
    if re.fullmatch(r"\w+", above) and re.fullmatch(r"\w+", below):
        return f"{above}/{below}"
    return match[0].replace(" ", "")

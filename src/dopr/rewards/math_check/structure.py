r"""Whether two answers are the same: lists, points, intervals, equations, and values within them.

Answers are taken apart as text and only their items are read as formulas, so that what is wrong in
one item cannot be hidden by the others.

Imports nothing from `dopr` (see worker.py).
"""

import re

from . import values, written
from .text import (
    canonical,
    fold_case,
    group,
    is_choice,
    is_text,
    readings,
    same_text,
    split,
    split_at,
    tidy,
)
from .units import Quantity, quantity, units_agree

_REGION = re.compile(
    r"<|>|\\(?:le|ge|neq|in|cup|cap|setminus|backslash|infty|emptyset|varnothing)(?![A-Za-z])"
    r"|\\mathbb"
)
_INEQUALITY = re.compile(r"<|>|\\(?:le|ge|neq)(?![A-Za-z])")
_MEMBER = re.compile(r"\s*(?:[A-Za-z](?:_\{?\w+\}?)?|\([A-Za-z, ]+\))\s*\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\mid|\||:)\s*(.*)\\\}")
_IN_BASE = re.compile(r"(-?(?=[A-F]*\d)[0-9A-F]+)_\s*\{?\s*(?:\\text\{)?(\d+)\}*")
# A name of one thing, which may be left out with its equals sign.
_NAME = re.compile(
    r"(?:\\text\{[^{}]*\}|\\?[A-Za-z]+'*|[|{}\s]|_\{?[\w\\, ]+\}?|\^\{?[\w*]+\}?|\([^()=<>]*\))+"
)
_ONE_NAME = re.compile(r"\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\(-?\w+\))?")  # no product: `x`, `f(5)`
_EQUALS_ZERO = re.compile(r"(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*([-+])\s*([^-+=]+)")
_UNKNOWN = re.compile(r"(?<![\\A-Za-z])(?![ei](?![A-Za-z]))[A-Za-z]")  # any letter but e and i
_APPLIED = re.compile(r"(\\?[A-Za-z]+'*)\s*\(\s*([A-Za-z])\s*\)")
_PAIRS = {("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\langle", r"\rangle")}
_SETS = {(r"\{", r"\}"), ("{", "}")}


def same_answer(gold: str, answer: str) -> bool:
    """Whether an answer is the reference, or says the same.

    Args:
        gold: the reference.
        answer: what was answered, without the text around it.
    """
    wanted, found = tidy(gold), tidy(answer)
    try:
        return bool(found) and _same_tidied(wanted, found)
    except RecursionError:  # brackets in brackets, thousands deep
        return False


def _same_tidied(wanted: str, found: str) -> bool:
    if canonical(wanted) == canonical(found):
        return True
    if is_text(wanted):
        return same_text(wanted, found)
    if is_choice(wanted) and same_text(wanted, found):
        return True
    bases = _in_bases(wanted, found)
    if bases is not None:
        return bases
    wanted, found = fold_case(wanted, found)
    first, second = readings(wanted), readings(found)
    if len(first) == len(second) == 1:
        return _same(first[0], second[0])
    # "12,102" is one number or two; equal in either reading is equal.
    return _same(first[0], second[0]) or _same(first[-1], second[-1])


def readable(gold: str) -> bool:
    """Whether a reference is a text, or something in it can be read as a formula."""
    wanted = tidy(gold)
    return bool(wanted) and (is_text(wanted) or bool(canonical(wanted)))


def _same(gold: str, answer: str) -> bool:
    gold, answer = (
        _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text for text in (gold, answer)
    )
    if canonical(gold) == canonical(answer):
        return True
    if _REGION.search(gold) or _REGION.search(answer):
        verdict = _same_region(gold, answer)
        if verdict is not None:
            return verdict
    first, second = _items(gold), _items(answer)
    if len(first) == len(second) == 1:
        return _same_item(first[0], second[0])
    if len(first) == 1 or len(second) == 1:
        return _list_in_brackets(first, second)
    return _same_items(first, second)


def _items(text: str) -> list[str]:
    r"""The items of a list, `\pm` written out."""
    items = []
    for item in split(text):
        if re.search(r"\\(?:pm|mp)(?![A-Za-z])", item) and not group(item):
            items += [_signed(item, "+", "-"), _signed(item, "-", "+")]
        else:
            items.append(item)
    return items


def _signed(item: str, pm: str, mp: str) -> str:
    item = re.sub(r"\\pm(?![A-Za-z])", pm, item)
    return re.sub(r"\\mp(?![A-Za-z])", mp, item).lstrip("+ ")


def _same_items(gold: list[str], answer: list[str]) -> bool:
    """Whether each item of one list is an item of the other, in any order."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for item in gold:
        match = next((other for other in left if _same(item, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _in_order(gold: list[str], answer: list[str]) -> bool:
    return len(gold) == len(answer) and all(map(_same, gold, answer))


def _list_in_brackets(gold: list[str], answer: list[str]) -> bool:
    r"""`1, 2` against `(1, 2)` or `\{1, 2\}`."""
    alone, several = (gold, answer) if len(gold) == 1 else (answer, gold)
    # Of `n = (1, 2)` the brackets, and of `n = 1, 2` the list.
    held = group(_right_side(alone[0]))
    if held is None:
        return False
    opening, content, end = held
    inside = _items(content)
    pair = (inside, several) if alone is gold else (several, inside)
    if (opening, end) in _SETS:
        return _same_items(*pair)
    return (opening, end) == ("(", ")") and _in_order(*pair)


def _right_side(text: str) -> str:
    sides = _sides(text)
    return sides[-1] if len(sides) > 1 and _NAME.fullmatch(sides[0]) else text


def _same_item(gold: str, answer: str) -> bool:
    """Whether two items without a comma outside of brackets are the same."""
    if canonical(gold) == canonical(answer):
        return True
    if is_text(gold):
        return same_text(gold, answer)
    first, second = _sides(gold), _sides(answer)
    if len(first) > 1 or len(second) > 1:
        return _same_equation(gold, answer, first, second)
    brackets, others = group(gold), group(answer)
    if brackets or others:
        verdict = _same_brackets(brackets, others, gold, answer)
        if verdict is not None:
            return verdict
    for compare in (_in_bases, _as_ratios):
        verdict = compare(gold, answer)
        if verdict is not None:
            return verdict
    wanted, found = quantity(gold), quantity(answer)
    if written.is_question(wanted.number, found.number):
        return False
    return units_agree(wanted, found) and _same_quantity(wanted, found)


def _same_brackets(
    gold: tuple[str, str, str] | None,
    answer: tuple[str, str, str] | None,
    gold_text: str,
    answer_text: str,
) -> bool | None:
    """The verdict on points, intervals and sets; None where these are brackets of a formula."""
    inner = [None if b is None else _items(b[1]) for b in (gold, answer)]
    if gold and answer and inner[0] and inner[1] and max(map(len, filter(None, inner))) > 1:
        kinds = (gold[0], gold[2]), (answer[0], answer[2])
        if kinds[0] in _SETS and kinds[1] in _SETS:
            return _same_items(inner[0], inner[1])
        if kinds[0] in _PAIRS and kinds[1] in _PAIRS:
            alike = (
                kinds[0] == kinds[1] or len(inner[0]) > 2 or r"\langle" in (*kinds[0], *kinds[1])
            )
            return alike and _in_order(inner[0], inner[1])
        return False
    for place, (brackets, text) in enumerate(((gold, gold_text), (answer, answer_text))):
        if brackets and inner[place] and len(inner[place] or []) == 1:
            if (brackets[0], brackets[2]) in ({("(", ")")} | _SETS):
                unwrapped = [gold_text, answer_text]
                unwrapped[place] = brackets[1]
                return _same(*unwrapped)
        elif brackets and len(inner[place] or []) > 1:
            other = answer_text if place == 0 else gold_text
            return None if other.lstrip().startswith("\\begin") or "\\{" in text else False
    return None


def _sides(text: str) -> list[str]:
    """The sides of an equation."""
    return [side for side in split_at(text, ("=",)) if side] if "=" in text else [text]


def _same_equation(gold: str, answer: str, first: list[str], second: list[str]) -> bool:
    """`x = 5` against `5`, `5 = x` and `x - 5 = 0`; `2x = 10` is still to be solved."""
    if len(first) == 1:
        # An equation is not its right side, but a sum is its value: `m + n = 7`.
        if re.fullmatch(r"0(?:\.0*)?", second[-1]) and not _NAME.fullmatch(second[0]):
            return False
        return _same(gold, second[-1])
    if len(second) == 1:
        return bool(_NAME.fullmatch(first[0])) and _same(first[-1], answer)
    if _NAME.fullmatch(first[0]) and _NAME.fullmatch(second[0]):
        renamed = _with_its_argument(first[0], second)
        if canonical(first[0]).lower() == canonical(renamed[0]).lower():
            return _same(first[-1], renamed[-1])
    if _ONE_NAME.fullmatch(first[0]) and not _UNKNOWN.search(first[-1]):
        read = _read_off(second)
        return (
            read is not None
            and canonical(first[0]).lower() == canonical(read[0]).lower()
            and _same(first[-1], read[1])
        )
    if len(first) == len(second) == 2:
        return values.same_relation(values.parse(gold), values.parse(answer))
    return False


def _read_off(sides: list[str]) -> tuple[str, str] | None:
    """The name and the value that `5 = x` or `x - 5 = 0` says; None where it has to be solved."""
    if _ONE_NAME.fullmatch(sides[-1]):
        return sides[-1], sides[0]
    zero = _EQUALS_ZERO.fullmatch(sides[0])
    if zero is None or len(sides) != 2 or sides[1] != "0" or _UNKNOWN.search(zero[3]):
        return None
    return zero[1], zero[3] if zero[2] == "-" else f"-{zero[3]}"


def _with_its_argument(name: str, sides: list[str]) -> list[str]:
    """The sides of `f(t) = 2t` in the letter that the reference's `f(x)` has."""
    wanted, found = _APPLIED.fullmatch(name.strip()), _APPLIED.fullmatch(sides[0].strip())
    if not wanted or not found or wanted[2] == found[2]:
        return sides
    letter = re.compile(rf"(?<![A-Za-z\\]){found[2]}(?![A-Za-z])|(?<=\d){found[2]}(?![A-Za-z])")
    return [letter.sub(wanted[2], side) for side in sides]


def _in_bases(gold: str, answer: str) -> bool | None:
    """The verdict on numbers in a base, which may be left out but not be another one."""
    wanted, found = (_IN_BASE.fullmatch(re.sub(r"\s+", "", text)) for text in (gold, answer))
    if not wanted and not found:
        return None
    digits = [m[1] if m else re.sub(r"\s+", "", t) for m, t in ((wanted, gold), (found, answer))]
    if wanted and found and wanted[2] != found[2]:
        return False
    return digits[0].lstrip("0") == digits[1].lstrip("0")


def _as_ratios(gold: str, answer: str) -> bool | None:
    """The verdict on `1:2` and `12:30`; None where neither is a ratio."""
    wanted, found = (quantity(text) for text in (gold, answer))
    first, second = (split_at(q.value, (":",)) for q in (wanted, found))
    if len(first) == len(second) == 1:
        return None
    if not units_agree(wanted, found):
        return False
    if len(first) == len(second):
        if all(map(_same, first, second)):
            return True
        clock = any(re.fullmatch(r"0\d", part) for part in first + second)
        return not clock and _proportional(first, second)
    if 1 in (len(first), len(second)) and 2 in (len(first), len(second)):
        sides = [p[0] if len(p) == 1 else rf"\frac{{{p[0]}}}{{{p[1]}}}" for p in (first, second)]
        return _same(*sides)
    return False


def _proportional(first: list[str], second: list[str]) -> bool:
    fractions = [
        [rf"\frac{{{part}}}{{{parts[0]}}}" for part in parts[1:]] for parts in (first, second)
    ]
    return all(_same_quantity(Quantity(a), Quantity(b)) for a, b in zip(*fractions, strict=True))


def _same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Whether two values are equal; of two percent signs one may be left out, or divided out."""
    if _same_formula(gold.value, answer.value):
        return True
    if gold.percent == answer.percent:
        return False
    percent, plain = (gold, answer) if gold.percent else (answer, gold)
    return _same_formula(rf"({percent.value}) \cdot 10^{{-2}}", plain.value)


def _same_formula(gold: str, answer: str) -> bool:
    wanted, found = values.parse(gold), values.parse(answer)
    if wanted is None or found is None:
        return False
    if values.same_value(wanted, found):
        return True
    for decimal, exact in ((answer, wanted), (gold, found)):
        text = decimal.replace(" ", "")
        if values.DECIMAL.fullmatch(text) and getattr(exact, "is_number", False):
            return values.is_rounding(text, exact)
    return values.same_relation(wanted, found)


def _same_region(gold: str, answer: str) -> bool | None:
    """The verdict on intervals and inequalities; None where one of them is something else."""
    if not (_INEQUALITY.search(gold) or _INEQUALITY.search(answer)) and len(split(gold)) > 1:
        return None
    if _is_solved(gold) and not _is_solved(answer):
        return False
    wanted, found = _region(gold), _region(answer)
    if wanted is None or found is None:
        return None
    if wanted[1] is not None and found[1] is not None and wanted[1] != found[1]:
        return False
    return values.same_value(wanted[0], found[0])


def _is_solved(text: str) -> bool:
    builder = _BUILDER.fullmatch(text)
    return written.is_solved(builder[1] if builder else text)


def _region(text: str) -> "tuple[object, object] | None":
    builder = _BUILDER.fullmatch(text)
    if builder:
        text = builder[1]
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    parts = split(text)
    if len(parts) == 1 or not _INEQUALITY.search(text):
        return values.region(text)
    regions = [values.region(part) for part in parts]
    if any(found is None or found[1] is None for found in regions):
        return None
    found = [region for region in regions if region is not None]
    if len({variable for _, variable in found}) != 1:
        return None
    joined = found[0][0]
    either = re.search(r"\\text\{\s*or\s*\}|(?<![A-Za-z])or(?![A-Za-z])", text)
    for piece, _ in found[1:]:
        joined = joined.union(piece) if either else joined.intersect(piece)
    if joined.is_empty and not either:  # `x < 1, x > 3` can only mean one or the other
        joined = found[0][0].union(*(piece for piece, _ in found[1:]))
    return joined, found[0][1]

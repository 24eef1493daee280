r"""Formulas as sympy expressions, and whether two of them are the same value.

Numbers are compared exactly or relatively, never by an absolute difference: 2^-99 is not 2^-98. A
formula that cannot be read is not read in part, for a number within it is not its value.

Imports nothing from `dopr` (see worker.py).
"""

import re
from fractions import Fraction
from functools import lru_cache
from itertools import islice, product
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.relational import Relational
from sympy.functions.combinatorial.factorials import CombinatorialFunction
from sympy.functions.elementary.integers import RoundFunction

from .text import NAMES, TEXT, joined_thousands

_NORMALISE = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)")
_MIXED = re.compile(r"(-?)\s*(\d+)(?:\s+(\d+)\s*/\s*(\d+)|\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\})")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")
_CALL = re.compile(r"(\\?)(?<![A-Za-z])(sqrt|cbrt|exp|abs)\s*\(")
_NAME = re.compile(
    r"(?<![\\A-Za-z])(" + "|".join(sorted(NAMES, key=len, reverse=True)) + ")(?![a-z])"
)
_FACTORIAL_POWER = re.compile(r"([A-Za-z0-9]|\([^()]*\))\s*!\s*\^")  # the grammar lacks it
_DIFFERENTIAL = re.compile(r"\\int(?![a-z])|\\frac\s*\{\s*d[^{}]*\}\s*\{\s*d\s*[a-z]")
_LETTER_D = re.compile(r"\\\\|\\(?:text|begin|end|mathbb)\{[^{}]*\}|\\[A-Za-z]+|d")
_PLAIN = re.compile(r"-?\s?(?:\d+\.?\d*|\.\d+)|-?\s?\d+\s?/\s?0*[1-9]\d*")
DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)")
_DIGITS = 50
_SAME = sympy.Float(10) ** -35
# Where formulas are probed: any equality at all of these is an identity.
_POINTS = tuple(
    sympy.Rational(*p) for p in ((17, 13), (5, 11), (29, 7), (-19, 23), (41, 3), (-8, 5))
)
_NOWHERE = (sympy.nan, sympy.zoo, sympy.oo)
_INTEGERS = tuple(map(sympy.Integer, (7, 4, 11, 6, 13, 9)))


def as_latex(text: str) -> str:
    """Plain-text mathematics as LaTeX."""
    text = TEXT.sub(
        lambda match: (
            "" if match[1].startswith("degrees") else match[1] if len(match[1]) == 1 else match[0]
        ),
        joined_thousands(text),
    )
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", text.replace("**", "^"))
    text = _REPEATING.sub(_repeating, text)
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, *parts = mixed.groups()
        above, below = (part for part in parts if part is not None)
        return rf"{sign}({whole} + \frac{{{above}}}{{{below}}})"
    text = _FACTORIAL_POWER.sub(r"(\1!)^", text)
    text = _NAME.sub(r"\\\1 ", _calls(text))
    if _DIFFERENTIAL.search(text):
        return text
    # The grammar takes every `d` for a differential.
    return _LETTER_D.sub(lambda m: r"\varsigma " if m[0] == "d" else m[0], text)


def _repeating(match: "re.Match[str]") -> str:
    before, after, period = match.groups()
    value = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(after))
    value += Fraction(int((before or "0") + after), 10 ** len(after))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _calls(text: str) -> str:
    r"""`sqrt(...)` and the like with braces in place of the matching parentheses."""
    forms = {"sqrt": (r"\sqrt{", "}"), "cbrt": (r"\sqrt[3]{", "}"), "exp": ("e^{", "}")}
    forms["abs"] = ("|", "|")
    while match := _CALL.search(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if depth:
            break
        before, after = forms[match[2]]
        text = f"{text[: match.start()]}{before}{text[match.end() : end - 1]}{after}{text[end:]}"
    return text


@lru_cache(maxsize=4096)
def parse(text: str) -> Any:
    """A tidied formula as a sympy object with exact numbers; None where it cannot be read."""
    if _PLAIN.fullmatch(text):  # no need of a grammar
        return sympy.Rational(text.replace(" ", ""))
    latex = normalize_latex(as_latex(text), _NORMALISE)
    try:
        parsed = latex2sympy(
            latex, is_real=True, normalization_config=None, conversion_config=_CONVERSION
        )
        return _exact(parsed)
    except MemoryError:
        raise
    except Exception:  # whatever the grammar or sympy says of it
        return None


def _exact(value: Any) -> Any:
    """Decimals as fractions, all symbols real, and `i` the imaginary unit."""
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(_exact)
    value = value.replace(
        lambda part: isinstance(part, sympy.UnevaluatedExpr), lambda part: part.args[0]
    )
    new = {number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)}
    for symbol in value.atoms(sympy.Symbol):
        new[symbol] = sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name, real=True)
    return value.xreplace(new)


def same_value(gold: Any, answer: Any) -> bool:
    """Whether two sympy objects are equal; what sympy cannot compare is not.

    Raises:
        MemoryError: the comparison takes more than there is, which is no verdict.
    """
    try:
        return _same_value(gold, answer)
    except MemoryError:
        raise
    except Exception:  # sympy has many
        return False


def _same_value(gold: Any, answer: Any) -> bool:
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and all(map(same_value, gold, answer))
    if isinstance(gold, sympy.Tuple) and isinstance(answer, sympy.Tuple):
        return len(gold) == len(answer) and all(map(same_value, gold, answer))
    if isinstance(gold, sympy.Set) or isinstance(answer, sympy.Set):
        return same_set(_as_set(gold), _as_set(answer))
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        return bool(gold == answer) or _same_expression(gold, answer)
    return bool(gold == answer)


def _as_set(value: Any) -> Any:
    return value if isinstance(value, sympy.Set) else sympy.FiniteSet(value)


def same_set(gold: Any, answer: Any) -> bool:
    """Whether two sympy sets are equal."""
    if gold == answer:
        return True
    gold, answer = gold.doit(), answer.doit()
    if gold == answer:
        return True
    if isinstance(gold, sympy.FiniteSet) and isinstance(answer, sympy.FiniteSet):
        return _same_elements(list(gold), list(answer))
    if isinstance(gold, sympy.Interval) and isinstance(answer, sympy.Interval):
        open_alike = gold.left_open == answer.left_open and gold.right_open == answer.right_open
        ends = same_value(gold.start, answer.start) and same_value(gold.end, answer.end)
        return bool(open_alike) and ends
    try:
        return bool(gold.symmetric_difference(answer).is_empty)
    except Exception:  # sympy cannot decide
        return False


def _same_elements(gold: list[Any], answer: list[Any]) -> bool:
    if len(gold) != len(answer):
        return False
    for element in gold:
        match = next((other for other in answer if same_value(element, other)), None)
        if match is None:
            return False
        answer.remove(match)
    return True


def _same_expression(gold: Any, answer: Any) -> bool:
    gold, answer = gold.doit(), answer.doit()
    if gold == answer:
        return True
    if gold.is_Rational and answer.is_Rational:
        return False
    if gold.has(*_NOWHERE, -sympy.oo) or answer.has(*_NOWHERE, -sympy.oo):
        return False  # equal infinities were found so above
    symbols = gold.free_symbols | answer.free_symbols
    if not symbols:
        return _same_number(gold, answer)
    if gold.has(sympy.core.function.AppliedUndef) or answer.has(sympy.core.function.AppliedUndef):
        return bool(sympy.simplify(gold - answer) == 0)
    return _same_everywhere(gold, answer, sorted(symbols, key=str))


def _same_number(gold: Any, answer: Any) -> bool:
    """Whether two constants agree in very many digits, however large or small they are."""
    try:
        for digits in (_DIGITS, 4 * _DIGITS):
            first, second = sympy.N(gold, digits), sympy.N(answer, digits)
            size = max(abs(first), abs(second))
            if size < sympy.Float(10) ** -90:  # zero in disguise, or very small indeed
                return bool((gold - answer).equals(0))
            if abs(first - second) > size * sympy.Float(10, digits) ** (15 - digits):
                return False
        return True
    except (TypeError, ValueError, AttributeError):
        return False


def _same_everywhere(gold: Any, answer: Any, symbols: list[Any]) -> bool:
    """Whether two formulas agree wherever they are probed and both are real there."""
    counting = (CombinatorialFunction, RoundFunction, sympy.Sum, sympy.Product, sympy.Mod)
    points = _INTEGERS if gold.has(*counting) or answer.has(*counting) else _POINTS
    agreed = 0
    for values in islice(_assignments(points, len(symbols)), 2 * len(points)):
        where = dict(zip(symbols, values, strict=True))
        try:
            first, second = (sympy.N(side.subs(where).doit(), _DIGITS) for side in (gold, answer))
            if not (first.is_number and second.is_number):
                return bool(sympy.simplify(gold - answer) == 0)
            if first.has(sympy.nan, sympy.zoo, sympy.oo) or second.has(
                sympy.nan, sympy.zoo, sympy.oo
            ):
                continue
            if not gold.has(sympy.I) and not (first.is_real and second.is_real):
                continue
            size = max(abs(first), abs(second), _SAME)
            if abs(first - second) > _SAME * size:
                return False
        except (TypeError, ValueError, AttributeError, ZeroDivisionError):
            continue
        agreed += 1
    return agreed >= 2 or bool(sympy.simplify(gold - answer) == 0)


def _assignments(points: tuple[Any, ...], number: int) -> Any:
    """Tuples of one value a symbol, those first that have no two values alike."""
    for shift in range(len(points)):
        yield tuple(points[(shift + k) % len(points)] + k // len(points) for k in range(number))
    yield from product(points, repeat=number)


def is_rounding(decimal: str, exact: Any) -> bool:
    """Whether a decimal number is a value rounded (or cut off) where it ends.

    It needs six places, or six digits that tell something, and four such digits in any case.

    Args:
        decimal: `-0.333333`.
        exact: a real number.
    """
    decimal = decimal.rstrip("0")  # a whole number is exact however it is written
    places = len(decimal.partition(".")[2])
    telling = len(decimal.lstrip("+-").replace(".", "").lstrip("0"))
    if places == 0 or telling < 4 or max(places, telling) < 6:
        return False
    written = sympy.Rational(decimal)
    value = sympy.N(exact, _DIGITS) if not exact.is_Rational else exact
    if not value.is_real:
        return False
    if telling >= 16 and abs(value - written) <= abs(written) / 10**14:  # what a float prints
        return True
    step = sympy.Rational(1, 10**places)
    cut = abs(written) <= abs(value) < abs(written) + step and value * written > 0
    return bool(abs(value - written) <= step / 2 or cut)


def region(text: str) -> tuple[Any, Any] | None:
    """A set of real numbers that an interval or an inequality in one variable says.

    Returns:
        The set and the variable (None for an interval); None where it says no such thing.
    """
    parsed = parse(text)
    if isinstance(parsed, sympy.Set):
        parts = parsed.args if isinstance(parsed, sympy.FiniteSet) else ()
        if not any(isinstance(part, (Relational, sympy.logic.boolalg.Boolean)) for part in parts):
            return parsed, None
    if not isinstance(parsed, (Relational, sympy.logic.boolalg.BooleanFunction)):
        return None
    symbols = parsed.free_symbols
    if len(symbols) != 1 or parsed.has(sympy.Eq):
        return None
    variable = next(iter(symbols))
    relations = _relations(parsed)
    try:
        bounds = [_bound(relation, variable) for relation in relations]
        if all(bound is not None for bound in bounds):
            return sympy.Intersection(*bounds), variable
        return sympy.And(*relations).as_set(), variable
    except MemoryError:
        raise
    except Exception:  # sympy cannot solve it
        return None


def _relations(value: Any) -> list[Any]:
    """An inequality, or each of a chain of them, evaluated."""
    if isinstance(value, Relational):
        return [value.func(value.lhs.doit(), value.rhs.doit())]
    return [relation for part in value.args for relation in _relations(part)]


def _bound(relation: Any, variable: Any) -> Any:
    """The interval of `x < 3`, without solving anything; None for other inequalities."""
    left, right, kind = relation.lhs, relation.rhs, relation.func
    if right == variable:
        left, right, kind = right, left, relation.reversed.func
    if left != variable or right.free_symbols or not right.is_extended_real:
        return None
    if kind in (sympy.Lt, sympy.Le):
        return sympy.Interval(-sympy.oo, right, True, kind is sympy.Lt)
    if kind in (sympy.Gt, sympy.Ge):
        return sympy.Interval(right, sympy.oo, kind is sympy.Gt, True)
    return None


def same_relation(gold: Any, answer: Any) -> bool:
    """Whether two equations or inequalities say the same of their variables.

    Equations do where one is a multiple of the other, inequalities where it is a positive one.
    """
    if not isinstance(gold, Relational) or not isinstance(answer, Relational):
        return False
    first, second = (_one_sided(side) for side in (gold, answer))
    if first is None or second is None or first[0] is not second[0]:
        return False
    try:
        ratio = sympy.simplify(first[1] / second[1])
    except MemoryError:
        raise
    except Exception:  # matrices and the like
        return False
    if not ratio.is_number or ratio.is_zero or not ratio.is_finite:
        return False
    return first[0] in (sympy.Eq, sympy.Ne) or bool(ratio.is_positive)


def _one_sided(relation: Any) -> tuple[Any, Any] | None:
    try:
        difference = (relation.lhs - relation.rhs).doit()
    except Exception:  # sets and the like
        return None
    turned = {sympy.Gt: sympy.Lt, sympy.Ge: sympy.Le}
    kind = relation.func
    return (turned[kind], -difference) if kind in turned else (kind, difference)

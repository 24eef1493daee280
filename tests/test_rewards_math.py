"""What holds of the comparison of mathematical answers whatever the numbers are."""

import string
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dopr.rewards import math_reward
from dopr.rewards.math_check import structure, text, units
from dopr.rewards.math_check.prose import candidates

same = structure.same_answer
few = settings(deadline=None, max_examples=60)
fewer = settings(deadline=None, max_examples=15)  # where formulas are parsed

whole = st.integers(-(10**30), 10**30)
rationals = st.builds(Fraction, st.integers(-9999, 9999), st.integers(1, 999))
tiny = st.builds(lambda n, k: Fraction(n, 10**k), st.integers(1, 999), st.integers(3, 60))
numbers = st.one_of(whole.map(Fraction), rationals, tiny)
VARIABLES = [c for c in string.ascii_letters if c not in "eEiI"]


def latex(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def spellings(value: Fraction) -> list[str]:
    """The same number in ways that people and models write it."""
    n, d, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    found = [latex(value), f"{sign}{n}/{d}", f"x = {latex(value)}", f"${latex(value)}$"]
    found += [rf"{sign}\dfrac{{{2 * n}}}{{{2 * d}}}", rf"\frac{{{sign}{n}}}{{{d}}}"]
    if d == 1:
        found += [f"{sign}{n:,}", f"{sign}{n}.0", f"{sign}{n} apples", rf"{sign}{n}\text{{ units}}"]
        found += [f"{sign}{n:,}".replace(",", "{,}"), f"{sign}{n:,}".replace(",", r",\!")]
        found += [f"{sign}{n:,}".replace(",", " ")]
    elif n > d:
        found += [rf"{sign}{n // d}\frac{{{n % d}}}{{{d}}}", f"{sign}{n // d} {n % d}/{d}"]
    return found


@few
@given(numbers, st.randoms(use_true_random=False))
def test_one_number_is_itself_in_any_two_spellings(value, random):
    first, second = random.choice(spellings(value)), random.choice(spellings(value))
    assert same(first, second), (first, second)


@few
@given(numbers, numbers, st.randoms(use_true_random=False))
def test_two_numbers_are_not_the_same_in_any_spelling(value, other, random):
    assume(value != other)
    first, second = random.choice(spellings(value)), random.choice(spellings(other))
    assert not same(first, second), (first, second)


@few
@given(numbers, st.integers(1, 60))
def test_a_relative_difference_tells_numbers_apart_however_small_they_are(value, exponent):
    assume(value != 0)
    scaled = value / 2**exponent
    for factor in (Fraction(1001, 1000), 2, -1, Fraction(10**9 + 1, 10**9)):
        assert not same(latex(scaled), latex(scaled * factor))


@few
@given(rationals, st.sampled_from(VARIABLES), st.sampled_from(VARIABLES), st.booleans())
def test_a_monomial_is_neither_its_coefficient_nor_another(value, letter, other, blank):
    assume(value != 0 and letter.lower() != other.lower())
    gap = " " if blank else ""
    monomial = f"{latex(value)}{gap}{letter}"
    assert not same(monomial, latex(value)) and not same(latex(value), monomial)
    assert not same(monomial, f"{latex(value)}{gap}{other}")
    assert same(monomial, rf"{letter} \cdot {latex(abs(value))}") == (value > 0)
    assert not same(rf"{latex(value)} \pi", latex(value))


@few
@given(
    st.integers(1, 10**6),
    st.sampled_from([("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9)]),
    st.sampled_from(["{n} {w}", r"{n}\text{{ {w}}}", r"\${n} {w}", "{n} {w} people"]),
)
def test_a_scale_word_scales(number, scale, form):
    word, power = scale
    text = form.format(n=number, w=word)
    assert same(str(number * 10**power), text) and same(text, f"{number * 10**power:,}")
    assert not same(str(number), text) and not same(text, str(number))


@few
@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_percent_in_words_and_signs_are_one(number, other):
    percent = f"{number / 100:.2f}"
    forms = [rf"{percent}\%", f"{percent}%", f"{percent} percent", rf"{percent}\text{{ per cent}}"]
    for first in forms:
        assert all(same(first, second) for second in forms)
        assert same(first, latex(Fraction(number, 100))) and same(
            first, latex(Fraction(number, 10**4))
        )
        if other not in (number, 100 * number) and number != 100 * other:
            assert not same(first, f"{other / 100:.2f} percent")


ENDS = st.one_of(st.integers(-99, 99).map(Fraction), rationals)


@fewer
@given(ENDS, ENDS, st.booleans(), st.booleans(), st.sampled_from("xtkn"))
def test_an_inequality_is_its_interval_and_no_other(low, high, open_low, open_high, letter):
    assume(low < high)
    first, last = "(" if open_low else "[", ")" if open_high else "]"
    interval = f"{first}{latex(low)}, {latex(high)}{last}"
    less = ["<" if is_open else r"\le" for is_open in (open_low, open_high)]
    inequality = f"{latex(low)} {less[0]} {letter} {less[1]} {latex(high)}"
    turned = inequality.replace("<", ">").replace(r"\le", r"\ge")
    parts = turned.split()
    turned = " ".join([parts[4], parts[3], parts[2], parts[1], parts[0]])
    for said in (inequality, turned, rf"{letter} \in {interval}"):
        assert same(interval, said) and same(said, interval), said
    other = f"{'[' if open_low else '('}{latex(low)}, {latex(high)}{last}"
    wider = f"{first}{latex(low)}, {latex(high + 1)}{last}"
    for wrong in (other, wider):
        assert not same(wrong, inequality) and not same(inequality, wrong)


@few
@given(st.lists(rationals, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_lists_have_no_order_and_points_have(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    forms = [", ".join(map(latex, v)) for v in (values, shuffled)]
    assert same(*forms) and same(rf"\{{{forms[0]}\}}", forms[1])
    assert same(f"({forms[0]})", f"({forms[1]})") == (values == shuffled)
    assert not same(forms[0], ", ".join(map(latex, values[1:])))
    changed = ", ".join(map(latex, [values[0] + 1, *values[1:]]))
    if sorted([values[0] + 1, *values[1:]]) != sorted(values):
        assert not same(forms[0], changed)


@few
@given(
    st.integers(1, 999),
    st.sampled_from(["cm", "km", "hours", "minutes", "dollars", "cents", "kg", "miles"]),
    st.sampled_from(["cm", "km", "hours", "minutes", "dollars", "cents", "kg", "miles"]),
)
def test_units_may_be_left_out_and_must_agree(number, unit, other):
    for form in (f"{number} {unit}", rf"{number}\text{{ {unit}}}"):
        assert same(form, str(number)) and same(str(number), form)
        assert same(form, f"{number} {other}") == (unit == other)


@fewer
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=4), st.sampled_from("xyzn"))
def test_a_polynomial_is_itself_expanded_and_no_other(roots, letter):
    factored = "".join(f"({letter} - {root})" for root in roots).replace("- -", "+ ")
    coefficients = [1]
    for root in roots:
        coefficients = [
            a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)
        ]
    powers = range(len(roots), -1, -1)
    expanded = " + ".join(
        f"({c}){letter}^{{{p}}}" for c, p in zip(coefficients, powers, strict=True)
    )
    assert same(factored, expanded) and same(expanded, factored)
    assert not same(factored, f"{expanded} + 1")
    assert same(f"{factored} = 0", f"3 ({expanded}) = 0")
    assert not same(f"{factored} = 0", f"{expanded} + 1 = 0")


@few
@given(st.text(max_size=60))
def test_no_text_makes_the_comparison_of_texts_fail(anything):
    tidied = text.tidy(anything)
    text.canonical(tidied), text.split(tidied), text.readings(tidied), text.is_text(tidied)
    text.group(tidied), units.quantity(tidied), candidates(anything), candidates(anything, True)
    text.fold_case(tidied, tidied)


@few
@given(st.text(alphabet="12.,/+-=<>()[]{}\\ xyfracspiqrt$%|:_^", max_size=14))
def test_an_answer_is_never_an_error_and_always_itself(anything):
    assert same("12345", anything) in (True, False)
    if text.tidy(anything):
        assert same(anything, anything)


@pytest.mark.parametrize("long", ["(" * 3000, r"\frac{" * 2000, "1,000" * 4000, "a " * 20000])
def test_long_nonsense_is_refused_in_no_time(long):
    for part in (text.tidy(long), long):
        text.split(part), text.group(part), text.readings(part), units.quantity(part)
    candidates(long)


@pytest.mark.parametrize(
    ("gold", "question"),
    [
        ("88", "38 + 50"),
        ("-12", "38 - 50"),
        ("156", r"12 \times 13"),
        ("156", "12*13"),
        ("156", "12(13)"),
        ("7.5", r"2.5 \cdot 3"),
        ("6", r"\gcd(12, 18)"),
        ("6", "gcd(12, 18)"),
        ("3", r"\log_2 8"),
        ("45", r"\binom{10}{2}"),
    ],
)
def test_a_question_repeated_is_no_answer(gold, question):
    assert not same(gold, question)
    text = f"To solve {question}, we can use the"
    assert math_reward(
        prompts=["?"] * 2, completions=[text, rf"\boxed{{{question}}}"], answer=[gold] * 2
    ) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("88", "38 + 50 = 88"),
        ("5000", r"5 \times 10^3"),
        ("5000", "5*10**3"),
        ("1024", "2^{10}"),
        ("2000000", "2 million"),
        ("2.5", "2 1/2"),
        ("0.5", "1/2"),
        ("-5", "- 5"),
        ("3", r"\sqrt{9}"),
        ("x + 12", "12 + x"),
        ("2 + 3i", "3i + 2"),
        ("60", "60 km/h"),
    ],
)
def test_a_number_in_another_spelling_answers(gold, answer):
    assert same(gold, answer)

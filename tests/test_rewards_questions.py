r"""What is no answer though its value is right: the question again, or what is still to be done.

A policy finds whatever is paid. Each test has both sides: what must not be paid, and what is an
answer like it and must be.
"""

import pytest

from dopr.rewards import extract, math_reward
from dopr.rewards.math_check import written
from dopr.rewards.math_check.handler import grade
from dopr.rewards.math_check.prose import candidates

NUMBERS = ("88", r"\frac{1}{2}", "2^{10}", "0.5", r"5 \times 10^3", "2 1/2")


def marked(gold, answer, question=""):
    return grade({"golds": [gold], "prediction": answer, "whole": False, "question": question})


def unmarked(gold, text, question=""):
    return grade({"golds": [gold], "prediction": text, "whole": True, "question": question})


@pytest.mark.parametrize(
    "calculation",
    [
        *("38 + 50", "38−50", "38 ＋ 50", r"38\,+\,50", r"{38}+{50}", r"\left(38\right)+50"),
        *(
            r"\frac{38+50}{1}",
            "38 - (-50)",
            "-(-88)",
            "+38+50",
            "38+50+0",
            r"38\% + 50\%",
            "50% * 176",
        ),
        *("8 ∗ 11", "8 ⊕ 11", "(8)(11)", "12(13)", r"176 \div 2", "2^5 + 56", "2^{5+1}", "88!/87!"),
        *(
            r"\gcd(88, 176)",
            r"\log_2 8",
            r"\cos 0",
            "|-7|",
            r"\lfloor 88.5 \rfloor",
            r"\binom{10}{2}",
        ),
        *(
            r"\lim_{x \to 88} x",
            r"\int_0^{88} 1 dx",
            r"\sum_{i=1}^{2} 44",
            "x + 88 - x",
            "x/x",
            "0x",
        ),
        *(r"\sqrt{88}\sqrt{88}", r"1 + 1\frac12"),
    ],
)
def test_where_the_reference_is_a_number_a_calculation_is_no_answer(calculation):
    assert all(written.is_question(gold, calculation) for gold in NUMBERS)


@pytest.mark.parametrize(
    "number",
    [
        *(
            "88",
            "-5",
            "+5",
            "88.",
            ".5",
            "0.50",
            "1/2",
            "-1/2",
            r"\frac{-1}{2}",
            r"\frac12",
            "-(1/2)",
        ),
        *(
            "2 1/2",
            r"2\frac{1}{2}",
            r"0.\overline{3}",
            "1e-7",
            r"5 \times 10^3",
            "5*10**3",
            "10^{-7}",
        ),
        *(
            "2^{10}",
            "2^10",
            "(3/4)^5",
            r"(\frac{3}{4})^5",
            r"\frac{3^5}{2^{10}}",
            r"\frac{1}{2^{99}}",
        ),
        *(
            "5!",
            r"\sqrt{9}",
            r"\sqrt[3]{27}",
            "sqrt(16)",
            "16^{1/2}",
            "(88)",
            "[88]",
            r"\underline{88}",
        ),
        *("1 000 000", r"88\ldots"),
    ],
)
def test_a_number_in_any_form_is_an_answer(number):
    assert not any(written.is_question(gold, number) for gold in NUMBERS)


@pytest.mark.parametrize(
    ("gold", "question", "answer"),
    [
        (r"\frac{\pi}{4}", r"\int_0^1 \frac{1}{1+x^2} dx", r"\pi / 4"),
        (r"\frac{\sqrt{3}}{2}", r"\sin \frac{\pi}{3}", r"\sqrt{3}/2"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k", r"\frac{n^2+n}{2}"),
        ("2x", r"\frac{d}{dx} x^2", "x + x"),
        (r"\frac12", r"\frac14 + \frac14", "0.5"),
        (r"2\frac12", r"1 + 1\frac12", "5/2"),
        ("(3, 4)", "(1 + 2, 4)", "(3, 8/2)"),
        ("10", r"20\% \cdot 50", "10"),
        ("50%", "0.2 + 0.3", "0.5"),
        ("2 million", r"10^6 + 10^6", "2,000,000"),
        ("12 cm", "5 + 7 cm", "12"),
        ("x = 5", "2x + 3 = 13", "5 = x"),
        ("x = 5", "2x = 10", "x - 5 = 0"),
        ("x < 3", "2x < 6", "3 > x"),
        ("(-3, 3)", "x^2 < 9", "|x| < 3"),
        (r"(-\infty, 2) \cup (3, \infty)", "x^2 - 5x + 6 > 0", r"x < 2 \text{ or } x > 3"),
        ("88", "(38 + 50):1", "88:1"),
    ],
)
def test_what_the_reference_is_the_result_of_is_no_answer(gold, question, answer):
    assert marked(gold, question) == 0.0 and marked(gold, answer) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5 + 3", "8"),
        (r"\ln 2", r"-\ln \frac{1}{2}"),
        (r"\sum_{k=1}^{n} k^k", r"\sum_{j=1}^{n} j^j"),
        ("2^{3/2}", r"2\sqrt{2}"),
        ("1.618034", r"\frac{1+\sqrt{5}}{2}"),
        (r"5 + 2\sqrt{6}", r"2\sqrt{6} + 5"),
        ("2 + 3i", "3i + 2"),
        ("3x-y+13=0", "y = 3x + 13"),
        ("y = 2x", "2x - y = 0"),
        ("(x + 7)(x + 10) = 0", "x^2 + 17x + 70 = 0"),
        ("x(x - 1) = 0", "x^2 = x"),
        ("x < 2a", "2a > x"),
    ],
)
def test_a_reference_that_is_a_formula_is_answered_by_formulas(gold, answer):
    assert marked(gold, answer) == 1.0


@pytest.mark.parametrize(
    ("question", "gold", "again", "answer"),
    [
        ("Simplify $(x+1)^2 - x^2$.", "2x + 1", "(x+1)^2-x^2", "1 + 2x"),
        ("Let $f(x) = (x+1)^2 - x^2$.", "f(x) = 2x + 1", "f(x)=(x+1)^2-x^2", "f(x) = 1 + 2x"),
        ("Factor $x^2-5x+6$.", "(x-2)(x-3)", "x^2 - 5x + 6", "(x-3)(x-2)"),
        ("Compute $2^{10}$.", "1024", "2^10", "4^5"),
        ("What is 36 ÷ 2?", "18", r"\frac{36}{2}", "18"),
        (r"Reduce $\frac{48}{72}$.", r"\frac{2}{3}", "48/72", "2/3"),
        ("Evaluate 5!.", "120", "5!", "120"),
        (r"Find $\sqrt{12}$.", r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{3} \cdot 2"),
    ],
)
def test_a_formula_of_the_question_is_no_answer_to_it(question, gold, again, answer):
    assert marked(gold, again, question) == 0.0 and unmarked(gold, f"${again}$", question) == 0.0
    assert marked(gold, answer, question) == 1.0
    assert marked(gold, again, "Another question.") == marked(gold, again) == 1.0


@pytest.mark.parametrize(
    ("question", "gold", "answer"),
    [
        ("What is the larger of 1/2 and 1/3?", "0.5", "1/2"),
        ("What is the GCD of 10 and 5?", "5", "5"),
        ("A train takes 5 hours, or 300 minutes.", "5", "5 hours"),
        ("Which is odd, $x^3+x$ or $x^2$?", "f(x) = x^3 + x", "x^3+x"),
        ("$f(1-x) = x$", "-x + 1", "1-x"),
        ("(A) 5 B) $x^2+1$ (C) 3", "B", "B) $x^2+1$"),
        ("It rose by 50%.", "0.5", r"50\%"),
    ],
)
def test_what_the_question_gives_to_choose_from_is_an_answer(question, gold, answer):
    assert marked(gold, answer, question) == 1.0


def test_the_question_is_the_prompt_or_the_users_last_message():
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "Factor $x^2-x$"}],
        },
    ]
    parts = [{"role": "user", "content": [{"type": "image", "text": None}]}]
    assert (
        extract.question_text(chat) == "Factor $x^2-x$" == extract.question_text("Factor $x^2-x$")
    )
    assert extract.question_text(parts) == extract.question_text([]) == ""
    again, answer = r"\boxed{x^2 - x}", r"\boxed{x(x-1)}"
    scores = math_reward(
        prompts=[chat, chat, "?"], completions=[again, answer, again], answer=["x(x-1)"] * 3
    )
    assert scores == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "form", ["2^4", "32/2", r"\frac{32}{2}", r"\sqrt{256}", r"16 \cdot 1", "32 ÷ 2"]
)
def test_in_a_text_that_marks_nothing_the_last_value_must_be_a_result(form):
    assert unmarked("16", f"To find ${form}$, we can use the") == 0.0
    assert unmarked("16", f"To find ${form} = 16$, we can use the") == 1.0
    assert unmarked("16", "That makes 16 apples") == 1.0


def test_a_power_after_the_answer_is_counts():
    assert unmarked("1024", "So the answer is $2^{10}$.") == 1.0
    assert unmarked("1024", "So the answer is $1000 + 24$.") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *(
            "The greatest common divisor of 10 and 5 is",
            "gcd(10, 5) can be",
            "of the numbers 10, 5.",
        ),
        *("1 times 5", "1 plus 5", "1 x 5", "1 ⋅ 5", r"1 \times 5", "1 ÷ 5", "5 over 5", "0 − 5"),
        *("4 or 5", "1, 2, 3, 4, 5", "4, 5 are", "$1$ times $5$", "$1$ + $5$", "$4$, $5$"),
    ],
)
def test_numbers_that_are_joined_are_one_thing_and_not_the_last_of_them(text):
    assert unmarked("5", text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *("gcd(10, 5) = 5", "10 and 5 have 5 in common", "In 2021, 5 people came", "so it is 5."),
        *("She has 3 apples and 5 pears", "3 + 2 = 5", "It costs $3 and leaves her with $5"),
    ],
)
def test_a_number_that_stands_alone_is_read(text):
    assert unmarked("5", text) == 1.0


def test_a_list_in_words_is_read_as_a_list():
    assert unmarked("2, 3", "The roots are 2 and 3.") == 1.0
    assert unmarked("3", "The roots are 2 and 3.") == 0.0


@pytest.mark.parametrize(
    "guesses",
    [
        *("87 or 88", "88 or 89", "87, 88", "88, 88", r"\{87, 88\}", "[87, 89]", "87 < x < 89"),
        *(
            r"88 \pm 1",
            "x = 87, 88",
            r"x \in \{87, 88\}",
            r"88 \text{ or } 89",
            r"1, 2, \ldots, 88",
        ),
    ],
)
def test_several_guesses_are_not_one_answer(guesses):
    assert marked("88", guesses) == 0.0


def test_several_choices_are_not_one_choice():
    for several in ("(A) 5 (B) 6 (C) 7", "A) 5 B) 6", "A. B. C. D.", "A, B, C or D", "A or B"):
        assert marked("A", several) == 0.0
    for one in ("A", "(A)", "(A) 5", "A. the boat (blue)", r"\text{(A)}"):
        assert marked("A", one) == 1.0


def test_readings_say_whether_the_text_tells_its_answer():
    [told] = candidates("The answer is 5")
    [last] = candidates("We get 5")
    assert (told.text, told.told) == ("5", True) and (last.text, last.told) == ("5", False)

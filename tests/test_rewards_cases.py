"""Answers and references that users of other verifiers reported as graded wrongly, both ways.

Each test is one kind of fault: a coefficient, a scale word, percent, very small numbers, intervals,
`####` that heads a section, references with commas and lists of references.
"""

import pytest

from dopr.rewards import exact_match_reward, extract, math_reward


def grade(*cases):
    """Asserts what the mathematical reward says of `(reference, answer in a box, wanted)`."""
    scores = math_reward(
        prompts=["?"] * len(cases),
        completions=[rf"So the answer is \boxed{{{given}}}." for _, given, _ in cases],
        answer=[gold for gold, _, _ in cases],
    )
    wrong = [(c, s) for c, s in zip(cases, scores, strict=True) if s != c[2]]
    assert not wrong, wrong


def test_a_coefficient_is_not_its_monomial():
    grade(
        ("3 x", "3 y", 0.0),
        ("3 x", r"x \cdot 3", 1.0),
        ("3 x", "3x", 1.0),
        ("3 x", "3", 0.0),
        ("3", "3 x", 0.0),
        ("3", "3m", 0.0),
        ("2", "2 pi", 0.0),
        (r"2\pi", "2 pi", 1.0),
        (r"\pi", "2 pi", 0.0),
        ("2", r"2\mathrm{e}", 0.0),
        ("4", r"4\sqrt(2)", 0.0),
        ("3", "3 ab", 0.0),
        ("3", "3 xyz", 0.0),
        (r"\frac{1}{2}", r"\frac{1}{2} t", 0.0),
        (r"\pi(R^2-r^2)", "0", 0.0),
    )


def test_a_scale_word_is_no_unit():
    grade(
        ("2", "2 million", 0.0),
        ("2000000", "2 million", 1.0),
        ("2 million", "2,000,000", 1.0),
        (r"2.5\text{ million}", "2500000", 1.0),
        (r"2\text{ million}", "2", 0.0),
        ("5", r"\$5 billion", 0.0),
        ("36", "3 dozen eggs", 1.0),
        ("3", "3 dozen eggs", 0.0),
        ("3/5", "3 fifths", 1.0),
        ("3", "3 fifths", 0.0),
        ("5", "5 squared", 0.0),
    )


def test_units_may_be_left_out_and_may_not_differ():
    grade(
        ("18", "18 dollars", 1.0),
        ("18", "18 cupcakes", 1.0),
        (r"12 \text{ cm}", "12", 1.0),
        (r"12 \text{ cm}", "12cm", 1.0),
        (r"12 \text{ cm}", "12 centimeters", 1.0),
        (r"12 \text{ cm}", r"12 \text{ m}", 0.0),
        ("5 hours", "5 minutes", 0.0),
        (r"15\mbox{ cm}^2", "15 square centimetres", 1.0),
        (r"15\mbox{ cm}^2", "15 cm", 0.0),
        (r"\$36", "36 dollars", 1.0),
        (r"\$36", "36 cents", 0.0),
        (r"90^\circ", "90 degrees", 1.0),
        (r"90^\circ", "90 radians", 0.0),
        ("3:30 p.m.", "3:30", 1.0),
        ("3:30 p.m.", "3:30 a.m.", 0.0),
        (r"\frac{600}{7}", r"\frac{600}{7} \mathrm{~km} / \mathrm{h}", 1.0),
    )


def test_percent_is_percent_in_words_as_in_signs():
    grade(
        (r"7.5\%", "7.5 percent", 1.0),
        (r"7.5\%", r"7.5\text{ per cent}", 1.0),
        ("7.5 percent", r"7.5\%", 1.0),
        (r"7.5\%", "7.5", 1.0),
        (r"7.5\%", "0.075", 1.0),
        ("12.5", "12.5%", 1.0),
        (r"\frac{1}{2}\%", "0.5 pct", 1.0),
        (r"28\%", r"28\%", 1.0),
        (r"28\%", r"0.28\%", 0.0),
        (r"28\%", "29 percent", 0.0),
    )


def test_small_and_large_numbers_are_compared_relatively():
    grade(
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", 0.0),
        (r"\frac{1}{2^{99}}", r"2^{-99}", 1.0),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", 0.0),
        (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}", 0.0),
        ("1e-7", "2e-7", 0.0),
        ("0.0000001", r"1 \times 10^{-7}", 1.0),
        (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}", 0.0),
        ("10^{20}", "10^{20}+1", 0.0),
        ("123456789012345678901", "123456789012345678902", 0.0),
        (r"\sqrt{10^{40}+1}", "10^{20}", 0.0),
        ("1/3", "0.333333", 1.0),
        ("1/3", "0.33", 0.0),
        (r"\frac{1}{30000}", "0.000033", 0.0),
        ("0.3", "0.30000000000000004", 1.0),
        ("1000000", "1000000.4", 0.0),
    )


def test_an_interval_is_the_inequality_that_says_it():
    grade(
        ("(0, 12.5)", "0 < x < 12.5", 1.0),
        ("0 < x < 12.5", "(0, 12.5)", 1.0),
        ("(0, 12.5)", r"0 \le x < 12.5", 0.0),
        ("(0, 12.5)", "0 < x < 13", 0.0),
        ("[2, \\infty)", r"k \geqslant 2", 1.0),
        ("(2, \\infty)", r"k \geqslant 2", 0.0),
        (r"x \in [-2,7]", r"-2 \le x \le 7", 1.0),
        (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x > 3", 1.0),
        (r"(-\infty, 2) \cup (3, \infty)", r"x < 2 \text{ or } x \ge 3", 0.0),
        (r"\mathbb{R} \setminus \{0\}", r"x \neq 0", 1.0),
        ("(-2, 2)", "|x| < 2", 1.0),
        ("(1, 2)", "x > 1", 0.0),
        ("0 < x < 1", "0 < y < 1", 0.0),
    )


def test_what_is_wrong_in_one_item_is_wrong():
    grade(
        ("n=2, 3, 4", "n=1, 2, 3", 0.0),
        ("n=2, 3, 4", "4, 3, 2", 1.0),
        ("D = (0, 1)", "D = (0, 1.5)", 0.0),
        (r"19, 46, \text{ and } 82", "21, 36, and 82", 0.0),
        (r"19, 46, \text{ and } 82", "82, 46 and 19", 1.0),
        (r"\pm 2021", "2021", 0.0),
        (r"\pm 2021", "-2021, 2021", 1.0),
        (r"1, 2, \ldots, n", r"1, 3, 5, \ldots, 2n-1", 0.0),
        ("12:00", "1:00", 0.0),
        (r"1:2:3:\ldots", r"1:4:9:\ldots", 0.0),
        (r"1 - \frac{1}{\mathrm{e}}", r"1 + \frac{1}{\mathrm{e}}", 0.0),
        ("3x-y+13=0", "3x + 4y + 14=0", 0.0),
        ("52_8", "52_7", 0.0),
    )


def test_the_same_in_plain_text_and_in_latex():
    grade(
        ("e^{16} - 1", "-1 + exp(16)", 1.0),
        (r"\dfrac{\pi}{2}", "pi/2", 1.0),
        ("14 - i", "14.0 + -1.0i", 1.0),
        (r"-2\pi", "-2*pi", 1.0),
        ("71/6", "11 5/6", 1.0),
        ("2", "2 2/3", 0.0),
        ("73", "**73**", 1.0),
        ("2x+4y-3=0", r"y = -\frac{1}{2}x + \frac{3}{4}", 1.0),
        (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}", 1.0),
        ("1000000", "1 000 000", 1.0),
        (r"\frac13", r"0.\overline{3}", 1.0),
        ("Yes", "yes", 1.0),
        ("no", "on", 0.0),
        ("1/3", r"\frac{1}{3}", 1.0),
    )


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("2 * 500 = 1000\n#### 1,000", "1000"),
        ("x = 3 and y = 4\n#### (3, 4)", "(3, 4)"),
        ("(x-2)(x-3)\n#### 2, 3", "2, 3"),
        ("#### 1,000, 2,000", "1000, 2000"),
        ("#### (1,200)", "(1,200)"),
        ("#### (1,200,3)", "(1,200,3)"),
        ("#### 100,200,30", "100,200,30"),
        ("#### \\$1,234", "1234"),
        ("so it is 42 #### 42", "42"),
        ("#### $42$", "42"),
        ("#### $1,234.50", "1234.50"),
        ("#### Answer: 42", "42"),
        ("#### \\boxed{42}", "42"),
        ("##### 7\n#### 42", "42"),
        ("#### Step 1: set up\nx = 40 + 2\n#### Step 2: conclude\nso \\boxed{42}", "42"),
        ("#### 1. Set up\nx = 42\n#### 42\n\n#### Note\nchecked", "42"),
        ("#### Evelyn", "Evelyn"),
        (27.0, "27"),
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ],
)
def test_a_reference_is_read_after_the_sign_that_gives_the_answer(reference, wanted):
    assert extract.reference_text(reference) == wanted


@pytest.mark.parametrize(
    ("reference", "answer", "other"),
    [
        ("#### (1,200)", "(1, 200)", "1200"),
        ("#### (1,200,3)", "(1, 200, 3)", "(1, 2003)"),
        ("#### (1,200,3)", "(1200, 3)", "12003"),
        ("#### 100,200,30", "100, 200, 30", "10020030"),
        ("#### 1,000, 2,000", "1000, 2000", "1, 0, 2, 0"),
    ],
)
def test_commas_of_a_worked_reference_are_read_either_way(reference, answer, other):
    completions = [rf"\boxed{{{answer}}}", rf"\boxed{{{other}}}"]
    scores = math_reward(prompts=["?"] * 2, completions=completions, answer=[reference] * 2)
    assert scores == [1.0, 0.0]


@pytest.mark.parametrize(
    "completion",
    [
        "#### Step 1\n40 + 2 = 42\n\n#### Conclusion\nThe answer is 42.",
        "#### Step 1: 3 apples\nso 42\n#### Step 2: therefore\nThe answer is 42",
        "40 + 2 = 42\n#### 42\n\n#### Note\nchecked twice",
        "40 + 2 = 42\n#### 42\nI hope this helps.",
        "40 + 2 = 42 #### 42",
        "40 + 2 = 42\n#### Final answer: 42",
        "40 + 2 = 42\n#### Final answer\n42",
        "40 + 2 = 42\n#### **42**",
    ],
)
def test_headings_of_a_completion_are_not_its_answer(completion):
    assert math_reward(prompts=["?"], completions=[completion], answer=["42"]) == [1.0]
    assert math_reward(prompts=["?"], completions=[completion], answer=["43"]) == [0.0]


@pytest.mark.parametrize("reward", [math_reward, exact_match_reward])
def test_a_list_of_references_is_answered_by_any_of_them(reward):
    references = [["34"], ["0.5", "1/2"], [0.5, 7.0], '["0.5", "1/2"]', ["1", "2"], [None, "2"]]
    texts = [
        r"\boxed{34}",
        r"\boxed{1/2}",
        r"\boxed{7}",
        r"\boxed{1/2}",
        r"\boxed{3}",
        r"\boxed{2}",
    ]
    scores = reward(prompts=["?"] * 6, completions=texts, answer=references)
    assert scores == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    none = reward(prompts=["?"] * 3, completions=["1"] * 3, answer=[[], [None], [" "]])
    assert none == [None, None, None]


def test_commas_that_are_no_thousands_stay():
    grade(
        ("1,200", "1200", 1.0),
        ("(1,200)", "1200", 0.0),
        ("(1,200)", "(1, 200)", 1.0),
        (r"(2,12) \cup (12,102)", r"(2, 12) \cup (12, 102)", 1.0),
        ("12,102", "12, 102", 1.0),
        (r"10,\!080", "10080", 1.0),
    )
    [score] = exact_match_reward(prompts=["?"], completions=[r"\boxed{(1,200)}"], answer=["(1200)"])
    assert score == 0.0


def test_an_unmarked_answer_keeps_what_follows_its_number():
    cases = [
        ("2", "I get 2 million", 0.0),
        ("2000000", "I get 2 million", 1.0),
        ("2", "so we get 2x", 0.0),
        ("2", "The answer is 2 pi.", 0.0),
        ("2", "x = 2^{10}", 0.0),
        (r"7.5\%", "It is 7.5 percent of it", 1.0),
        ("18", "It costs $5 and she has $18 left", 1.0),
        ("18", "So she has 18 apples left over today.", 1.0),
        ("5 hours", "It takes 5 minutes.", 0.0),
        ("(3,4)", "The answer is (3, 4).", 1.0),
        ("Evelyn", "So the answer is Evelyn.", 1.0),
        ("18", "The answer is 18\n\nVisit us in 2024", 1.0),
    ]
    golds, texts, wanted = zip(*cases, strict=True)
    scores = math_reward(prompts=["?"] * len(cases), completions=list(texts), answer=list(golds))
    assert scores == list(wanted)


def test_an_answer_that_is_a_sentence_is_read():
    texts = ["The answer is 18", "Emma has 18 apples left", "x = 18 is the solution"]
    completions = [f"<answer>{text}</answer>" for text in texts]
    assert math_reward(prompts=["?"] * 3, completions=completions, answer=["18"] * 3) == [1.0] * 3
    assert math_reward(prompts=["?"] * 3, completions=completions, answer=["17"] * 3) == [0.0] * 3

"""What the rewards accept, refuse and leave unscored."""

import math
from typing import Any

import pytest

from dopr.core.errors import UserError
from dopr.rewards import (
    exact_match_reward,
    extract,
    format_reward,
    gym_reward,
    make_gym_reward,
    math_reward,
)
from dopr.rewards.noisy import flip_verdicts
from dopr.tasks import load_task


def score(reward, completions, answers, **columns):
    return reward(
        prompts=["p"] * len(completions), completions=completions, answer=answers, **columns
    )


def test_extraction_takes_the_last_marker():
    assert extract.boxed(r"\boxed{1} then \boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert extract.boxed(r"\boxed{2} then \boxed{unclosed") == "2"
    assert extract.boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert extract.answer_tag("<answer>1</answer> no, <answer> 2 </answer>") == "2"
    assert extract.answer_tag("<answer>1 <answer>2</answer>") == "2"
    assert extract.answer_tag("<answer>42") is None
    assert extract.hashes("#### 3\n#### 42 \nbye") == "42"


def test_answers_after_thinking_come_before_those_within():
    text = r"<think>maybe \boxed{3}</think> <answer>4</answer>"
    assert score(math_reward, [text], ["4"]) == [1.0]


@pytest.mark.parametrize(
    "gold",
    ["18", r"\frac{1}{2}", r"\text{Evelyn}", r"x \in [-2,7]", r"(3, \pi/2)", r"$\frac12$", "2,-1"],
)
@pytest.mark.parametrize("form", [r"\boxed{%s}", "<answer>%s</answer>", "so\n#### %s"])
def test_math_reward_accepts_the_reference_in_every_marker(gold, form):
    assert score(math_reward, [form % gold], [gold]) == [1.0]


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("1000", "1,000"),
        ("5", "x=5"),
        (r"90^\circ", "90"),
        (r"\frac{\pi}{2}", "pi/2"),
        ("18", "18 dollars"),
        (r"12 \text{ cm}", "12"),
        ("1,2", "2,1"),
        (r"\text{No}", "no"),
        (r"\text{(C)}", "C"),
        ("x^2+2x+1", "(x+1)^2"),
        ("[0,1)", r"\left[0,1\right)"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("(12,102)", "(12, 102)"),
        ("64,128,256", "256, 64, 128"),
        (r"10{,}000", "10000"),
    ],
)
def test_math_reward_accepts_other_spellings(gold, given):
    assert score(math_reward, [rf"\boxed{{{given}}}"], [gold]) == [1.0]


@pytest.mark.parametrize(
    ("gold", "given"),
    [("2", "-2"), ("(1,2)", "(2,1)"), ("[0,1)", "[0,1]"), ("east", "west"), ("A", "B"), ("4", "")],
)
def test_math_reward_refuses_other_answers(gold, given):
    assert score(math_reward, [rf"\boxed{{{given}}}"], [gold]) == [0.0]


def test_math_reward_reads_a_completion_without_marker():
    completions = ["First 7, so the answer is $18$.", "I get 18", "no idea"]
    assert score(math_reward, completions, ["18"] * 3) == [1.0, 1.0, 0.0]


def test_math_reward_reads_chat_completions_and_worked_references():
    chat = [{"role": "assistant", "content": r"\boxed{18}"}]
    references = ["9 * 2 = 18\n#### 18", r"so \boxed{18}", 18.0]
    assert score(math_reward, [chat] * 3, references) == [1.0, 1.0, 1.0]


def test_a_missing_reference_is_unscorable_and_a_missing_column_is_named():
    assert score(math_reward, [r"\boxed{1}"] * 3, [None, " ", math.nan]) == [None, None, None]
    assert score(exact_match_reward, ["1"], [None]) == [None]
    with pytest.raises(UserError, match="column named 'answer'"):
        math_reward(prompts=["p"], completions=["1"], solution=["1"])


def test_exact_match_normalises_white_space_commas_and_the_last_period():
    completions = ["<answer> 1,234. </answer>", "  1234 ", r"\boxed{1234}", "<answer>1235</answer>"]
    assert score(exact_match_reward, completions, ["1234"] * 4) == [1.0, 1.0, 1.0, 0.0]
    assert score(exact_match_reward, ["a  b"], ["a b"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>1</answer>", 1.0),
        (" <think>a\nb</think>\n<answer>1</answer>\n", 1.0),
        ("<answer>1</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think><answer>1</answer> more", 0.0),
        ("<think>a</think><answer>1</answer><answer>2</answer>", 0.0),
        ("<answer>1</answer><think>a</think>", 0.0),
        (r"so \boxed{1}.", 1.0),
        (r"so \boxed{}.", 0.0),
        (r"so \boxed{1", 0.0),
        (r"\boxed{1} and \boxed{2}", 0.0),
        ("1", 0.0),
    ],
)
def test_format_reward(text, expected):
    assert format_reward(prompts=["p"], completions=[text]) == [expected]


def test_format_reward_counts_a_think_tag_that_the_prompt_opened():
    completions = ["a</think><answer>1</answer>"]
    assert format_reward(prompts=["Q <think>\n"], completions=completions) == [1.0]
    assert format_reward(prompts=["Q"], completions=completions) == [0.0]


FAMILIES = "chain_sum countdown arc_agi rearc spiral_matrix number_sorting knights_knaves maze"


@pytest.mark.parametrize("family", FAMILIES.split())
def test_gym_reward_gives_the_reference_full_credit_through_the_json_metadata(family):
    rows = load_task(f"gym:{family}?size=2").to_dict()
    completions = [f"<think>..</think><answer>{answer}</answer>" for answer in rows["answer"]]
    columns = {key: rows[key] for key in ("data_source", "extra_info")}
    assert score(gym_reward, completions, rows["answer"], **columns) == [1.0, 1.0]
    assert score(gym_reward, rows["answer"], rows["answer"], **columns) == [0.0, 0.0]


def test_gym_reward_passes_partial_credit_unless_told_otherwise():
    rows = load_task("gym:spell_backward?size=1").to_dict()
    almost = rows["answer"][0][:-1] + "?"
    completions = [f"<answer>{almost}</answer>"]
    columns = {key: rows[key] for key in ("data_source", "extra_info")}
    [partial] = score(gym_reward, completions, rows["answer"], **columns)
    assert partial is not None and 0.0 < partial < 1.0
    strict = make_gym_reward(full_credit_only=True)
    assert score(strict, completions, rows["answer"], **columns) == [0.0]


def test_gym_reward_leaves_rows_of_other_tasks_unscored():
    assert score(gym_reward, ["<answer>1</answer>"], ["1"], data_source=["gsm8k"]) == [None]


def test_gym_reward_finds_the_family_in_the_metadata():
    metadata = [{"source_dataset": "chain_sum"}]
    assert score(gym_reward, ["<answer>4</answer>"], ["4"], metadata=metadata) == [1.0]


def test_gym_scorers_do_not_evaluate_what_the_model_wrote(tmp_path):
    rows = load_task("gym:spiral_matrix?size=1").to_dict()
    trace = tmp_path / "ran"
    attack = f"<answer>__import__('pathlib').Path({str(trace)!r}).touch()</answer>"
    columns = {key: rows[key] for key in ("data_source", "extra_info")}
    score(gym_reward, [attack], rows["answer"], **columns)
    assert not trace.exists()


def test_an_unknown_gym_family_is_named():
    with pytest.raises(UserError, match="did you mean 'chain_sum'"):
        score(gym_reward, ["<answer>1</answer>"], ["1"], data_source=["gym:chain_sums"])


def test_flipped_verdicts_come_at_the_given_share_and_are_the_same_again() -> None:
    def right(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        """All right, but for one that nobody could judge."""
        return [None, *[1.0] * (len(completions) - 1)]

    texts = [f"text {i}" for i in range(2001)]
    noisy = flip_verdicts(right, 0.25, seed=3)
    values = noisy(prompts=texts, completions=texts)
    assert values[0] is None and set(values[1:]) == {0.0, 1.0}
    assert 0.22 < values.count(0.0) / 2000 < 0.28
    assert noisy(prompts=texts, completions=texts) == values
    assert flip_verdicts(right, 0.25, seed=4)(prompts=texts, completions=texts) != values
    assert noisy.__name__ == "right" and flip_verdicts(right, 0.0) is right
    with pytest.raises(UserError, match="must lie in"):
        flip_verdicts(right, 1.0)

"""Supervised RL: expert solutions as step-wise instances, and the likeness of a step."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.advantages import compute_advantages
from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.stream import PromptStream
from dopr.rewards import load_reward, srl_reward
from dopr.rewards.noisy import flip_verdicts
from dopr.rewards.similarity import find_action, similarity
from dopr.runs.evaluation import summarise
from dopr.strategies import make_strategy
from dopr.tasks import load_task
from dopr.tasks.srl import read_steps
from pools import group, ledger_of


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"srl:{path}"


# -- steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1. Add 2.\n2. Take 3.5 away.\n3. Done.",
        "1) Add 2.\n2) Take 3.5 away.\n3) Done.",
        "(1) Add 2.\n(2) Take 3.5 away.\n(3) Done.",
        "Step 1: Add 2.\nStep 2: Take 3.5 away.\nStep 3: Done.",
        "**Step 1:** Add 2.\n\n**Step 2:** Take 3.5 away.\n\n**Step 3:** Done.",
        "### Step 1\nAdd 2.\n### Step 2\nTake 3.5 away.\n### Step 3\nDone.",
        "Add 2. Take 3.5 away.\nDone.",
    ],
)
def test_numbered_steps_and_sentences_are_found(text: str) -> None:
    assert read_steps(text) == ["Add 2.", "Take 3.5 away.", "Done."]


def test_numbers_out_of_turn_belong_to_their_step() -> None:
    text = "Let us see.\n1. There are\n3. of them\n2. So 6.\n2. Again."
    assert read_steps(text) == ["Let us see.\nThere are\n3. of them", "So 6.\n2. Again."]


def test_lines_and_lists_are_taken_as_they_are() -> None:
    assert read_steps("a = 1. b\n\nc = 2", "lines") == ["a = 1. b", "c = 2"]
    assert read_steps(["a", " b", " "]) == ["a", " b"]
    assert read_steps(None) == []


@given(st.lists(st.text("abc xyz", min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_numbering_steps_and_reading_them_again_gives_them_back(steps: list[str]) -> None:
    text = "\n".join(f"{i}. {step}" for i, step in enumerate(steps, start=1))
    assert read_steps(text) == [step.strip() for step in steps]


# -- instances -------------------------------------------------------------------------------

SOLVED = {"id": "p7", "problem": "What is 2 + 3 + 4?", "solution": "1. 2+3=5\n2. 5+4=9\n3. 9"}


def test_n_steps_give_n_minus_1_instances(tmp_path: Path) -> None:
    rows = load_task(write(tmp_path / "x.jsonl", SOLVED)).to_list()
    assert [row["id"] for row in rows] == ["p7/step-1", "p7/step-2"]
    assert [row["answer"] for row in rows] == ["2+3=5", "5+4=9"]
    assert rows[0]["prompt"].startswith("What is 2 + 3 + 4?\n\nThink about it")
    assert "Steps so far:\nStep 1: 2+3=5\n\nThink about it" in rows[1]["prompt"]
    assert "5+4=9" not in rows[1]["prompt"]
    assert rows[1]["data_source"] == "srl:x"
    assert json.loads(rows[1]["extra_info"])["step"] == 2


def test_without_a_thought_the_prompt_is_problem_and_steps(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", SOLVED)
    plain = load_task(f"{source}?thought=none")["prompt"]
    assert plain == ["What is 2 + 3 + 4?", "What is 2 + 3 + 4?\n2+3=5"]
    joined = load_task(f"{source}?thought=none&separator=%20|%20")["prompt"]
    assert joined[1] == "What is 2 + 3 + 4? | 2+3=5"


def test_columns_can_be_named_and_rows_limited(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", {"q": "?", "expert": ["a", "b", "c", "d"]})
    columns = {"prompt": "q", "answer": "expert"}
    assert load_task(source, columns=columns, limit=2)["answer"] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"problem": "p", "solution": "Just 9."}, "", "has 1 step"),
        ({"problem": "p", "solution": ""}, "", "has 0 step"),
        ({"problem": " ", "solution": "1. a\n2. b"}, "", "has no problem"),
        ({"problem": "p"}, "", "no column for the answer"),
        ({"solution": "1. a\n2. b"}, "", "no column for the prompt"),
        (SOLVED, "?stepz=lines", "did you mean 'steps'?"),
        (SOLVED, "?steps=line", "did you mean 'lines'?"),
        (SOLVED, "?thought=non", "did you mean 'none'?"),
        (SOLVED, "?steps", "has no value"),
        ({"problem": "p", "solution": "Just 9."}, "?short=drop", "has no rows"),
    ],
)
def test_bad_input_is_named_in_one_sentence(
    tmp_path: Path, row: dict[str, Any], options: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_task(write(tmp_path / "x.jsonl", row) + options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_task(f"srl:{tmp_path / 'none.jsonl'}")
    with pytest.raises(UserError, match="names no file"):
        load_task("srl:")


def test_solutions_of_one_step_can_be_left_out(tmp_path: Path) -> None:
    short = {"problem": "p", "solution": "Just 9."}
    source = write(tmp_path / "x.jsonl", short, SOLVED)
    assert len(load_task(f"{source}?short=drop")) == 2


# -- the reward ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "reference", "expected"),
    [
        ("abcd", "bcde", 2 * 3 / 8),
        ("abc", "abc", 1.0),
        ("abc", "xyz", 0.0),
        ("2+3=6", "2+3=5", 2 * 4 / 10),
        ("a  b\n", "a b", 1.0),
        ("ab" * 150, "ab" * 100, 2 * 200 / 500),  # long ones too: no shortcut
    ],
)
def test_similarity_by_hand(action: str, reference: str, expected: float) -> None:
    assert similarity(action, reference) == pytest.approx(expected)


@given(st.text(max_size=30), st.text(max_size=30))
def test_similarity_lies_between_0_and_1(a: str, b: str) -> None:
    assert 0 <= similarity(a, b) <= 1
    assert similarity(a, a) == 1


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<think>hm</think> 2+3=5 ", "2+3=5"),
        ("hm</think>2+3=5", "2+3=5"),
        ("2+3=5", None),
        ("<think>2+3=5", None),
        ("<think>a</think>", None),
        ("<think>a</think><think>b</think>c", None),
        ("a<think>b</think>c", None),
    ],
)
def test_a_step_follows_one_closed_thought(text: str, action: str | None) -> None:
    assert find_action(text) == action


def test_without_a_thought_a_step_ends_at_the_separator() -> None:
    assert find_action("\n2+3=5\n5+4=9", "none", "\n") == "2+3=5"
    assert find_action(" 2+3=5 ", "none") == "2+3=5"
    assert find_action(" ", "none", "\n") is None


def test_reward_of_a_loaded_row(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "x.jsonl", SOLVED))
    columns = {name: [task[1][name]] * 4 for name in ("answer", "extra_info", "data_source")}
    texts = ["<think>t</think>5+4=9", "<think>t</think>5+4=8", "5+4=9", ""]
    found = load_reward("srl")(prompts=[""] * 4, completions=texts, **columns)
    assert found == [1.0, 0.8, -1.0, -1.0]
    chat = [[{"role": "assistant", "content": texts[0]}]]
    assert srl_reward([""], chat, answer=["5+4=9"]) == [1.0]


def test_difflibs_shortcut_is_an_option() -> None:
    assert similarity(
        "Add the two sides: 3 + 4 = 7.", "Add both sides: 3 + 4 = 7"
    ) == pytest.approx(0.851852, abs=1e-6)
    action, reference = "ab" * 150 + "c", "b" * 5 + "ab" * 120
    assert similarity(action, reference) == pytest.approx(0.882784, abs=1e-6)
    assert similarity(action, reference, autojunk=True) == 0
    rows = [f'{{"thought": "none", "ratio": "{ratio}"}}' for ratio in ("plain", "autojunk")]
    found = srl_reward(["?"] * 2, [action] * 2, answer=[reference] * 2, extra_info=rows)
    assert found == [pytest.approx(0.882784, abs=1e-6), 0]


def test_a_step_can_be_asked_for_after_an_inner_monologue(tmp_path: Path) -> None:
    file = tmp_path / "solved.jsonl"
    file.write_text('{"problem": "2 + 3 + 4?", "solution": "1. 2+3=5\\n2. 5+4=9"}\n')
    [row] = load_task(f"srl:{file}?wording=monologue&ratio=autojunk")
    assert "very next logical step" in row["prompt"] and "inner monologue" in row["prompt"]
    assert '"ratio": "autojunk"' in row["extra_info"]
    for option in ("wording=long", "ratio=none"):
        with pytest.raises(UserError, match=option.partition("=")[0]):
            load_task(f"srl:{file}?{option}")


def test_rows_of_other_tasks_and_without_reference_are_not_scored() -> None:
    sources = ["gym:chain_sum", "srl:x", "rows"]
    texts, answers = ["a</think>b"] * 3, ["b"] * 3
    assert srl_reward([""] * 3, texts, answer=answers, data_source=sources) == [None, 1.0, 1.0]
    assert srl_reward([""], ["a</think>b"], answer=[""]) == [None]
    with pytest.raises(UserError, match="answer"):
        srl_reward([""], ["a"])


# -- dense, partly negative rewards in the rest of the machine -------------------------------

REWARDS = [-1.0, 0.25, 0.5, 0.65]  # mean 0.1


def test_advantages_of_dense_rewards() -> None:
    one = group(0, REWARDS)
    ledger = ledger_of(REWARDS)
    [plain] = compute_advantages([one], ledger, "group", "none")
    assert plain == pytest.approx([-1.1, 0.15, 0.4, 0.55])
    [scaled] = compute_advantages([one], ledger, "group", "group")
    std = math.sqrt((1.21 + 0.0225 + 0.16 + 0.3025) / 3)
    assert scaled == pytest.approx(np.array([-1.1, 0.15, 0.4, 0.55]) / (std + 1e-4))
    [posterior] = compute_advantages([one], ledger, "dbb", "none")
    assert np.isfinite(posterior).all() and posterior[0] < 0 < posterior[-1]
    [blank] = compute_advantages([group(0, [-1.0] * 4)], ledger, "zvp", "none")
    assert (blank < 0).all()


def test_the_ledger_scales_volatility_by_the_range_of_rewards() -> None:
    ledger = ledger_of([-1.0, 1.0], [0.0, 0.5])
    assert ledger.volatility("total") == pytest.approx([1.0, 0.0625])


def test_evaluation_gives_a_negative_mean_and_counts_exact_steps() -> None:
    found = summarise(np.array([[-1.0, 1.0], [-1.0, -1.0]]), k=2)
    assert found["avg@k"] == -0.5
    assert found["pass@k"] == 0.5


def test_noise_on_verdicts_refuses_rewards_that_are_none() -> None:
    noisy = flip_verdicts(srl_reward, 0.5)
    with pytest.raises(UserError, match="a reward gave -1; set reward_noise to 0"):
        noisy([""], ["no thought"], answer=["a"])


def test_groups_of_little_spread_are_sampled_again() -> None:
    """std is 0.01 for prompts below 4 and 0.5 for the others."""
    pool = {i: [0.5, 0.52] if i < 4 else [0.0, 1.0] for i in range(8)}

    def rollout(requests: list[Any]) -> list[Any]:
        return [group(r.prompt_id, pool[r.prompt_id]) for r in requests]

    def kept(**options: Any) -> set[int]:
        strategy = make_strategy("dapo", prompts_per_step=4, num_generations=2, **options)
        driver = Driver(strategy, PromptStream(8, seed=1))
        return {g.prompt_id for g in driver.step(rollout).kept}

    assert kept(min_reward_std=0.05) == {4, 5, 6, 7}
    assert kept() != {4, 5, 6, 7}
    assert kept(min_reward_std=0.6) == set()
    with pytest.raises(UserError, match="must not be negative"):
        make_strategy("dapo", min_reward_std=-1.0)

"""The pool of examples/arithmetic_in_steps.py: every line is right, and no question comes twice."""

import json
import re
import sys
from itertools import pairwise
from math import prod
from pathlib import Path
from types import ModuleType

import pytest

from dopr.rewards import load_reward
from scripts import load_script

KINDS = ("sums", "differences", "products")
PARTS = ("start", "train", "test")


@pytest.fixture(scope="module")
def pool() -> ModuleType:
    return load_script("examples/arithmetic_in_steps.py")


def value_of(text: str) -> int:
    """What `60 * 4 + 8 * 4 - 3` is."""
    signs = [1 if sign == "+" else -1 for sign in re.findall(r" ([-+]) ", text)]
    terms = [prod(map(int, term.split(" * "))) for term in re.split(r" [-+] ", text)]
    return terms[0] + sum(sign * term for sign, term in zip(signs, terms[1:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_every_step_of_a_solution_is_worth_the_question(
    pool: ModuleType, kind: str, part: str
) -> None:
    rows = getattr(pool, kind)(part)
    assert len(rows) >= 176
    for row in rows:
        steps = [row["prompt"].removesuffix(" ="), *row["solution"].split(" = ")]
        assert len(steps) == 4 and steps[-1] == row["answer"]
        assert all(value_of(one) == value_of(next_one) for one, next_one in pairwise(steps))


def test_no_question_is_in_two_parts(pool: ModuleType) -> None:
    asked = [row["prompt"] for kind in KINDS for part in PARTS for row in getattr(pool, kind)(part)]
    assert len(asked) == len(set(asked)) == 1200 + 1200 + 640


def test_the_reward_takes_a_solution_for_right_and_a_slip_for_wrong(pool: ModuleType) -> None:
    reward, rows = load_reward("math"), pool.arithmetic("test")[::40]
    answers = [row["answer"] for row in rows]
    right = [f" {row['solution']}\n" for row in rows]
    wrong = [f" {row['solution']}1\n" for row in rows]
    prompts = [row["prompt"] for row in rows]
    assert reward(prompts=prompts, completions=right, answer=answers) == [1.0] * len(rows)
    assert reward(prompts=prompts, completions=wrong, answer=answers) == [0.0] * len(rows)


def test_solutions_for_the_supervised_start_are_written(
    pool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "solutions.jsonl"
    monkeypatch.setattr(sys, "argv", ["arithmetic_in_steps.py", "--output", str(file)])
    pool.main()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 1440
    question, answer = lines[0]["prompt"], lines[0]["response"]
    assert question.endswith(" =") and answer.startswith(" ") and answer.endswith("\n")
    assert {line["prompt"] for line in lines} == {
        row["prompt"] for kind in KINDS for row in getattr(pool, kind)("start")
    }

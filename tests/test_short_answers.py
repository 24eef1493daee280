"""The pools of examples/short_answers.py: what is asked, and that its answer is right."""

import logging
import math
import re
from types import ModuleType

import pytest

from scripts import load_script

KINDS = {"worked_sums": "-+", "worked_products": "*", "worked_divisors": ","}


@pytest.fixture(scope="module")
def pools() -> ModuleType:
    return load_script("examples/short_answers.py")


def value_of(line: str) -> int:
    """What `35 + 21 =` or `gcd(12, 18) =` is."""
    found = re.fullmatch(r"(?:gcd\()?(-?\d+) ?([-+*,]) (-?\d+)\)? =", line)
    assert found, line
    first, second = int(found[1]), int(found[3])
    return {
        "+": first + second,
        "-": first - second,
        "*": first * second,
        ",": math.gcd(first, second),
    }[found[2]]


@pytest.mark.parametrize("name", KINDS)
def test_a_question_follows_three_worked_ones_of_its_kind(pools: ModuleType, name: str) -> None:
    rows = getattr(pools, name)("test")
    assert len(rows) > 100
    for row in rows:
        *shown, asked = row["prompt"].splitlines()
        assert len(shown) == 3
        for line in shown:
            question, _, answer = line.rpartition(" ")
            assert value_of(question) == int(answer)
        assert value_of(asked) == int(row["answer"])
        assert set(KINDS[name]) & set(asked)


def test_no_question_is_in_both_parts(pools: ModuleType) -> None:
    train, test = ({row["prompt"] for row in pools.worked(part)} for part in ("train", "test"))
    assert len(train) == 1120 and len(test) == 528
    assert not train & test


def test_reading_a_pool_leaves_other_warnings_on(pools: ModuleType) -> None:
    logger = logging.getLogger("dopr.tasks")
    before = logger.level
    pools.worked_sums("test")
    assert logger.level == before

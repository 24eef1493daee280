"""Candidates that were not chosen stand for choice again, and are not read again."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, move_fields
from dopr.core.stream import PromptStream
from dopr.strategies import DoPR
from pools import bernoulli_pool

TRUTH = np.where(np.arange(300) % 5 == 0, 0.5, 0.01)


class Reader:
    """Says how likely answers are, and notes whose it was asked for in each step."""

    def __init__(self, truth: np.ndarray) -> None:
        self.said = np.log(truth)
        self.asked: list[list[int]] = []

    def __call__(self, request: Any) -> tuple[np.ndarray, int]:
        self.asked.append(list(request.prompt_ids))
        return self.said[self.asked[-1]], len(self.asked[-1])


def run(steps: int, truth: np.ndarray = TRUTH, **options: Any) -> tuple[Driver, Reader]:
    """A driver that has trained for some steps of two prompts, by default on a fifth of coins."""
    strategy = DoPR(answers=True, num_generations=4, prompts_per_step=2, **options)
    driver = Driver(strategy, PromptStream(300, 1), can_measure=frozenset({"answer_likelihood"}))
    reader, roll_out = Reader(truth), bernoulli_pool(truth)
    for _ in range(steps):
        driver.step(roll_out, reader)
    return driver, reader


def coins(driver: Driver) -> float:
    """The share of coins among the prompts rolled out."""
    return float((TRUTH[driver.ledger.visits > 0] == 0.5).mean())


def test_what_is_carried_on_is_not_read_again() -> None:
    _, reader = run(8, candidates=4, carry=16, reread=99)
    assert [len(asked) for asked in reader.asked] == [4] * 8


def test_what_is_carried_on_is_read_again_when_it_is_old() -> None:
    _, reader = run(3, candidates=4, carry=16, reread=2)
    # Of the first four two were chosen; the others are old in the third step.
    assert [len(asked) for asked in reader.asked] == [4, 4, 6]
    assert len(set(reader.asked[2]) & set(reader.asked[0])) == 2


def test_new_candidates_may_come_every_few_steps() -> None:
    driver, reader = run(8, candidates=16, carry=16, reread=99, draw_every=4)
    assert [len(asked) for asked in reader.asked] == [16, 16]
    assert (driver.ledger.visits > 0).sum() == 16


def test_new_candidates_come_sooner_where_too_few_are_left() -> None:
    _, reader = run(4, candidates=5, carry=16, reread=99, draw_every=4)
    # Two of five, two of three; one is not enough for the third step.
    assert [len(asked) for asked in reader.asked] == [5, 5]


def test_carrying_on_chooses_better_for_the_same_reading() -> None:
    alone, read_alone = run(40, candidates=4)
    carried, read_carried = run(40, candidates=4, carry=32, reread=99)
    assert sum(map(len, read_carried.asked)) == sum(map(len, read_alone.asked))
    # A fifth of four are coins, two in few steps: one that is left over serves a step without any.
    assert coins(carried) > coins(alone)


def test_the_log_tells_how_many_were_carried_on() -> None:
    likely = np.full(300, 0.5)
    driver, reader = run(1, likely, candidates=4, carry=16, reread=99)
    assert driver.strategy.metrics()["select/carried"] == 0
    # Nobody would take any of these, beside the two that were left.
    reader.said[:] = -9.0
    driver.step(bernoulli_pool(likely), reader)
    assert driver.strategy.metrics()["select/carried"] == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 20), st.integers(0, 400))
def test_candidates_are_distinct_and_none_of_them_was_just_chosen(
    candidates: int, carry: int, seed: int
) -> None:
    strategy = DoPR(prompts_per_step=2, candidates=candidates, carry=carry, num_generations=4)
    driver = Driver(strategy, PromptStream(30, seed))
    roll_out = bernoulli_pool(TRUTH[:30], seed=seed)
    for _ in range(5):
        found = driver.step(roll_out)
        left = driver.strategy._carried  # type: ignore[attr-defined]
        assert len(left) <= carry and len(set(left.tolist())) == len(left)
        assert not set(left.tolist()) & {group.prompt_id for group in found.generated}
        standing = driver.strategy.candidates_of_now(driver.stream, driver.ledger, 2)  # type: ignore[attr-defined]
        assert len(set(standing.tolist())) == len(standing) >= candidates


def test_prompts_on_their_way_are_not_carried_on() -> None:
    strategy, stream = DoPR(prompts_per_step=1, candidates=2, carry=4), PromptStream(30, 0)
    strategy._carried = np.array([7, 8])
    stream.withheld[7] = 1
    standing = strategy.candidates_of_now(stream, Ledger(30), 1).tolist()
    assert 7 not in standing
    assert 8 in standing


def test_what_is_carried_on_follows_its_prompts_to_other_rows() -> None:
    strategy = DoPR(prompts_per_step=1, candidates=2, carry=4)
    strategy._carried = np.array([0, 1, 2])
    move_fields(strategy, Moves(np.array([5, -1, 0]), 6))
    assert strategy._carried.tolist() == [5, 0]


def test_nothing_changes_without_it() -> None:
    strategy = DoPR(prompts_per_step=1, candidates=8)
    stream, same = PromptStream(30, 3), PromptStream(30, 3)
    assert strategy.candidates_of_now(stream, Ledger(30), 1).tolist() == same.draw(8).tolist()


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="carry is -1"):
        DoPR(carry=-1)
    with pytest.raises(UserError, match="prior"):
        DoPR(carry=4, prior="pool")
    with pytest.raises(UserError, match="set carry too"):
        DoPR(draw_every=2)
    with pytest.raises(UserError, match="draw_every is 0"):
        DoPR(carry=4, draw_every=0)

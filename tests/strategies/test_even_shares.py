"""Kinds of prompts have their shares of the choice, by numbers worked out by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan
from dopr.core.stream import PromptStream
from dopr.strategies.parts.even_shares import EvenShares


@dataclass
class Even(EvenShares):
    name = "even"

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        raise NotImplementedError


KINDS = np.array([0.0, 0.0, 0.0, 100.0])[:, None]  # three alike and one apart


def choose(even: Even, worth: list[float], features: np.ndarray | None, count: int) -> tuple:  # type: ignore[type-arg]
    picked = even.choose_evenly(features, np.array(worth), count, np.random.default_rng(0))
    return picked.positions, picked.counted, picked.spread


def test_a_step_holds_different_kinds() -> None:
    # Shares of 3/4 and 1/4. First 0.9 (3/4 + 1/64) / (1/64) against 0.5 (1/4 + 1/64) / (1/64). Then
    # the first kind was chosen once: 0.8 (3/4 + 1/64) / (2/64) = 19.6 against still 8.5, and so on.
    chosen, counted, _ = choose(Even(balance=1.0), [0.9, 0.8, 0.7, 0.5], KINDS, 4)
    assert chosen.tolist() == [0, 1, 2, 3]
    assert counted == pytest.approx([0.9 * 49, 0.8 * 49 / 2, 0.7 * 49 / 3, 0.5 * 17], rel=1e-3)
    chosen, counted, _ = choose(Even(balance=1.0), [0.9, 0.8, 0.7, 0.8], KINDS, 3)
    assert chosen.tolist() == [0, 1, 3]
    assert counted[2] == pytest.approx(0.8 * 17, rel=1e-3)


def test_a_kind_is_chosen_in_proportion_to_its_part_and_worth() -> None:
    # Two kinds of equal parts, worth 1 and 1/2: with balance 1 two choices to one.
    features = np.repeat([[0.0], [100.0]], 10, axis=0)
    even, counts = Even(balance=1.0), np.zeros(2)
    for _ in range(100):
        chosen, _, _ = choose(even, [1.0] * 10 + [0.5] * 10, features, 3)
        counts += np.bincount(chosen // 10, minlength=2)
    assert counts[0] / counts[1] == pytest.approx(2.0, abs=0.2)


def test_without_features_or_balance_the_best_are_chosen() -> None:
    for balance, features in ((1.0, None), (0.0, KINDS)):
        chosen, counted, _ = choose(Even(balance=balance), [0.2, 0.9, 0.8, 0.1], features, 2)
        assert chosen.tolist() == [1, 2]
        assert counted == pytest.approx([0.9, 0.8], rel=1e-6)


def test_how_varied_the_choice_is_can_be_read_off() -> None:
    # Among the candidates 10 of 16 pairs are alike; in a choice of one kind alone all are, and in
    # one of three of a kind and one apart as many as among the candidates.
    even = Even(balance=0.0)
    assert choose(even, [0.9, 0.8, 0.7, 0.1], KINDS, 3)[2] == pytest.approx(10 / 16)
    assert choose(even, [0.0, 0.0, 0.0, 1.0], KINDS, 1)[2] == pytest.approx(1.0)
    assert choose(even, [0.9, 0.8, 0.7, 0.1], None, 3)[2] is None


def test_more_prompts_than_there_are_gives_all() -> None:
    assert sorted(choose(Even(), [0.5, 0.5], None, 7)[0].tolist()) == [0, 1]


def test_a_negative_balance_is_refused() -> None:
    with pytest.raises(UserError, match="balance"):
        Even(balance=-1.0)

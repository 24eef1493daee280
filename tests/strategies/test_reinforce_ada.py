"""Reinforce-Ada, against numbers worked out by hand."""

import pytest

from dopr.core.advantages import compute_advantages
from dopr.strategies import ReinforceAda
from games import Game
from pools import group, ledger_of

NAN = float("nan")


def test_reinforce_ada_stops_at_two_right_and_two_wrong() -> None:
    rounds = {
        0: [[1, 0, 0, 0, 0, 0, 0, 0]] * 4,  # balanced after two rounds
        1: [[0] * 8] * 4,  # never right
        2: [[0, 1, 1, 0, 0, 1, 1, 1]],  # balanced at once
    }
    left = {prompt: list(outcomes) for prompt, outcomes in rounds.items()}
    game = Game(ReinforceAda(prompts_per_step=3), lambda prompt, n: left[prompt].pop(0), 3)
    first, second, third = game.step().kept
    assert game.asked == [[(0, 8), (1, 8), (2, 8)], [(0, 8), (1, 8)], [(1, 8)], [(1, 8)]]
    assert first.kept.tolist() == [0, 1, 2, 8] and first.baseline == pytest.approx(2 / 16)
    advantages = compute_advantages([first], game.driver.ledger, scale="none")[0][first.kept]
    assert advantages == pytest.approx([14 / 16, -2 / 16, -2 / 16, 14 / 16])
    assert second.kept.tolist() == [0, 1, 2, 3] and second.baseline == 0
    assert third.kept.tolist() == [0, 1, 2, 3] and third.baseline == pytest.approx(5 / 8)
    assert game.strategy.metrics()["select/balanced_share"] == pytest.approx(2 / 3)


def test_reinforce_ada_fills_up_with_the_other_kind() -> None:
    strategy, ledger = ReinforceAda(), ledger_of([0.0, 1.0], size=4)
    assert strategy.balance(group(0, [0, 0, 0, NAN, 0, 1, 0]), ledger).kept.tolist() == [0, 1, 2, 5]
    assert strategy.balance(group(0, [1, 1, 1, 1, 1]), ledger).kept.tolist() == [0, 1, 2, 3]
    unscored = strategy.balance(group(0, [NAN] * 6), ledger)
    assert unscored.num_kept == 4 and unscored.baseline is None

"""GRESO, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.strategies import GRESO
from games import Ascending, Game, shares
from pools import group


def test_greso_skips_more_surely_with_every_visit_without_signal() -> None:
    strategy = GRESO(p_easy=0.5, p_hard=0.2)
    strategy._easy_streak = np.array([0, 1, 2, 7, 0, 0], np.int32)
    strategy._hard_streak = np.array([0, 0, 0, 0, 1, 3], np.int32)
    expected = [0, 0.5, 0.75, 0.99, 0.8, 0.99]
    assert strategy.skip_probability(np.arange(6)) == pytest.approx(expected)
    drawn = np.concatenate([strategy._draw(6, Ascending(6, seed), set()) for seed in range(4000)])
    kept = np.bincount(drawn, minlength=6) / 4000
    assert kept == pytest.approx(1 - np.array(expected), abs=0.03)


def test_greso_refills_as_its_official_code() -> None:
    # 256 prompts a step: 384 first; then need / (1 - share) * 1.25, within 64 and 384.
    strategy = GRESO(prompts_per_step=256)
    assert strategy.first_round == 384
    assert strategy.refill(100, 0.5) == (250, True)
    assert strategy.refill(200, 0.5) == (384, False)
    assert strategy.refill(10, 0.0) == (64, True)
    assert strategy.refill(10, 1.0) == (384, False)


def test_greso_counts_streaks_and_holds_its_targets() -> None:
    strategy = GRESO(prompts_per_step=2)
    game = Game(strategy, shares([1, 0, *[0.5] * 6]), 8)
    strategy = game.strategy  # the copy that runs
    game.step()
    assert game.asked == [[(0, 8), (1, 8), (2, 8)], [(3, 8), (4, 8), (5, 8)]]  # one epoch
    assert strategy._easy_streak.tolist()[:2] == [1, 0]
    assert strategy._hard_streak.tolist()[:2] == [0, 1]
    assert (strategy._easy, strategy._hard) == (0.5, 0.5)
    game.driver.stream.epoch = 1
    later = [group(0, [1, 1]), *[group(2, [0, 1])] * 3]  # a quarter all right, none all wrong
    strategy._adapt(later, game.driver.stream, game.driver.ledger)
    assert (strategy._easy, strategy._hard) == pytest.approx((0.49, 0.51))
    for _ in range(100):
        strategy._adapt(later, game.driver.stream, game.driver.ledger)
    assert (strategy._easy, strategy._hard) == pytest.approx((0.05, 0.95))

"""CERO, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import CERO
from pools import bernoulli_pool, group


def test_ceros_prices_and_units_over_three_rounds() -> None:
    # 4 prompts, 10 rounds, 20 units of 4 rollouts, at most 2 a prompt and 4 a round.
    strategy = CERO(prompts_per_step=1, rounds=10, capacity=2.0)
    strategy._counts, strategy._theta = np.ones((4, 2)), np.full(4, 2 / 3)
    order, ledger, right = np.arange(4), Ledger(4), [0, 4, 7, 2]

    def play(prompts: list[int]) -> None:
        given = strategy.wanted(order, 4)
        assert given.tolist() == [2 * (i in prompts) for i in range(4)]
        groups = [group(i, [1] * right[i] + [0] * (8 - right[i])) for i in prompts]
        ledger.observe(groups)
        strategy._learn(groups, ledger)
        strategy.move_prices(given, 2.0)

    play([0, 1])
    assert strategy._theta == pytest.approx([0.350439, 0.377411, 0.666667, 0.666667], abs=1e-6)
    assert strategy._nu == pytest.approx(0.816228, abs=1e-6)
    play([])
    assert strategy._theta == pytest.approx([0.350439, 0.453861, 0.666667, 0.666667], abs=1e-6)
    assert strategy._nu == pytest.approx(0.5, abs=1e-6)
    play([2, 3])
    assert strategy._theta == pytest.approx([0.350439, 0.514270, 0.350439, 0.364498], abs=1e-6)
    assert strategy._nu == pytest.approx(0.816228, abs=1e-6)


def test_cero_gives_something_in_every_step_and_keeps_to_its_budget() -> None:
    success = np.linspace(0, 1, 40)
    driver = Driver(CERO(rounds=20, capacity=1.7), PromptStream(40, 0))
    strategy: CERO = driver.strategy  # type: ignore[assignment]  # the copy that runs
    spent: list[int] = []  # units of 4 rollouts, by budget
    for _ in range(60):
        before = strategy._left
        units = sum(g.num_rollouts for g in driver.step(bernoulli_pool(success)).generated) / 4
        assert 1 <= units <= 27  # 1.7 * 16
        if strategy._left > before:
            spent.append(0)
        spent[-1] += int(units)
        assert strategy._left == 20 * 16 - spent[-1] >= 0
    assert 20 * 16 in spent  # one was used up to the last unit


def test_ceros_posteriors_fade_whether_or_not_a_round_visits_them() -> None:
    strategy, ledger = CERO(memory=0.5), Ledger(2)
    strategy._counts = np.array([[5.0, 3.0], [5.0, 3.0]])
    right = group(0, [1, 1, 0])
    ledger.observe([right])
    strategy._learn([right], ledger)
    assert strategy._counts.tolist() == [[5, 3], [3, 2]]


def test_cero_gives_something_where_its_prices_are_far_apart() -> None:
    driver = Driver(CERO(capacity=1e6), PromptStream(20, 0))
    assert all(driver.step(bernoulli_pool(np.zeros(20))).kept for _ in range(6))

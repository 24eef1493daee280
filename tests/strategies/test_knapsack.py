"""Knapsack RL, against numbers worked out by hand."""

import numpy as np
import pytest

from divisions import best_value, value_of
from dopr.strategies import Knapsack


def test_knapsacks_values_by_hand() -> None:
    values = Knapsack().values(np.array([0.5, 0.1, 0.0]), np.array([2, 8]))
    assert values[0] == pytest.approx([(1 - 2 * 0.25) * 0.125, (1 - 2 / 256) * 0.125])
    assert values[1] == pytest.approx([0.18 * 0.081, (1 - 0.1**8 - 0.9**8) * 0.081])
    assert values[2].tolist() == [0, 0]


def test_knapsacks_fallback_by_the_official_rule_but_for_the_unseen() -> None:
    seen, unseen = np.ones(3, bool), np.array([True, True, True, False])
    strategy = Knapsack()
    # 3 rollouts at p = 1/2 suffice for 0.9: 2 + 3; the prompt at 0 takes the other 15.
    counts = strategy.allocate(np.array([0.5, 0.0, 1.0, 0.4]), unseen)
    assert counts.tolist() == [5, 17, 2, 8]
    # None at 0: the surplus goes to those at 1.
    few = Knapsack(num_generations=4)
    assert few.allocate(np.array([0.5, 1.0, 1.0]), seen).tolist() == [5, 4, 3]
    # Nothing in between: all to those at 0; nothing at 0 either: equal groups.
    assert few.allocate(np.array([0.0, 1.0, 0.0]), seen).tolist() == [5, 2, 5]
    assert few.allocate(np.ones(3), seen).tolist() == [4, 4, 4]
    # All in between: the whole budget is a knapsack.
    counts = few.allocate(np.array([0.5, 0.2, 0.9]), seen)
    values = few.values(np.array([0.5, 0.2, 0.9]), np.arange(2, 9))
    assert value_of(values, 2, counts) == pytest.approx(best_value(values, 2, 12))


def test_knapsack_takes_rates_that_are_all_but_certain() -> None:
    rates, seen = np.array([1e-20, 0.0, 0.5, 1.0]), np.ones(4, dtype=bool)
    assert Knapsack(num_generations=8).allocate(rates, seen).sum() == 32

"""Dividing a budget of rollouts over prompts, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divisions import best_value, rates, value_of
from dopr import make_strategy
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates, to_unit
from dopr.strategies import CobaRL, Knapsack
from dopr.strategies.parts.allocation import (
    even_allocation,
    greedy_allocation,
    knapsack_allocation,
    proportional_allocation,
)
from dopr.strategies.parts.turns import draw_by_weight, in_turn
from pools import QUANTITIES, bernoulli_pool, group, ledger_of, measurer

UNEQUAL = ("coba-rl", "knapsack")


def test_success_rates_are_shrunk_to_the_pool_and_the_unseen_take_its_mean() -> None:
    ledger = ledger_of([1, 1, 1, 0], [0, 0, 0, 0], size=3)  # means 3/4 and 0, the pool's 3/8
    assert success_rates(ledger, prior_strength=0) == pytest.approx([0.75, 0, 0.375])
    # (4 * 3/4 + 2 * 3/8) / 6 and (0 + 2 * 3/8) / 6
    assert success_rates(ledger) == pytest.approx([3.75 / 6, 0.75 / 6, 0.375])
    assert success_rates(ledger, np.array([1]), 2.0, 0.5) == pytest.approx([1 / 6])
    assert success_rates(Ledger(2), prior_strength=0) == pytest.approx([0.5, 0.5])


def test_rewards_of_any_range_are_mapped_to_the_unit_interval() -> None:
    ledger = ledger_of([-3, 1], [np.nan, -1])
    assert to_unit([-3, -1, 1], ledger) == pytest.approx([0, 0.5, 1])
    assert np.isnan(to_unit(np.nan, ledger))
    assert to_unit(-1, ledger, 5.0) == pytest.approx(0.25)
    # One value alone: a verdict is 0 or 1.
    assert to_unit(0.0, ledger_of([0, 0])) == 0
    assert to_unit(1.0, ledger_of([1, 1])) == 1
    assert to_unit(0.3, Ledger(1)) == pytest.approx(0.3)


def test_prompts_come_in_turn() -> None:
    ledger, prompts = Ledger(6), PromptStream(6)
    ids = np.array([1, 3, 5])
    for _ in range(4):
        chosen = in_turn(ids, 2, ledger, prompts)
        ledger.observe(group(int(i), [0, 1]) for i in chosen)
        ledger.end_step()
    assert ledger.visits[ids].min() >= 2 and ledger.visits.sum() == 8
    assert sorted(in_turn(ids, 9, ledger, prompts).tolist()) == [1, 3, 5]
    prompts.withheld = {1: 2, 5: 2}  # on their way: after all others, however often these were met
    ledger.observe([group(3, [0, 1])])
    assert in_turn(ids, 1, ledger, prompts).tolist() == [3]


def test_draws_follow_their_weights_and_never_overflow() -> None:
    rng = np.random.default_rng(0)
    logs = np.log([3.0, 1.0])
    first = [int(draw_by_weight(logs, 1, rng)[0]) for _ in range(4000)]
    assert np.mean(first) == pytest.approx(0.25, abs=0.03)
    both = draw_by_weight(np.array([1e6, 0.0, 1e6]), 2, rng)
    assert sorted(both.tolist()) == [0, 2]
    assert sorted(draw_by_weight(logs, 5, rng).tolist()) == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.05, 0.99), min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 20))
def test_greedy_is_optimal_for_cobas_values(ps: list[float], failure: float, extra: int) -> None:
    strategy, low, high = CobaRL(), 2, 9
    values = strategy.values(np.array(ps), np.arange(low, high + 1), strategy.alpha(failure))
    budget = min(len(ps) * low + extra, len(ps) * high)
    counts = greedy_allocation(values, budget, low)
    assert counts.sum() == budget and counts.min() >= low and counts.max() <= high
    assert value_of(values, low, counts) == pytest.approx(best_value(values, low, budget))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(
            st.lists(st.floats(-5, 5), min_size=5, max_size=5), min_size=m, max_size=m
        )
    ),
    st.integers(0, 12),
)
def test_dynamic_programming_is_optimal_for_any_values(rows: Any, extra: int) -> None:
    values, low = np.array(rows), 2
    budget = len(rows) * low + min(extra, len(rows) * 4)
    counts = knapsack_allocation(values, budget, low)
    assert counts.sum() == budget
    assert value_of(values, low, counts) == pytest.approx(best_value(values, low, budget))


@given(rates, st.integers(0, 30))
def test_dynamic_programming_is_optimal_for_the_knapsacks_values(
    ps: list[float], extra: int
) -> None:
    low, high = 2, 9
    values = Knapsack().values(np.array(ps), np.arange(low, high + 1))
    budget = min(len(ps) * low + extra, len(ps) * high)
    counts = knapsack_allocation(values, budget, low)
    assert value_of(values, low, counts) == pytest.approx(best_value(values, low, budget))


def test_shares_in_proportion_within_bounds() -> None:
    weights = np.array([0.5, 0.3, 0.1])
    assert proportional_allocation(weights, 18, 1, 128).tolist() == [10, 6, 2]
    # 10 over 3 : 1 is 7.5 and 2.5; of equal remainders the first gets one more.
    assert proportional_allocation(weights, 18, 1, 8).tolist() == [8, 8, 2]
    assert proportional_allocation(weights, 18, 3, 128).tolist() == [9, 6, 3]  # 15 over 5 : 3
    assert proportional_allocation(np.zeros(4), 10, 2, 8).tolist() == [3, 3, 2, 2]
    assert proportional_allocation(np.array([1.0, 0.0]), 12, 2, 8).tolist() == [8, 4]


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(0, 20),
    st.floats(0, 1),
)
def test_shares_always_spend_the_budget(
    weights: list[float], low: int, span: int, filled: float
) -> None:
    budget = len(weights) * low + int(filled * len(weights) * span)
    counts = proportional_allocation(np.array(weights), budget, low, low + span)
    assert counts.sum() == budget and counts.min() >= low and counts.max() <= low + span


def test_even_shares_and_budgets_that_do_not_fit() -> None:
    assert even_allocation(7, np.array([9, 9, 9])).tolist() == [3, 2, 2]
    assert even_allocation(7, np.array([1, 9, 0])).tolist() == [1, 6, 0]
    assert even_allocation(7, np.array([1, 2, 0])).tolist() == [1, 2, 0]
    for budget in (1, 9):
        with pytest.raises(ValueError, match="do not fit"):
            greedy_allocation(np.zeros((2, 3)), budget, 2)


@pytest.mark.parametrize("name", UNEQUAL)
@pytest.mark.parametrize(("size", "generations"), [(20, 8), (3, 8), (1, 4), (20, 1), (4, 200)])
def test_unequal_groups_spend_exactly_the_budget(name: str, size: int, generations: int) -> None:
    strategy = make_strategy(name, num_generations=generations)
    driver = Driver(strategy, PromptStream(size, 1), can_measure=QUANTITIES)
    success = np.linspace(0, 1, size)
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(6):
        outcome = driver.step(roll_out, measure)
        sizes = [g.num_rollouts for g in outcome.generated]
        assert sum(sizes) == min(8, size) * generations
        assert min(sizes) >= min(2, generations) and max(sizes) <= max(128, generations)

"""Strategies that divide a budget of rollouts unequally, against numbers worked out by hand."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution

from dopr import Request, make_strategy
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates, to_unit
from dopr.strategies import VIP, CobaRL, CurES, Group, Knapsack, Measure
from dopr.strategies.methods.coba_rl import greedy_share, middle_tau
from dopr.strategies.parts.allocation import (
    even_allocation,
    greedy_allocation,
    knapsack_allocation,
    proportional_allocation,
)
from dopr.strategies.parts.gaussian_process import carried_on
from dopr.strategies.parts.turns import draw_by_weight, in_turn
from pools import QUANTITIES, bernoulli_pool, group, ledger_of, measurer

UNEQUAL = ("coba-rl", "knapsack")


def all_divisions(prompts: int, low: int, high: int, budget: int) -> list[tuple[int, ...]]:
    counts = itertools.product(range(low, high + 1), repeat=prompts)
    return [c for c in counts if sum(c) == budget]


def best_value(values: np.ndarray, low: int, budget: int) -> float:
    prompts, options = values.shape
    return max(
        sum(values[i, n - low] for i, n in enumerate(counts))
        for counts in all_divisions(prompts, low, low + options - 1, budget)
    )


def value_of(values: np.ndarray, low: int, counts: np.ndarray) -> float:
    return float(values[np.arange(len(counts)), counts - low].sum())


rates = st.lists(st.floats(0, 1), min_size=1, max_size=3)


# -- shared parts -----------------------------------------------------------------------------


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
    ledger, rng = Ledger(6), np.random.default_rng(0)
    ids = np.array([1, 3, 5])
    for _ in range(4):
        chosen = in_turn(ids, 2, ledger, rng)
        ledger.observe(group(int(i), [0, 1]) for i in chosen)
        ledger.end_step()
    assert ledger.visits[ids].min() >= 2 and ledger.visits.sum() == 8
    assert sorted(in_turn(ids, 9, ledger, rng).tolist()) == [1, 3, 5]


def test_draws_follow_their_weights_and_never_overflow() -> None:
    rng = np.random.default_rng(0)
    logs = np.log([3.0, 1.0])
    first = [int(draw_by_weight(logs, 1, rng)[0]) for _ in range(4000)]
    assert np.mean(first) == pytest.approx(0.25, abs=0.03)
    both = draw_by_weight(np.array([1e6, 0.0, 1e6]), 2, rng)
    assert sorted(both.tolist()) == [0, 2]
    assert sorted(draw_by_weight(logs, 5, rng).tolist()) == [0, 1]


# -- dividing a budget ------------------------------------------------------------------------


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


# -- coba-rl ----------------------------------------------------------------------------------

EIGHT = np.array([0, 0, 1 / 8, 1 / 4, 1 / 2, 5 / 8, 7 / 8, 1])


@pytest.mark.parametrize(
    ("failure", "alpha", "counts"),
    [
        (0.0, 1.060236, [9, 5, 40, 2, 2, 2, 2, 2]),
        (0.25, 1.682724, [9, 5, 33, 9, 2, 2, 2, 2]),
        (0.5, 5.5, [9, 5, 2, 2, 25, 17, 2, 2]),
        (0.6, 6.4, [9, 5, 2, 2, 19, 23, 2, 2]),
        (0.75, 7.75, [9, 5, 2, 2, 7, 31, 6, 2]),
        (0.9, 9.1, [9, 5, 2, 2, 2, 2, 40, 2]),
        (1.0, 10.0, [9, 5, 2, 2, 2, 2, 40, 2]),
    ],
)
def test_coba_divides_as_the_official_rule(failure: float, alpha: float, counts: Any) -> None:
    # Of 64 rollouts 48 are spare, 38 dealt greedily and 10 left for the two hopeless prompts.
    strategy = CobaRL()
    assert strategy.alpha(failure) == pytest.approx(alpha, abs=1e-6)
    assert strategy.allocate(EIGHT, strategy.alpha(failure)).tolist() == counts


def test_coba_divides_small_steps_as_the_official_rule() -> None:
    strategy, unknown = CobaRL(), np.nan
    assert strategy.allocate(np.array([unknown, 0, unknown, 0.5]), 5.5).tolist() == [9, 7, 8, 8]
    assert strategy.allocate(np.array([0.0, 0, 1, 1]), 5.5).tolist() == [17, 11, 2, 2]
    counts = strategy.allocate(np.array([0, 0, 0, 0.5, 1, 1, 1, 1]), 5.5)
    assert counts.tolist() == [9, 8, 6, 33, 2, 2, 2, 2]
    assert strategy.allocate(np.full(4, unknown), 9.0).tolist() == [8] * 4
    # Both bounds of the middle class belong to it.
    edge = CobaRL(num_generations=4).allocate(np.array([0.05, 0.99, 0.0, 0.0]), 5.5)
    assert edge[0] > 2 and edge[2] > 2


def test_cobas_tau_follows_the_middles_variance() -> None:
    assert middle_tau(np.array([0.05, 0.95])) == 12
    assert middle_tau(np.array([0.3])) == 3
    assert middle_tau(EIGHT[2:7]) == pytest.approx(6.846731, abs=1e-6)
    assert [greedy_share(share) for share in (0.25, 0.5, 0.51)] == pytest.approx([0.7, 0.8, 0.8])


def test_cobas_values_by_scipys_density() -> None:
    ps = np.array([0.2, 0.5])
    values = CobaRL(tau=2.0).values(ps, np.array([2, 8]), 7.0)
    inner = beta_distribution.pdf(ps, 7, 4)
    assert values[0] == pytest.approx([(1 - np.exp(-n * 0.16 / 2)) * inner[0] for n in (2, 8)])
    assert values[1] == pytest.approx([(1 - np.exp(-n * 0.25 / 2)) * inner[1] for n in (2, 8)])


def test_coba_starts_even_and_then_goes_by_the_last_visit() -> None:
    strategy = CobaRL(prompts_per_step=4, num_generations=8)
    driver = Driver(strategy, PromptStream(4, 0))
    outcomes = {0: [0] * 8, 1: [0, 1] * 4, 2: [0, 1] * 4, 3: [1] * 8}

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, np.resize(outcomes[r.prompt_id], r.num_rollouts)) for r in requests
        ]

    first = driver.step(roll_out)
    assert [g.num_rollouts for g in first.generated] == [8] * 4
    assert strategy.metrics()["select/alpha"] == 9
    second = {g.prompt_id: g.num_rollouts for g in driver.step(roll_out).generated}
    # 24 spare, int(24 * 0.8) = 19 dealt to the two in the middle, the other 5 to the hopeless one.
    assert second[0] == 7 and second[3] == 2 and sorted([second[1], second[2]]) == [11, 12]
    assert strategy.metrics()["select/failure_rate"] == 0.5
    # The past is gone after one visit; a window of two keeps it.
    outcomes[0] = [1] * 8
    driver.step(roll_out)
    assert strategy.rates(np.array([0])).tolist() == [1.0]


def test_cobas_windows_pool_visits_and_average_failure_rates() -> None:
    strategy = CobaRL(prompts_per_step=1, window=2)
    driver = Driver(strategy, PromptStream(1))
    for right in (1, 0, 0, 1):
        driver.step(lambda requests, right=right: [group(0, [right] * 4 + [0] * 4)])
    driver.step(lambda requests: [group(0, [np.nan] * 8)])
    # Failure rates 1/2, 1, 1, 1/2; the blank group says nothing.
    assert strategy.metrics()["select/failure_rate"] == pytest.approx(0.75)
    driver.step(lambda requests: [group(0, [1] * 8)])
    assert strategy.metrics()["select/failure_rate"] == pytest.approx(0.75)
    assert strategy.rates(np.array([0])).tolist() == [12 / 16]


def test_coba_counts_only_the_highest_reward_as_a_success() -> None:
    strict, lenient = CobaRL(prompts_per_step=1), CobaRL(prompts_per_step=1, right_from=0.5)
    for strategy, rate in ((strict, 0.25), (lenient, 0.75)):
        driver = Driver(strategy, PromptStream(1))
        driver.step(lambda requests: [group(0, [0, 0.5, 0.5, 1] * 2)])
        assert strategy.rates(np.array([0])).tolist() == [rate]


# -- knapsack ---------------------------------------------------------------------------------


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


# -- cures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "counts"),
    [
        ([0, 0, 1, 1, 2, 2, 3, 4], [0, 0, 12, 12, 14, 14, 12, 0]),
        ([0, 0, 1, 2, 3, 3, 1, 4], [0, 0, 12, 14, 12, 12, 12, 0]),
        ([0, 0, 1, 2, 3, 3, 2, 4], [0, 0, 12, 14, 12, 12, 14, 0]),
        ([0, 0, 1, 2, 2, 2, 2, 4], [0, 0, 11, 13, 13, 13, 13, 0]),
        ([0, 0, 0.5, 1, 2, 2.5, 3.5, 4], [0, 0, 10, 13, 15, 15, 10, 0]),
    ],
)
def test_cures_sizes_groups_as_the_official_rule(right: list[float], counts: list[int]) -> None:
    p = np.array(right) / 4
    assert CurES(keep_total=False).allocate(np.sqrt(p * (1 - p))).tolist() == counts
    # To spend the budget exactly, a size moves by one at most.
    repaired = CurES().allocate(np.sqrt(p * (1 - p)))
    assert repaired.sum() == 64 and np.abs(repaired - counts).max() <= 1


def test_cures_weights_of_the_official_sampler() -> None:
    counts = np.array([[k, 4] for k in range(5)], float)
    expected = [1.003734, 1.002360, 1.001668, 1.001179, 1.000746]
    assert np.exp(CurES().log_weights(counts)) == pytest.approx(expected, abs=1e-6)
    sharp = CurES(tau=0.1).log_weights(np.array([[4.0, 8.0], [0.0, 8.0]]))
    assert sharp == pytest.approx([5, 3])  # posteriors 1/2 and 1/10


def test_cures_pays_for_pilots_and_leaves_out_what_they_show_to_be_settled() -> None:
    strategy = CurES(prompts_per_step=3, num_generations=4, iteration_steps=2, min_rollouts=1)
    driver = Driver(strategy, PromptStream(6, 0))
    success = np.array([0, 0.5, 1, 0, 0.5, 1])
    first = driver.step(lambda asked: [even_split(r, success) for r in asked])
    pilots, trained = first.generated[:6], first.generated[6:]
    assert sorted(g.prompt_id for g in pilots) == list(range(6))
    assert {g.num_rollouts for g in pilots} == {4}
    second = driver.step(lambda asked: [even_split(r, success) for r in asked])
    trained += second.generated
    assert first.kept == first.generated[6:] and second.kept == second.generated
    assert {g.prompt_id for g in trained if success[g.prompt_id] == 0.5} == {1, 4}
    assert sum(g.num_rollouts for g in trained) == 2 * 3 * 4
    # The prompts are used up: the next step begins with pilots again.
    third = driver.step(lambda asked: [even_split(r, success) for r in asked])
    assert len(third.generated) > 6


def even_split(request: Request, success: np.ndarray) -> Group:
    n = request.num_rollouts
    right = round(n * success[request.prompt_id])
    return group(request.prompt_id, [1] * right + [0] * (n - right))


# -- vip --------------------------------------------------------------------------------------

EIGHT_PREDICTED = np.array([0.001, 0.05, 0.125, 0.25, 0.5, 0.625, 0.875, 0.999])


@pytest.mark.parametrize(
    ("generations", "estimator", "fewest", "counts"),
    [
        (8, "rloo", 1, [20, 4, 6, 8, 11, 10, 5, 0]),
        (8, "rloo", 4, [17, 5, 6, 8, 10, 9, 5, 4]),
        (8, "grpo", 1, [10, 6, 8, 10, 12, 12, 6, 0]),
        (8, "grpo", 4, [9, 7, 8, 9, 11, 10, 6, 4]),
        (16, "grpo", 4, [32, 18, 16, 16, 17, 16, 9, 4]),
        (16, "rloo", 4, [31, 19, 17, 16, 16, 16, 9, 4]),
    ],
)
def test_vip_divides_as_the_official_rule(
    generations: int, estimator: Any, fewest: int, counts: list[int]
) -> None:
    strategy = VIP(estimator=estimator, num_generations=generations, min_rollouts=fewest)
    found = strategy.allocate(EIGHT_PREDICTED, np.random.default_rng(0))
    # SLSQP stops where the sum is flat, so another SciPy may move a rollout.
    assert found.sum() == sum(counts) and np.abs(found - counts).max() <= 1
    assert found.max() <= 32 and not ((found > 0) & (found < 4)).any()


def test_vips_exact_solver_finds_the_minimum() -> None:
    strategy = VIP(solver="exact")
    relaxed = strategy.relaxed(EIGHT_PREDICTED, 1, 32)
    assert relaxed.sum() == pytest.approx(64)
    # At the minimum all gains of one more are alike: p (1 - p) / (n - 1)^2 - 7e-4 ln p.
    a = EIGHT_PREDICTED * (1 - EIGHT_PREDICTED)
    gains = a / (relaxed - 1) ** 2 - 7e-4 * np.log(EIGHT_PREDICTED)
    assert gains == pytest.approx(np.full(8, gains.mean()), rel=1e-6)
    convex = VIP(solver="exact", estimator="grpo").relaxed(EIGHT_PREDICTED, 1, 32)
    assert convex.sum() == pytest.approx(64) and convex.min() >= 3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.integers(1, 40),
    st.sampled_from(["rloo", "grpo"]),
    st.sampled_from(["slsqp", "exact"]),
)
def test_vip_spends_the_budget_on_four_or_none(
    ps: list[float], generations: int, estimator: Any, solver: Any
) -> None:
    strategy = VIP(estimator=estimator, solver=solver, num_generations=generations)
    counts = strategy.allocate(np.array(ps), np.random.default_rng(0))
    assert counts.sum() == len(ps) * generations and counts.max() <= max(32, generations)
    if generations >= 4 and len(ps) > 1:
        assert not ((counts > 0) & (counts < 4)).any()


def test_vip_deals_units_of_four_where_it_knows_nothing_and_has_little() -> None:
    counts = VIP(num_generations=2).allocate(np.full(6, 0.3), np.random.default_rng(0))
    assert counts.sum() == 12 and set(counts.tolist()) <= {0, 4, 8, 12}
    assert VIP().allocate(np.full(6, 0.3), np.random.default_rng(0)).tolist() == [8] * 6


def test_vips_process_carries_its_mean_on() -> None:
    places = np.array([[0], [0.2], [0.4], [1]], dtype=np.float32)
    latent = carried_on(np.full(4, -5.0), places, np.array([0, 2]), np.log([1, 1 / 3]), 0.4, 1e-4)
    assert latent == pytest.approx([0, -0.110608, -1.098612, -4.370728], abs=1e-6)
    # One prompt that was all wrong drags its neighbours down.
    wrong = np.log(np.array([1e-6]) / (1 - 1e-6))
    latent = carried_on(latent, places, np.array([1]), wrong, 0.4, 1e-4)
    assert latent == pytest.approx([-12.093324, -13.815510, -13.191936, -6.225299], abs=1e-5)


def test_vip_starts_uniform_and_leaves_out_what_it_takes_for_solved() -> None:
    success = np.repeat([0.0, 1.0, 0.5], 20)
    corners = np.repeat(np.eye(3), 20, axis=0)
    driver = Driver(VIP(), PromptStream(60, 0), can_measure=QUANTITIES)
    measured: list[int] = []

    def measure(asked: Measure) -> tuple[np.ndarray, int]:
        measured.append(len(asked.prompt_ids))
        return corners[list(asked.prompt_ids)], 1

    roll_out = bernoulli_pool(success)
    first = driver.step(roll_out, measure)
    assert [g.num_rollouts for g in first.generated] == [8] * 8
    later = [g for _ in range(6) for g in driver.step(roll_out, measure).generated]
    assert measured == [60]  # once, the whole pool
    sizes = {p: [g.num_rollouts for g in later if success[g.prompt_id] == p] for p in (0, 0.5, 1)}
    assert not sizes[1] and min(sizes[0.5]) >= 4  # a solved prompt gets nothing
    assert sum(map(sum, sizes.values())) == 6 * 64


def test_knapsack_takes_rates_that_are_all_but_certain() -> None:
    rates, seen = np.array([1e-20, 0.0, 0.5, 1.0]), np.ones(4, dtype=bool)
    assert Knapsack(num_generations=8).allocate(rates, seen).sum() == 32

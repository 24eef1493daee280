"""The bounds by hand-computed numbers and by simulation, and the command `dopr plan`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from dopr.core.errors import UserError
from dopr.offline import bounds, trust_region
from dopr.offline.best_arm import best_arm, best_arm_shares, characteristic_time
from dopr.offline.plan import group_sizes, make_plan
from dopr.offline.plan_settings import PlanSettings
from dopr.offline.pool_rates import PoolRates, fit_beta
from dopr.offline.simulation import SimulatedPolicy, run_to_target
from dopr.strategies import make_strategy

rates = st.floats(0.005, 0.995)
group_size = st.integers(2, 32)
nats = st.floats(1e-3, 0.5)

# -- formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "chance"), [(0.01, 0.077), (0.05, 0.337), (0.1, 0.570), (0.25, 0.900), (0.5, 0.992)]
)
def test_chance_of_an_informative_group_of_eight(p: float, chance: float) -> None:
    assert bounds.informative_group(p, 8) == pytest.approx(chance, abs=5e-4)


@pytest.mark.parametrize(("size", "rollouts"), [(4, 4.6), (8, 8.1), (16, 16.0)])
def test_rollouts_per_informative_group_of_a_fair_coin(size: int, rollouts: float) -> None:
    assert bounds.rollouts_per_informative_group(0.5, size) == pytest.approx(rollouts, abs=0.05)
    assert bounds.rollouts_per_informative_group(0.01, size) == pytest.approx(100, abs=9)


def test_hand_computed_numbers() -> None:
    assert bounds.first_success(0.01, 0.1) == pytest.approx(229, abs=0.5)
    assert bounds.first_success(0.5, 0.25) == pytest.approx(2)
    assert bounds.cheapest_rollouts(0.5) == 3
    assert bounds.cheapest_rollouts(0.0) == math.inf
    assert bounds.learnability(0.2) == pytest.approx(0.16)
    assert bounds.improvement_bound(0.5, 0.5) == pytest.approx(0.5)
    assert bounds.mean_advantage(0.2) == pytest.approx(0.8)
    assert bounds.gradient_variance_dr_grpo(0.5, 8) == pytest.approx(7 / 64)
    assert bounds.gradient_variance_rloo(0.5, 8, sigma=2.0) == pytest.approx(4 / 7)
    assert bounds.base_model_barrier(0.01, 0.5) == pytest.approx(102)
    assert bounds.base_model_barrier(0.01, 0.5, 0.5) == pytest.approx(408)
    assert bounds.relative_budget(1024, 512) == 2
    assert bounds.outcome_based(2, 10, 0.5) == pytest.approx(8000)
    mean, variance = bounds.discounted_estimator(0.25, 0.75, 4, 4, 0.5)  # w = 2 / (2 + 4)
    assert mean == pytest.approx(0.25 + 1 / 6)
    assert variance == pytest.approx(4 / 9 * 0.1875 / 4)


def test_second_order_term_is_no_lower_bound_everywhere() -> None:
    exact, term = bounds.divergence_to_optimum, bounds.improvement_bound
    assert exact(0.3, 50.0) == pytest.approx(term(0.3, 50.0), rel=0.01)
    assert exact(0.5, 1.0) == pytest.approx(math.log(0.5 + 0.5 * math.e) - 0.5)
    assert exact(0.5, 0.04) < term(0.5, 0.04)
    assert exact(0.1, 0.5) > term(0.1, 0.5)
    assert exact(0.0, 0.04) == 0


@given(rates, group_size)
def test_no_fixed_group_is_cheaper_than_two_or_three(p: float, size: int) -> None:
    price = bounds.rollouts_per_informative_group(p, size)
    assert price >= 1 / (p * (1 - p)) * (1 - 1e-9)
    assert price > bounds.cheapest_rollouts(p)
    for small in (2, 3):
        assert bounds.rollouts_per_informative_group(p, small) == pytest.approx(1 / (p * (1 - p)))


def test_formulas_agree_with_simulated_groups() -> None:
    rng = np.random.default_rng(0)
    p, size, trials = 0.2, 6, 100_000
    verdicts = rng.random((trials, size)) < p
    solved = verdicts.sum(axis=1)
    mixed = (solved > 0) & (solved < size)
    assert mixed.mean() == pytest.approx(bounds.informative_group(p, size), abs=0.006)
    signed, scores = 2.0 * verdicts - 1, rng.normal(size=(trials, size))
    gradients = ((signed - signed.mean(axis=1, keepdims=True)) * scores).mean(axis=1)
    of_rloo = gradients * size / (size - 1)
    assert gradients.var() == pytest.approx(bounds.gradient_variance_dr_grpo(p, size), rel=0.03)
    assert of_rloo.var() == pytest.approx(bounds.gradient_variance_rloo(p, size), rel=0.03)
    estimates = 0.25 * 0.9 + 0.75 * verdicts.mean(axis=1)  # w = 2 / (2 + 6)
    mean, variance = bounds.discounted_estimator(p, 0.9, 4, size, 0.5)
    assert estimates.mean() == pytest.approx(mean, abs=0.002)
    assert estimates.var() == pytest.approx(variance, rel=0.03)
    first = rng.random(trials) < p
    until_both = 1 + rng.geometric(np.where(first, 1 - p, p))
    assert until_both.mean() == pytest.approx(bounds.cheapest_rollouts(p), rel=0.02)


@given(rates, st.floats(0.01, 0.5))
def test_fewer_rollouts_than_first_success_fail_too_often(p: float, delta: float) -> None:
    needed = bounds.first_success(p, delta)
    assert (1 - p) ** math.ceil(needed) <= delta * (1 + 1e-9)
    below = math.ceil(needed) - 1
    assert (1 - p) ** below >= delta * (1 - 1e-9)


# -- trust region ----------------------------------------------------------------------------


def test_updates_are_the_integral_of_the_cap() -> None:
    area, _ = quad(lambda p: 1 / trust_region.trust_region_cap(p, 0.03), 0.1, 0.8)
    assert trust_region.trust_region_updates(0.1, 0.8, 0.03) == pytest.approx(area)
    # asin sqrt(1/2) - asin sqrt(0) = pi/4, sqrt(2/0.02) = 10
    assert trust_region.trust_region_updates(0.0, 0.5, 0.02) == pytest.approx(10 * math.pi / 4)


@given(rates, nats)
def test_highest_rate_spends_the_whole_divergence(p: float, kl: float) -> None:
    high = trust_region.highest_rate(p, kl)
    assert high > p
    if high < 1:
        assert trust_region.bernoulli_kl(high, p) == pytest.approx(kl, rel=1e-4)
    turned = trust_region.angle(high) - trust_region.angle(p)
    assert turned <= math.acos(math.exp(-kl / 2)) + 1e-9 <= math.sqrt(kl) + 2e-9


def test_tiny_steps_reach_the_cap_from_below_and_above() -> None:
    for p in (0.05, 0.5, 0.95):
        gained = trust_region.highest_rate(p, 1e-8) - p
        assert gained == pytest.approx(trust_region.trust_region_cap(p, 1e-8), rel=2e-3)


@given(st.floats(0.01, 0.4), st.floats(0.45, 0.95), nats)
def test_largest_steps_need_no_fewer_updates_than_the_bound(
    p0: float, p1: float, kl: float
) -> None:
    rate, updates = p0, 0
    while rate < p1:
        rate, updates = trust_region.highest_rate(rate, kl), updates + 1
    assert updates >= trust_region.fewest_updates(p0, p1, kl) - 1e-6


def test_rollouts_of_one_update_and_of_two() -> None:
    # ln 2 nats carry 1/2 to 1 in one update: 3 rollouts one at a time, 4 in groups of two.
    assert trust_region.rollouts_lower_bound(0.5, 1.0, 0.7) == 3
    assert trust_region.rollouts_lower_bound(0.5, 1.0, 0.7, 2) == pytest.approx(4)
    # Two updates: the first is paid for at 0.1, the second somewhere up to the rate it can reach.
    kl = 0.2
    second = trust_region.highest_rate(0.1, kl)
    third = trust_region.highest_rate(second, kl)
    assert second < 0.5 < third
    expected = bounds.cheapest_rollouts(0.1) + bounds.cheapest_rollouts(second)
    assert trust_region.rollouts_lower_bound(0.1, third, kl) == pytest.approx(expected)


def test_a_pool_costs_no_more_than_its_prompts_one_by_one() -> None:
    kl, start = 0.1, np.array([0.1, 0.1, 0.3])
    each = sum(trust_region.rollouts_lower_bound(float(p), 0.6, kl) for p in start)
    assert 0 < trust_region.pool_lower_bound(start, 0.6, kl) <= each
    assert trust_region.pool_lower_bound(start, 0.1, kl) == 0
    assert trust_region.pool_lower_bound(np.array([0.0, 0.5]), 0.9, kl) == math.inf
    alone = trust_region.pool_lower_bound(np.array([0.5]), 1.0, 0.7)
    assert alone == pytest.approx(3)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.6), min_size=3, max_size=6),
    st.floats(0.05, 0.3),
    st.sampled_from(["uniform-1", "dapo", "dopr", "oracle"]),
)
def test_no_strategy_undercuts_the_bound_of_a_pool(
    start: list[float], kl: float, name: str
) -> None:
    spent = [
        run_to_target(
            make_strategy(name, num_generations=4),
            SimulatedPolicy(np.array(start), kl, seed=seed),
            0.8,
            seed=seed,
        ).generated
        for seed in range(12)
    ]
    bound = trust_region.pool_lower_bound(np.array(start), 0.8, kl, 4)
    error = np.std(spent, ddof=1) / math.sqrt(len(spent))
    assert np.mean(spent) + 4 * error >= bound


def test_shared_policy_keeps_to_its_divergence_and_to_the_bound() -> None:
    start = np.linspace(0.02, 0.9, 24)
    before: list[np.ndarray] = [start]
    mean_kl = []

    def watch(policy: SimulatedPolicy) -> None:
        old, new = before[-1], policy.rates
        mean_kl.append(
            np.mean([trust_region.bernoulli_kl(b, a) for a, b in zip(old, new, strict=True)])
        )
        before.append(new)

    policy = SimulatedPolicy(start, 0.01, shared=True, groups=4, seed=2)
    strategy = make_strategy("uniform", prompts_per_step=4, num_generations=4)
    run = run_to_target(strategy, policy, 0.7, watch=watch)
    assert run.rollouts is not None and run.steps == len(mean_kl)
    assert max(mean_kl) <= 0.01 * (1 + 1e-6)
    assert run.generated >= trust_region.shared_lower_bound(start.mean(), 0.7, 0.01, 4, 4)


# -- ranking ---------------------------------------------------------------------------------


def test_shares_of_the_published_example() -> None:
    # Garivier and Kaufmann 2016, section 2, as remembered: to three digits.
    shares = best_arm_shares([0.5, 0.45, 0.43, 0.4])
    assert shares == pytest.approx([0.417, 0.390, 0.136, 0.057], abs=1e-3)


def test_the_characteristic_time_is_the_best_over_shares() -> None:
    kl = trust_region.bernoulli_kl
    best, other = 0.4, 0.15

    def evidence(w: float) -> float:
        middle = w * best + (1 - w) * other
        return w * kl(best, middle) + (1 - w) * kl(other, middle)

    searched = 1 / max(evidence(w) for w in np.linspace(0.01, 0.99, 9801))
    assert characteristic_time([best, other]) == pytest.approx(searched, rel=1e-5)


def test_folding_is_the_cheapest_alternative() -> None:
    """By brute force over all pairs of rates that make the second prompt the more learnable."""
    kl = np.vectorize(trust_region.bernoulli_kl)
    grid = np.linspace(0.005, 0.995, 199)
    first, second = np.meshgrid(kl(0.4, grid), kl(0.9, grid), indexing="ij")
    away = np.abs(grid - 0.5)
    changes_the_winner = away[None, :] <= away[:, None] + 1e-12
    evidence = max(
        (w * first + (1 - w) * second)[changes_the_winner].min() for w in np.linspace(0.3, 0.7, 81)
    )
    assert characteristic_time([0.4, 0.9]) == pytest.approx(1 / evidence, rel=0.01)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_more_rivals_never_make_ranking_cheaper(pool: list[float]) -> None:
    few, many = characteristic_time(pool[:-1]), characteristic_time(sorted(pool))
    folded = sorted(min(p, 1 - p) for p in pool)
    if min(pool[-1], 1 - pool[-1]) < folded[-1] - 1e-3:  # the best one was there before
        assert many >= few * (1 - 1e-6)
    assert many > 0


def test_ranking_costs_nothing_for_one_prompt_and_all_for_ties() -> None:
    assert best_arm([0.3]) == 0
    assert best_arm([0.3, 0.7, 0.1]) == math.inf  # 0.3 and 0.7 are equally learnable
    assert best_arm([0.4, 0.9]) == pytest.approx(best_arm([0.4, 0.1]))
    assert best_arm([0.4, 0.1], 0.01) > best_arm([0.4, 0.1], 0.1) > best_arm([0.4, 0.1], 0.6) == 0
    assert best_arm([0.3, 0.0, 0.0]) > best_arm([0.3, 0.0])
    with pytest.raises(UserError, match="more learnable"):
        best_arm_shares([0.3, 0.3])


def test_the_theory_page_shows_what_the_check_found() -> None:
    docs = Path(__file__).parent.parent / "docs"
    found = json.loads((docs / "results" / "theory-check.json").read_text())
    page = (docs / "theory.md").read_text()
    assert found["below_the_bound"] == []
    for pool in found["pools"].values():
        for kind in ("independent", "shared"):
            assert f"{pool[kind]['bound']:,.0f}" in page
            for name, entry in pool[kind]["strategies"].items():
                assert entry["reached"] == found["seeds"] and entry["ratio"] > 1
                strategy, comma, rest = name.partition(",")
                begins = f"| `{strategy}`{comma}{rest}"
                row = next(line for line in page.splitlines() if line.startswith(begins))
                assert f" {entry['ratio']:.2f} |" in row


# -- pools -----------------------------------------------------------------------------------


def test_a_prior_is_found_again() -> None:
    rng = np.random.default_rng(1)
    truth = rng.beta(2.0, 5.0, 4000)
    tried = np.full(4000, 16)
    assert fit_beta(rng.binomial(tried, truth), tried) == pytest.approx((2.0, 5.0), rel=0.1)


def test_a_pool_averages_over_what_is_not_known() -> None:
    pool = PoolRates.of_counts(np.array([0, 3, 8, 1]), np.full(4, 8), "test", resampled=False)
    drawn = np.array([pool.draw(None, np.random.default_rng(i)) for i in range(20_000)])
    mixed = bounds.informative_group(drawn, 5).mean(axis=0)
    assert pool.informative(5) == pytest.approx(mixed, abs=0.01)
    assert pool.mean == pytest.approx(drawn.mean(), abs=0.01)
    assert pool.learnability == pytest.approx((drawn * (1 - drawn)).mean(), abs=0.005)
    low, high = pool.informative_interval(5)
    assert low is not None and high is not None
    assert low < pool.informative(5).mean() < high
    assert PoolRates.of_rate(0.3).informative_interval(5) == (None, None)


@pytest.mark.parametrize("kind", ["spread", "two"])
def test_the_interval_of_a_pilot_holds_the_pool_it_was_drawn_from(kind: str) -> None:
    rng, held = np.random.default_rng(0), 0
    for trial in range(30):
        rates = rng.beta(0.5, 0.8, 5000) if kind == "spread" else rng.choice([0.02, 0.6], 5000)
        solved = rng.binomial(8, rng.choice(rates, 64, replace=False))
        pilot = PoolRates.of_counts(solved, np.full(64, 8), "pilot", population=5000)
        low, high = pilot.informative_interval(8, trial)
        assert low is not None and high is not None
        held += low <= bounds.informative_group(rates, 8).mean() <= high
    assert held >= 25


@given(st.floats(0.01, 0.99))
def test_the_cheapest_group_is_of_three(p: float) -> None:
    found = group_sizes(PoolRates.of_rate(p))
    assert found["cheapest"] == 3
    assert found["cheapest_rollouts"] == pytest.approx(1 / (p * (1 - p)))


def test_choosing_pays_where_prompts_differ() -> None:
    solved = np.r_[np.zeros(150), np.full(50, 4)].astype(int)
    pool = PoolRates.of_counts(solved, np.full(200, 8), "test", resampled=False)
    plan = make_plan(pool, PlanSettings(target=0.4, kl=0.001, simulations=6))
    costs = plan["costs"]["strategies"]
    middle = {name: entry["rollouts"]["median"] for name, entry in costs.items()}
    assert plan["costs"]["lower_bound"] < middle["oracle"] < middle["dopr"] < middle["uniform"]
    assert middle["filtered"] > middle["uniform"] * 0.9
    assert costs["uniform"]["price"] is None and costs["dopr"]["of_uniform"]["high"] < 1

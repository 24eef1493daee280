"""VIP, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import VIP, Measure
from dopr.strategies.parts.gaussian_process import carried_on
from pools import QUANTITIES, bernoulli_pool

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

"""VIP, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from divisions import best_value, rates, value_of
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import VIP, Measure
from dopr.strategies.parts.allocation import (
    greedy_allocation,
)
from pools import QUANTITIES, bernoulli_pool, group, measurer


def continuous_optimum(strategy: VIP, ps: np.ndarray, budget: int, low: int) -> np.ndarray:
    spread = ps * (1 - ps)

    def total(n: np.ndarray) -> float:
        factor = (n - 1) / n**2 if strategy.estimator == "dr_grpo" else 1 / (n - 1)
        return float(1000 * (spread * factor).sum())

    start = np.full(len(ps), budget / len(ps))
    found = minimize(
        total,
        start,
        bounds=[(low, 128)] * len(ps),
        constraints={"type": "eq", "fun": lambda n: n.sum() - budget},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("estimator", ["dr_grpo", "rloo"])
def test_vips_allocation_is_the_rounded_convex_optimum(estimator: Any) -> None:
    strategy = VIP(estimator=estimator)
    ps, low, budget = np.array([0.5, 0.2, 0.05, 0.9, 1.0]), 3, 80
    values = -strategy.variances(ps, np.arange(low, 129))
    counts = greedy_allocation(values, budget, low)
    relaxed = continuous_optimum(strategy, ps, budget, low)
    assert np.abs(counts - relaxed).max() < 1.0
    assert counts[4] == low
    if estimator == "rloo":
        # By Lagrange: n_i - 1 in proportion to sqrt(p(1 - p)), the solved prompt at its bound.
        roots = np.sqrt(ps[:4] * (1 - ps[:4]))
        assert relaxed[:4] == pytest.approx(1 + roots / roots.sum() * (80 - 3 - 4), abs=0.05)


@settings(max_examples=40, deadline=None)
@given(rates, st.integers(0, 20), st.sampled_from(["dr_grpo", "rloo"]))
def test_vips_allocation_is_optimal(ps: list[float], extra: int, estimator: Any) -> None:
    low, high = 3, 10
    values = -VIP(estimator=estimator).variances(np.array(ps), np.arange(low, high + 1))
    budget = min(len(ps) * low + extra, len(ps) * high)
    counts = greedy_allocation(values, budget, low)
    assert value_of(values, low, counts) == pytest.approx(best_value(values, low, budget))


def test_vips_prediction_is_the_gaussian_process_mean() -> None:
    strategy = VIP(prompts_per_step=2, length_scale=1.0, signal_std=0.5)
    driver = Driver(strategy, PromptStream(2), can_measure=QUANTITIES)
    strategy = driver.strategy  # the copy that runs
    places = np.array([[0.0, 0.0], [1.0, 1.0]])
    rewards = {0: [0, 0, 0, 1], 1: [1, 1, 1, 0, 1, 1, 1, 0]}
    driver.step(
        lambda requests: [group(r.prompt_id, rewards[r.prompt_id]) for r in requests],
        lambda asked: (places[list(asked.prompt_ids)], 4),
    )
    # Rates 1/4 and 3/4, their mean 1/2; noise 1/4 / 4 and 1/4 / 8; distance sqrt(2).
    kernel = 0.25 * np.array([[1, np.exp(-1)], [np.exp(-1), 1]])
    noise = np.diag([0.25 / 4, 0.25 / 8]) + 1e-6 * np.eye(2)
    across = 0.25 * np.exp(-np.array([0.25, 0.25]))  # half way, at distance sqrt(1/2)
    expected = 0.5 + across @ np.linalg.inv(kernel + noise) @ np.array([-0.25, 0.25])
    predicted = strategy.predict(np.array([[0.5, 0.5], [90.0, 90.0]]), driver.ledger)
    assert predicted == pytest.approx([expected, 0.5])


def test_vip_learns_success_from_embeddings_and_bounds_its_memory() -> None:
    success = np.repeat([0.0, 1.0, 0.5], 40)
    strategy = VIP(memory=30)
    driver = Driver(strategy, PromptStream(120, 0), can_measure=QUANTITIES)
    strategy = driver.strategy  # the copy that runs
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(10):
        driver.step(roll_out, measure)
    assert len(strategy.state_dict()["_seen"]["ids"]) == 30
    embeddings, _ = measure(Measure(tuple(range(120)), "embedding"))
    error = np.abs(strategy.predict(embeddings, driver.ledger) - success)
    assert error.mean() < 0.15
    assert np.abs(0.5 - success).mean() > 0.3  # what no prediction would have
    sizes = {p: [] for p in (0.0, 0.5, 1.0)}  # type: ignore[var-annotated]
    for _ in range(4):
        for g in driver.step(roll_out, measure).generated:
            sizes[success[g.prompt_id]].append(g.num_rollouts)
    assert np.mean(sizes[0.5]) > 1.5 * np.mean(sizes[0.0] + sizes[1.0])

"""The graph estimator and the choice by it, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import special

from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import Graph
from dopr.strategies.parts.graph_rates import digamma, likeness_graph, spectral_groups, start_rates
from pools import QUANTITIES, bernoulli_pool, measurer


def path_of_four() -> np.ndarray:
    weights = np.zeros((4, 4))
    for i, j, weight in ((0, 1, 0.9), (1, 2, 0.1), (2, 3, 0.8)):
        weights[i, j] = weights[j, i] = weight
    return weights


SUCCESSES, TRIALS = np.array([6.0, 0, 1, 0]), np.array([8.0, 0, 8, 0])


def test_digamma_is_scipys() -> None:
    values = np.array([0.01, 0.5, 1, 3.7, 40, 1e4])
    assert digamma(values) == pytest.approx(special.digamma(values), rel=1e-9)


def test_one_iteration_of_the_graph_estimator_by_hand() -> None:
    estimate = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    estimate.observe(SUCCESSES, TRIALS, iterations=1)
    assert estimate.a == pytest.approx([6.881085, 2.118915], abs=1e-6)
    assert estimate.b == pytest.approx([3.193595, 7.806405], abs=1e-6)
    expected = [0.670965, 0.668938, 0.229912, 0.227556]
    assert estimate.model_rates() == pytest.approx(expected, abs=1e-6)


def test_the_graph_estimator_at_its_fixed_point() -> None:
    estimate = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    estimate.observe(SUCCESSES, TRIALS, tolerance=0)
    assert estimate.q[:, 0] == pytest.approx([0.999971, 0.978057, 0.000059, 0.021945], abs=1e-6)
    assert estimate.a == pytest.approx([6.999882, 2.000118], abs=1e-6)
    assert estimate.b == pytest.approx([3.000355, 7.999645], abs=1e-6)
    rates = estimate.rates()
    assert rates == pytest.approx([0.724978, 0.689001, 0.162523, 0.210988], abs=1e-6)
    # A second step adds to the first; a prompt's own history is half of its rate.
    estimate.observe(np.array([0.0, 8, 0, 0]), np.array([0.0, 8, 0, 0]), tolerance=0)
    expected = [0.821894, 0.833316, 0.218216, 0.215218]
    assert estimate.model_rates() == pytest.approx(expected, abs=1e-6)
    assert estimate.rates()[1] == pytest.approx((0.833316 + 1) / 2, abs=1e-6)
    # Stopping early changes little.
    early = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    early.observe(SUCCESSES, TRIALS)
    assert early.rates() == pytest.approx(rates, abs=1e-3)


def test_the_graph_joins_those_that_are_near_to_each_other() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(np.eye(3), 10, axis=0) + 0.05 * rng.normal(size=(30, 3))
    unit = (places / np.linalg.norm(places, axis=1, keepdims=True)).astype(np.float32)
    graph = likeness_graph(unit, 9)
    dense = graph.toarray()
    assert (dense == dense.T).all() and not dense.diagonal().any() and dense.min() >= 0
    assert (dense > 0).sum(axis=1).max() <= 9
    blocks = np.repeat(np.arange(3), 10)
    assert not dense[blocks[:, None] != blocks[None, :]].any()
    found = spectral_groups(graph, 3, rng)
    assert [len(set(found[blocks == k].tolist())) for k in range(3)] == [1, 1, 1]
    assert len(set(found.tolist())) == 3


def test_graph_learns_which_kind_is_worth_choosing_and_resumes() -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(Graph(neighbours=10), PromptStream(60, 0), can_measure=QUANTITIES)
    strategy = driver.strategy  # the copy that runs
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(12):
        driver.step(roll_out, measure)
    chosen = [g.prompt_id for _ in range(4) for g in driver.step(roll_out, measure).kept]
    assert np.mean(success[chosen] == 0.5) > 0.7
    resumed = Graph(neighbours=10)
    resumed.load_state_dict(strategy.state_dict())
    answers = [next(s.step(PromptStream(60, 5), driver.ledger)) for s in (strategy, resumed)]
    assert answers[0] == answers[1]

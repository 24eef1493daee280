"""Predicting success rates from embeddings, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.strategies import PCL
from dopr.strategies.parts.prediction import attend, fit_linear_head
from games import Game, shares


def test_linear_head_is_ridge_regression_with_a_free_intercept() -> None:
    # One feature: w = sum x y / (sum x^2 + penalty) = 1 / 2.5, both centred.
    head = fit_linear_head(np.array([[-1.0], [1.0]]), np.array([0.0, 1.0]), penalty=0.5)
    assert head.weights == pytest.approx([0.4]) and head.intercept == pytest.approx(0.5)
    assert head.predict(np.array([[0.5], [9.0]])) == pytest.approx([0.7, 1.0])
    single = fit_linear_head(np.array([[3.0, 4.0]]), np.array([0.2]), penalty=1.0)
    assert single.predict(np.array([[-8.0, 1.0]])) == pytest.approx([0.2])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 100))
def test_linear_head_agrees_with_the_normal_equations(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(n, width)), rng.random(n)
    centered, mean = features - features.mean(axis=0), targets.mean()
    normal = centered.T @ centered + 0.3 * width * np.eye(width)
    weights = np.linalg.solve(normal, centered.T @ (targets - mean))
    assert fit_linear_head(features, targets, 0.3).weights == pytest.approx(weights)


def test_attention_by_hand() -> None:
    # Width 4: logits q r / 2 / temperature = 1 and -1.
    queries, references = np.full((1, 4), 0.5), np.array([[1.0] * 4, [-1.0] * 4])
    found = attend(queries, references, np.array([1.0, 0.0]), temperature=1.0)
    assert found == pytest.approx([np.e / (np.e + 1 / np.e)])
    assert attend(100 * queries, references, np.array([1.0, 0.0]), 1e-3) == pytest.approx([1.0])


def test_embeddings_are_measured_once_and_standardised() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(3.0, 2.0, size=(30, 4))
    embeddings[:, 3] = 7.0  # never varies
    game = Game(PCL(prompts_per_step=2), shares([0.5] * 30), 30, embeddings)
    for _ in range(9):
        game.step()
    assert sorted(game.measured) == list(range(30))
    plan = game.strategy.embed(game.driver.stream, np.arange(30))  # type: ignore[attr-defined]
    with pytest.raises(StopIteration) as stop:
        next(plan)
    expected = (embeddings - embeddings.mean(axis=0)) / np.maximum(embeddings.std(axis=0), 1e-6)
    assert stop.value.value == pytest.approx(expected, abs=1e-4)

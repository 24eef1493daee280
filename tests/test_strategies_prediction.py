"""Strategies that predict success rates from embeddings: the predictors, PCL and DOTS."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.strategies import DOTS, PCL
from dopr.strategies.parts.prediction import attend, fit_linear_head
from sampling_tools import Ascending, Game, shares


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


def test_pcl_learns_to_find_prompts_of_medium_difficulty() -> None:
    rng = np.random.default_rng(1)
    difficulty = np.concatenate([np.zeros(45), np.full(10, 0.5), np.ones(45)])
    rng.shuffle(difficulty)
    embeddings = np.column_stack([difficulty, rng.normal(size=(100, 3))])
    game = Game(PCL(prompts_per_step=4, candidates_factor=10), shares(difficulty), 100, embeddings)
    hits = [difficulty[game.kept()] == 0.5 for _ in range(20)]
    assert np.mean(hits[5:]) > 0.8 > 0.5 > np.mean(hits[0])
    assert game.strategy.metrics()["select/prediction_error"] < 0.15


def test_pcl_remembers_the_last_reward_of_a_window_of_prompts() -> None:
    strategy = PCL(prompts_per_step=2, candidates_factor=1, window=3)
    game = Game(strategy, shares([0, 0.5, 1, 0.5, 1]), 5, np.eye(5))
    for _ in range(3):
        game.step()  # prompts 0 1, 2 3, 4 0
    rewards = dict(zip(strategy._seen.tolist(), strategy._rewards.tolist(), strict=True))
    assert rewards == {0: 0.0, 3: 0.5, 4: 1.0}


def test_dots_draws_from_the_softmax_of_the_distance() -> None:
    # Logits 0 and -ln 2: two to one.
    strategy, stream = DOTS(tau=0.1), Ascending(2, seed=3)
    predicted = np.array([0.5, 0.5 + 0.1 * np.log(2)])
    first = [int(strategy.choose(predicted, 1, stream)[0]) for _ in range(4000)]
    assert np.mean(first) == pytest.approx(1 / 3, abs=0.03)
    greedy = DOTS().choose(np.array([0.1, 0.47, 0.9, 0.55]), 2, stream)
    assert greedy.tolist() == [1, 3]


def test_dots_predicts_from_references_and_replays_mixed_groups() -> None:
    rates = np.array([0.0] * 10 + [0.5] * 10 + [1.0] * 10)
    embeddings = 5 * np.repeat(np.eye(3), 10, axis=0)
    strategy = DOTS(prompts_per_step=4, references=30, refresh_every=3, candidates=30)
    game = Game(strategy, shares(rates), 30, embeddings)
    first = game.step()
    assert len(game.asked[0]) == 30 and len(game.asked[1]) == 4  # nothing to replay yet
    assert all(rates[g.prompt_id] == 0.5 for g in first.kept)
    second = game.step()
    assert [len(asked) for asked in game.asked] == [2]
    assert [g.step for g in second.kept] == [1, 1, 0, 0]
    assert len(strategy._queue) == 4
    game.step()
    game.step()
    assert len(game.asked[0]) == 30  # step 3 asks for new references


def test_dots_queues_no_group_without_variance() -> None:
    strategy = DOTS(prompts_per_step=4, references=4, candidates=8)
    game = Game(strategy, shares([0.0, 1.0] * 6), 12, np.eye(12))
    assert [len(game.step().kept) for _ in range(4)] == [4] * 4
    assert strategy._queue == []

"""Small models on vectors, their figures by hand, and the pairs and noise they are fitted to."""

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from dopr.core.errors import UserError
from dopr.rewards.learned.heads import Optimisation, fit_bradley_terry, fit_classifier
from dopr.rewards.learned.metrics import (
    area_under_curve,
    best_of_n,
    best_of_n_table,
    calibration_error,
    mean_spearman,
    pair_accuracy,
)
from dopr.rewards.learned.trees import Trees, fit_trees
from dopr.runs.reward_model.material import flip_labels, flip_pairs, sample_pairs, split_prompts

RNG = np.random.default_rng(0)


# -- figures, by hand ------------------------------------------------------------------------


def test_best_of_n_by_hand() -> None:
    scores, rewards = np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 0.5])
    assert best_of_n(scores, rewards, 1) == pytest.approx(0.5)
    # Of the three draws of two, the first response wins two and the second one.
    assert best_of_n(scores, rewards, 2) == pytest.approx((0 + 0 + 1) / 3)
    assert best_of_n(scores, rewards, 3) == pytest.approx(0.0)


def test_responses_of_equal_score_share_their_reward() -> None:
    assert best_of_n(np.array([1.0, 1.0]), np.array([0.0, 1.0]), 2) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=9))
def test_best_of_n_lies_between_worst_and_best_and_grows_with_a_true_score(
    rows: list[tuple[float, float]],
) -> None:
    scores, rewards = np.array(rows).T
    values = [best_of_n(scores, rewards, n + 1) for n in range(len(rows))]
    assert all(rewards.min() - 1e-9 <= value <= rewards.max() + 1e-9 for value in values)
    true = [best_of_n(rewards, rewards, n + 1) for n in range(len(rows))]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(true))
    assert values[0] == pytest.approx(rewards.mean())


def test_the_table_averages_prompts_with_enough_responses() -> None:
    groups = np.array([0, 0, 1])
    table = best_of_n_table(np.array([2.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), groups)
    assert [(row["n"], row["prompts"], row["reward"]) for row in table] == [(1, 2, 0.25), (2, 1, 1)]
    assert table[1]["random"] == 0.5 and table[1]["oracle"] == 1.0


def test_spearman_is_averaged_over_prompts_and_constant_ones_are_left_out() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2])
    scores = np.array([1.0, 2.0, 2.0, 1.0, 5.0, 6.0])
    rewards = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    assert mean_spearman(scores, rewards, groups) == pytest.approx(0.0)  # +1 and -1
    assert mean_spearman(scores[4:], rewards[4:], groups[4:]) is None


def test_calibration_error_by_hand() -> None:
    probabilities, labels = np.array([0.1, 0.1, 0.9, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    # Bin of 0.1: |0.1 - 0.5| of two rows; bin of 0.9 and 1.0: |0.95 - 1| of two.
    assert calibration_error(probabilities, labels) == pytest.approx((0.4 * 2 + 0.05 * 2) / 4)
    assert calibration_error(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == 0.0


def test_pair_accuracy_and_area_count_a_tie_as_one_half() -> None:
    assert pair_accuracy(np.array([1.0, -1.0, 0.0, 2.0])) == pytest.approx(0.625)
    labels = np.array([1.0, 0.0, 0.0])
    assert area_under_curve(np.array([2.0, 2.0, 1.0]), labels) == pytest.approx(0.75)
    assert area_under_curve(np.array([2.0]), np.array([1.0])) is None


# -- heads -----------------------------------------------------------------------------------


def test_bradley_terry_finds_the_chance_of_a_win() -> None:
    """One feature, a wins 3 of 4: the maximum of the likelihood is sigmoid(s_a - s_b) = 3/4."""
    better = np.array([[1.0], [1.0], [1.0], [0.0]])
    worse = np.array([[0.0], [0.0], [0.0], [1.0]])
    head = fit_bradley_terry(better, worse, Optimisation(l2=0.0))
    scores = head.logits(np.array([[1.0], [0.0]]))
    assert expit(scores[0] - scores[1]) == pytest.approx(0.75, abs=1e-4)
    assert np.median(head.logits(np.concatenate([better, worse]))) == pytest.approx(0.0, abs=1e-9)


def test_a_classifier_without_features_gives_the_share() -> None:
    vectors = np.zeros((4, 3))
    head = fit_classifier(vectors, np.array([1.0, 1.0, 1.0, 0.0]), Optimisation(l2=0.0))
    assert expit(head.logits(vectors)) == pytest.approx(0.75, abs=1e-4)
    weighted = fit_classifier(
        vectors[:2], np.array([1.0, 0.0]), Optimisation(l2=0.0), np.array([1.0, 3.0])
    )
    assert expit(weighted.logits(vectors[:1])) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("hidden", [0, 8])
def test_heads_are_the_same_for_the_same_seed_and_leave_torch_alone(hidden: int) -> None:
    vectors, labels = RNG.normal(size=(40, 6)), (RNG.random(40) < 0.5).astype(float)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = fit_classifier(vectors, labels, Optimisation(hidden, seed=3))
    assert torch.equal(before, torch.get_rng_state())
    again = fit_classifier(vectors, labels, Optimisation(hidden, seed=3))
    assert np.array_equal(first.logits(vectors), again.logits(vectors))


def test_a_hidden_layer_learns_what_a_line_cannot() -> None:
    corners = np.repeat(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), 8, axis=0)
    labels = np.repeat([0.0, 1.0, 1.0, 0.0], 8)
    flat = fit_classifier(corners, labels, Optimisation(0, 1e-6))
    deep = fit_classifier(corners, labels, Optimisation(16, 1e-6))
    assert area_under_curve(flat.logits(corners), labels) < 0.8
    assert area_under_curve(deep.logits(corners), labels) == 1.0


def test_trees_by_hand() -> None:
    """Two trees: -1 or +2 by feature 0 at 0.5, and a lone leaf of 0.25."""
    trees = Trees(
        roots=np.array([0, 3]),
        feature=np.array([0, -1, -1, -1]),
        threshold=np.array([0.5, 0.0, 0.0, 0.0]),
        left=np.array([1, 0, 0, 0]),
        right=np.array([2, 0, 0, 0]),
        value=np.array([9.0, -1.0, 2.0, 0.25]),
    )
    assert trees.logits(np.array([[0.5, 7.0], [0.6, 7.0]])).tolist() == [-0.75, 2.25]
    assert Trees.of(trees.tensors()).logits(np.array([[1.0, 0.0]])).tolist() == [2.25]


def test_boosted_trees_are_stored_as_scikit_learn_would_score() -> None:
    pytest.importorskip("sklearn")
    vectors = RNG.normal(size=(80, 4)).astype(np.float32)
    labels = (vectors[:, 0] * vectors[:, 1] > 0).astype(float)
    from sklearn.ensemble import GradientBoostingClassifier

    same = GradientBoostingClassifier(
        n_estimators=20, max_features="sqrt", init="zero", random_state=1
    ).fit(vectors, labels)
    trees = fit_trees(vectors, labels, seed=1, trees=20)
    np.testing.assert_allclose(trees.logits(vectors), same.decision_function(vectors), atol=1e-9)


def test_boosting_without_scikit_learn_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(UserError, match="scikit-learn; install"):
        fit_trees(np.zeros((4, 2)), np.array([0.0, 1.0, 0.0, 1.0]))


# -- pairs, noise, split ---------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30))
def test_pairs_are_of_one_prompt_better_first_and_not_too_many(rows: Any) -> None:
    groups, rewards = np.array(rows).T
    pairs = sample_pairs(rewards.astype(float), groups, 5, seed=0)
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    assert (rewards[pairs[:, 0]] > rewards[pairs[:, 1]]).all()
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert all((groups[pairs[:, 0]] == group).sum() <= 5 for group in np.unique(groups))


@given(st.integers(2, 50), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_split_leaves_prompts_on_both_sides(prompts: int, share: float, seed: int) -> None:
    train_part, test_part = split_prompts(np.arange(prompts), share, seed)
    assert len(train_part) >= 1 and len(test_part) >= 1
    assert sorted([*train_part, *test_part]) == list(range(prompts))


def test_noise_flips_its_share_and_more_noise_flips_the_same_and_more() -> None:
    labels = np.ones(4000)
    few, many = flip_labels(labels, 0.1, 0), flip_labels(labels, 0.3, 0)
    assert 0.08 < (few == 0).mean() < 0.12 and 0.27 < (many == 0).mean() < 0.33
    assert (many[few == 0] == 0).all()
    pairs = np.stack([np.zeros(4000, int), np.ones(4000, int)], axis=1)
    assert 0.08 < (flip_pairs(pairs, 0.1, 0)[:, 0] == 1).mean() < 0.12
    assert np.array_equal(flip_pairs(pairs, 0.0, 0), pairs)

"""Regression in faded sums, against numbers worked out by hand and exact Gaussian processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.strategies.parts.fading import no_observations, observe, predict, whitening
from dopr.strategies.parts.gaussian_process import squared_distances


def test_one_observation_pulls_like_inputs_to_it() -> None:
    # Variance 1/4 and noise 1/4: half of the way from 1/2 to 1, and half of the variance is left.
    sums = no_observations(2)
    observe(sums, np.array([[1.0, 0.0]]), np.ones(1), np.array([0.25]))
    mean, variance = predict(sums, np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.0]]), 0.5, 0.25)
    assert mean == pytest.approx([0.75, 0.5, 0.5 + 0.6 * 0.25])
    # The third lacks 1 - 0.36 of a whole input, which nothing seen lowers.
    assert variance == pytest.approx([0.125, 0.25, 0.36 * 0.125 + 0.64 * 0.25])


def test_observations_at_once_are_those_one_after_the_other() -> None:
    rng = np.random.default_rng(0)
    inputs, values, noise = rng.normal(size=(5, 3)), rng.random(5), 0.1 + rng.random(5)
    together, one_by_one = no_observations(3), no_observations(3)
    observe(together, inputs, values, noise)
    for i in range(5):
        observe(one_by_one, inputs[[i]], values[[i]], noise[[i]])
    assert together == pytest.approx(one_by_one)
    observe(together, inputs[:0], values[:0], noise[:0])  # of none, nothing
    assert together == pytest.approx(one_by_one)


def test_sums_that_fade_are_noisier_observations() -> None:
    faded, noisier = no_observations(1), no_observations(1)
    observe(faded, np.ones((1, 1)), np.array([0.9]), np.array([0.1]))
    faded *= 0.5
    observe(noisier, np.ones((1, 1)), np.array([0.9]), np.array([0.2]))
    for found, expected in zip(
        predict(faded, np.ones((1, 1)), 0.5, 1.0),
        predict(noisier, np.ones((1, 1)), 0.5, 1.0),
        strict=True,
    ):
        assert found == pytest.approx(expected)


@given(st.integers(0, 20), st.integers(1, 30))
def test_at_the_landmarks_it_is_the_exact_gaussian_process(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    landmarks = 3 * rng.normal(size=(8, 4))
    likeness = np.exp(-squared_distances(landmarks, landmarks) / 2)
    inputs = likeness @ whitening(likeness)
    rows = rng.integers(0, 8, count)
    values, noise = rng.random(count), 0.05 + rng.random(count)
    sums = no_observations(8)
    observe(sums, inputs[rows], values, noise)
    mean, variance = predict(sums, inputs, 0.4, 0.09)
    # The process by its own formulas: k_x (K + noise)^-1 on what was seen.
    known = 0.09 * likeness[np.ix_(rows, rows)] + np.diag(noise + 1e-6)
    across = 0.09 * likeness[:, rows]
    exact_mean = 0.4 + across @ np.linalg.solve(known, values - 0.4)
    exact_variance = 0.09 - np.einsum("kn,nk->k", across, np.linalg.solve(known, across.T))
    assert mean == pytest.approx(exact_mean, abs=2e-3)
    assert variance == pytest.approx(exact_variance, abs=2e-3)

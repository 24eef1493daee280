"""Medians, intervals and paired ratios over seeds, by numbers worked out by hand."""

import math

import numpy as np
import pytest

from dopr.core import statistics
from dopr.core.statistics import interval, median_with_interval, paired_difference, ratios


def test_median_counts_a_miss_as_infinite() -> None:
    assert median_with_interval([100, 200, None])["median"] == 200
    assert median_with_interval([100, 200, None])["high"] is None
    assert median_with_interval([100, None, None])["median"] is None
    found = median_with_interval([1.0, 2.0, 3.0])
    assert (found["low"], found["median"], found["high"]) == (1, 2, 3)


def test_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 1, 200)
    low, high = interval(values, np.mean)
    half = 1.96 * values.std() / math.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert interval(np.empty(0)) == (None, None)


def test_ratios_are_paired_and_misses_are_held_against_the_misser() -> None:
    found, bounded = ratios([10, 20, None, None, 30], [100, None, 50, None, 60], [400] * 5)
    assert found == [0.1, 0.05, None, None, 0.5]
    assert bounded == 1


def test_differences_are_paired() -> None:
    found = paired_difference([0.9, 0.8, 0.7], [0.8, 0.6, 0.4])
    assert found["median"] == pytest.approx(0.2)
    assert found["mean"] == pytest.approx(0.2)
    assert found["per_seed"] == pytest.approx([0.1, 0.2, 0.3])


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(size=7)
    whole = statistics.resampled(values, np.median, np.random.default_rng(1), 50)
    monkeypatch.setattr(statistics, "_AT_ONCE", 7 * 16)
    parts = statistics.resampled(values, np.median, np.random.default_rng(1), 50)
    assert len(whole) == 50 and np.array_equal(whole, parts)


def test_two_that_were_there_before_they_paid_are_even() -> None:
    assert ratios([0.0, 5.0, 0.0], [0.0, 0.0, 4.0], [100.0] * 3) == ([1.0, None, 0.0], 0)

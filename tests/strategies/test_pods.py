"""PODS, against numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.advantages import compute_advantages
from dopr.core.ledger import Ledger
from dopr.strategies import PODS
from dopr.strategies.methods.pods import max_variance_subset
from pools import group

NAN = float("nan")


def test_pods_keeps_both_ends() -> None:
    assert max_variance_subset(np.array([0, 0.4, 1, 0.5]), 2).tolist() == [0, 2]
    assert max_variance_subset(np.array([0.9, 0.8, 0.1, 0.5, 0.2, 1]), 4).tolist() == [0, 2, 4, 5]
    kept = PODS(keep=4).downsample(group(0, [1, 0, 0, NAN, 0, 0, 0, 0]))
    assert kept.kept.tolist() == [0, 5, 6, 7] and kept.baseline == pytest.approx(0.25)
    assert PODS().downsample(group(0, [NAN] * 8)).num_kept == 2


@pytest.mark.parametrize(
    ("rewards", "kept", "advantages"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 1], [0.86588, -0.86588, -0.86588, 0.86588]),
        ([0, 0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0], [1.4997, -0.4999, -0.4999, -0.4999]),
        ([1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 0], [0.4999, 0.4999, 0.4999, -1.4997]),
        (
            [0, 0.2, 0.5, 0.9, 1, 0.1, 0.3, 0.4],
            [0, 0.9, 1, 0.1],
            [-0.95618, 0.76495, 0.95618, -0.76495],
        ),
        ([1] * 8, [1] * 4, [0] * 4),
    ],
)
def test_pods_advantages_are_those_of_the_rollouts_kept(
    rewards: list[float], kept: list[float], advantages: list[float]
) -> None:
    smaller = PODS(keep=4).downsample(group(0, rewards))
    assert sorted(smaller.rewards[smaller.kept].tolist()) == sorted(kept)
    (found,) = compute_advantages([smaller], Ledger(1))
    assert sorted(found[smaller.kept]) == pytest.approx(sorted(advantages), abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_pods_subset_has_the_highest_variance_of_all(rewards: list[float], count: int) -> None:
    values = np.array(rewards)
    kept = max_variance_subset(values, count)
    count = min(count, len(values))
    assert len(set(kept.tolist())) == count
    best = max(values[list(subset)].var() for subset in combinations(range(len(values)), count))
    assert values[kept].var() == pytest.approx(best, abs=1e-9)

"""What is said of a step as it went."""

import math
from dataclasses import replace

import numpy as np

from dopr.core.outcome import StepOutcome
from dopr.strategies import Group


def single(prompt: int, reward: float) -> Group:
    return Group(prompt, np.array([reward]), np.array([5]))


def test_a_single_rollout_carries_a_signal_where_it_is_a_surprise() -> None:
    pair = Group(0, np.array([0.0, 1.0]), np.array([5, 5]))
    alike = Group(1, np.array([1.0, 1.0]), np.array([5, 5]))
    generated = [pair, alike, single(2, 1.0), single(3, 1.0), single(4, 0.0)]
    # A fair coin's deviation is 1/2: 0.125 away from what was expected is the least surprise.
    means = [0.5, 0.5, 0.87, 0.88, 0.5]
    kept = [
        replace(group, expected_mean=mean, expected_std=0.5)
        for group, mean in zip(generated, means, strict=True)
    ]
    assert StepOutcome(kept, generated).signal_rate == 3 / 5
    assert StepOutcome(generated, generated).signal_rate == 1 / 5
    assert math.isnan(StepOutcome([], []).signal_rate)

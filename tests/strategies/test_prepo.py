"""PREPO, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.strategies import PREPO
from dopr.strategies.methods.prepo import weigh_by_entropy
from pools import group


def test_prepo_goes_from_low_to_high_perplexity() -> None:
    strategy = PREPO(candidates=5, prompts_per_step=2, schedule_steps=10)
    perplexities = np.array([5.0, 1.0, np.nan, 3.0, 2.0])
    assert strategy.choose(perplexities, 0).tolist() == [1, 4]
    assert strategy.choose(perplexities, 4).tolist() == [4, 3]  # int(0.4 * 3) = 1
    assert strategy.choose(perplexities, 10).tolist() == [0, 2]
    assert strategy.choose(perplexities, 99).tolist() == [0, 2]
    assert strategy.choose(np.array([7.0]), 5).tolist() == [0]


@pytest.mark.parametrize(("progress", "start"), [(0, 0), (0.25, 2), (0.5, 4), (1, 8)])
def test_prepo_starts_at_the_floor_of_its_progress(progress: float, start: int) -> None:
    strategy = PREPO(candidates=10, prompts_per_step=2, schedule_steps=4)
    perplexities = np.arange(10.0)[::-1].copy()
    chosen = strategy.choose(perplexities, int(4 * progress))
    assert perplexities[chosen].tolist() == [start, start + 1]


def test_prepos_weights_are_relative_to_the_batch() -> None:
    groups = [
        group(0, [0, 1], entropies=np.array([0.2, 0.4])),
        group(1, [0, 1], entropies=np.array([0.6, 0.8])),
    ]
    weights = [g.weights.tolist() for g in weigh_by_entropy(groups)]
    assert weights == [pytest.approx([0.4, 0.8]), pytest.approx([1.2, 1.6])]


def test_prepo_weighs_rollouts_by_relative_entropy() -> None:
    groups = [
        group(0, [0, 1], entropies=np.array([1.0, 3.0])),
        group(1, [0, 1], entropies=np.array([4.0, np.nan])),
        group(2, [0, 1]),
        group(3, [0, 1], entropies=np.array([0.0, 0.0])),
    ]
    own = weigh_by_entropy(groups, "group")
    assert own[0].weights == pytest.approx([0.5, 1.5])
    assert own[1].weights == pytest.approx([1.0, 1.0])
    assert own[2].weights is None
    assert own[3].weights == pytest.approx([1.0, 1.0])
    batch = weigh_by_entropy(groups[:2], "batch")  # mean of 1, 3 and 4
    assert batch[0].weights == pytest.approx([3 / 8, 9 / 8])
    assert batch[1].weights == pytest.approx([1.5, 1.0])

"""MoPPS, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.strategies import MoPPS
from games import Game, shares


def test_mopps_takes_the_draws_nearest_to_its_target() -> None:
    strategy = MoPPS(prompts_per_step=2, candidates_factor=3)
    strategy._counts = 1e6 * np.array([[9, 1], [5, 5], [1, 9], [6, 4], [1, 99], [99, 1.0]])
    game = Game(strategy, shares([0.5] * 6), 6)
    strategy = game.strategy  # the copy that runs
    assert sorted(game.kept()) == [1, 3]
    assert strategy.metrics()["select/expected_success"] == pytest.approx(0.55)


def test_mopps_counts_successes_and_failures() -> None:
    game = Game(MoPPS(prompts_per_step=1, candidates_factor=1), shares([0.25]), 1)
    game.step()
    game.step()
    assert game.strategy.state_dict()["_counts"].tolist() == [[1 + 4, 1 + 12]]

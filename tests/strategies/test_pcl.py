"""PCL, against numbers worked out by hand."""

import numpy as np

from dopr.strategies import PCL
from games import Game, shares


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
    strategy = game.strategy  # the copy that runs
    for _ in range(3):
        game.step()  # prompts 0 1, 2 3, 4 0
    rewards = dict(zip(strategy._seen.tolist(), strategy._rewards.tolist(), strict=True))
    assert rewards == {0: 0.0, 3: 0.5, 4: 1.0}

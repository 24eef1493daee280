"""DOTS, against numbers worked out by hand."""

import numpy as np

from dopr.strategies import DOTS
from games import Game, shares


def test_dots_predicts_from_references_and_replays_mixed_groups() -> None:
    rates = np.array([0.0] * 10 + [0.5] * 10 + [1.0] * 10)
    embeddings = 5 * np.repeat(np.eye(3), 10, axis=0)
    strategy = DOTS(prompts_per_step=4, references=30, refresh_every=3, candidates=30)
    game = Game(strategy, shares(rates), 30, embeddings)
    strategy = game.strategy  # the copy that runs
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
    strategy = game.strategy  # the copy that runs
    assert [len(game.step().kept) for _ in range(4)] == [4] * 4
    assert strategy._queue == []

"""DAPO's resampling, against numbers worked out by hand."""

from dopr.strategies import DAPO
from games import Game, shares


def test_dapo_resamples_until_the_batch_is_mixed() -> None:
    game = Game(DAPO(prompts_per_step=2), shares([0, 0.5, 1, 0, 0.5, 0.5]), 6)
    assert game.kept() == [1, 4]
    assert game.asked == [[(0, 8), (1, 8)], [(2, 8), (3, 8)], [(4, 8), (5, 8)]]
    assert game.driver.spent.rollouts == 48
    assert game.strategy.metrics() == {"select/rounds": 3, "select/discarded_groups": 3}


def test_dapo_stops_after_its_rounds_and_never_takes_a_prompt_twice() -> None:
    blank = Game(DAPO(prompts_per_step=2, max_rounds=3), shares([0] * 6), 6)
    assert len(blank.kept()) == 2 and len(blank.asked) == 3
    small = Game(DAPO(prompts_per_step=8), shares([0.5, 0.5]), 2)
    assert small.kept() == [0, 1] and len(small.asked) == 1

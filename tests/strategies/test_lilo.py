"""LILO, against numbers worked out by hand."""

from dopr.strategies import LILO
from games import Game, shares


def test_lilo_trains_on_the_most_learnable_candidates() -> None:
    rates = [0, 0.125, 0.5, 1, 0.75, 0.25, 0.625, 0]
    game = Game(LILO(prompts_per_step=2), shares(rates), 8)
    assert game.kept() == [2, 6]
    assert game.driver.spent.rollouts == 64
    split = Game(LILO(prompts_per_step=2, pilots=4), shares(rates), 8)
    assert {g.num_rollouts for g in split.step().kept} == {8}
    assert len(split.asked[0]) == 8 and len(split.asked[1]) == 2

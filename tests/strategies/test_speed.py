"""SPEED, against numbers worked out by hand."""

from dopr.strategies import SPEED
from games import Game, shares


def test_speed_continues_mixed_pilots_and_keeps_what_is_left_over() -> None:
    rates = [0, 0.5, 1, 0.5, 0, 0.5, 1, 0]
    game = Game(SPEED(prompts_per_step=2), shares(rates), 8)
    outcome = game.step()
    assert game.asked == [
        [(i, 4) for i in range(8)],
        [(1, 4), (3, 4), (5, 4)] + [(i, 4) for i in (0, 2, 4, 6, 7)],
    ]
    assert [(g.prompt_id, g.num_rollouts) for g in outcome.kept] == [(1, 8), (3, 8)]
    assert outcome.kept[0].rewards.tolist() == [1, 1, 0, 0] * 2
    outcome = game.step()
    assert [(g.prompt_id, g.step) for g in outcome.kept] == [(5, 0), (1, 1)]


def test_speed_takes_the_sizes_of_its_paper() -> None:
    game = Game(SPEED(prompts_per_step=1, pilots=4, continuation=20), shares([0.5] * 4), 4)
    outcome = game.step()
    assert [n for _, n in game.asked[0]] == [4] * 4
    assert [n for _, n in game.asked[1]] == [20] * 4
    assert outcome.kept[0].num_rollouts == 24

"""AR3PO, against numbers worked out by hand."""

import pytest

from dopr.strategies import AR3PO
from dopr.strategies.methods.ar3po import reuse
from games import Game, shares
from pools import group

NAN = float("nan")


def test_ar3po_pays_for_stages_and_reuses_a_right_answer() -> None:
    stages = {0: [[0, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4], 1: [[1, 0, 1, 1], [1, 1, 1, 0]]}
    game = Game(AR3PO(prompts_per_step=2), lambda prompt, n: stages[prompt].pop(0), 2)
    outcome = game.step()
    assert game.asked == [[(0, 4), (1, 4)], [(0, 4)]]
    assert [g.num_rollouts for g in outcome.kept] == [8, 4]
    again = game.step().kept[0]
    assert again.kept.tolist() == [5, *range(8, 16)]
    assert again.rewards[again.kept].tolist() == [1] + [0] * 8
    assert again.baseline == pytest.approx(1 / 9) and again.step == 0
    assert game.strategy.metrics()["select/reused_answers"] == 1


def test_ar3po_reuses_only_what_is_better() -> None:
    now = group(0, [0.25, 0.5])
    assert reuse(now, group(0, [0.5, NAN])) == (now, False)
    assert reuse(group(0, [NAN, NAN]), group(0, [1.0]))[1] is False
    joined, helped = reuse(now, group(0, [NAN, 0.75, 0.0]))
    assert helped and joined.kept.tolist() == [1, 3, 4] and joined.baseline == pytest.approx(0.5)


def test_ar3po_forgets_the_oldest_answers() -> None:
    game = Game(AR3PO(prompts_per_step=1, memory=2), shares([0.5] * 3), 3)
    for _ in range(3):
        game.step()
    assert list(game.strategy.state_dict()["_right"]) == ["1", "2"]

"""AR3PO, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.core.advantages import compute_advantages
from dopr.strategies import AR3PO
from dopr.strategies.methods.ar3po import reuse
from games import Game, shares
from pools import group

NAN = float("nan")


AR3POS_OUTCOMES = {
    0: [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    1: [[1, 0, 1, 1], [1, 1, 1, 0]],
    2: [[0] * 4] * 4,
}


def ar3po_game(**options: bool) -> Game:
    stages = {prompt: list(rounds) for prompt, rounds in AR3POS_OUTCOMES.items()}
    strategy = AR3PO(prompts_per_step=3, **options)
    return Game(strategy, lambda prompt, n: stages[prompt].pop(0), 3)


def test_ar3po_pays_for_stages_and_lets_an_old_answer_shape_the_advantages() -> None:
    game = ar3po_game()
    outcome = game.step()
    assert game.asked == [[(0, 4), (1, 4), (2, 4)], [(2, 4)]]
    assert [g.num_rollouts for g in outcome.kept] == [4, 4, 8]
    assert outcome.kept[2].kept is None  # nothing to reuse yet
    again = game.step().kept[0]
    # One of 8 wrong ones is replaced by a right one, which is not trained on: 1/8 the mean.
    assert again.num_rollouts == 8 and again.num_kept == 7
    assert again.baseline == pytest.approx(1 / 8)
    assert again.std == pytest.approx(np.std([1] + [0] * 7, ddof=1))
    (advantages,) = compute_advantages([again], game.driver.ledger)
    assert advantages == pytest.approx([-0.125 / (np.sqrt(1 / 8) + 1e-4)] * 8)
    assert game.strategy.metrics()["select/reused_answers"] == 1


def test_ar3pos_option_one_trains_on_the_old_answer() -> None:
    game = ar3po_game(train_reused=True)
    game.step()
    again = game.step().kept[0]
    assert again.num_rollouts == 12 and again.step == 0
    assert again.rewards[again.kept].tolist() == [1] + [0] * 7 and again.kept[0] == 1
    (advantages,) = compute_advantages([again], game.driver.ledger, scale="none")
    assert advantages[again.kept] == pytest.approx([7 / 8] + [-1 / 8] * 7)


def test_ar3po_reuses_a_right_answer_only() -> None:
    exchanged = reuse(group(0, [0.25, NAN, 0.5]), 2, group(0, [NAN, 1.0]), 1, train=False)
    assert exchanged.kept.tolist() == [0, 1] and exchanged.baseline == pytest.approx(0.625)
    outcomes = iter([[0.4, 0.4], [0.0, 0.9], [0.0, 0.1], [0.0, 0.1]])
    game = Game(AR3PO(prompts_per_step=1, round_size=2), lambda prompt, n: next(outcomes), 1)
    game.step()
    later = game.step().kept[0]
    # 0.4, 0.4, 0, 0.9 were rollouts of one step; only 0.9 was right.
    assert later.baseline == pytest.approx(np.mean([0.9, *later.rewards[later.kept]]))


def test_ar3po_forgets_the_oldest_answers() -> None:
    game = Game(AR3PO(prompts_per_step=1, memory=2), shares([0.5] * 3), 3)
    for _ in range(3):
        game.step()
    assert list(game.strategy.state_dict()["_right"]) == ["1", "2"]

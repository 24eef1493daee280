"""Strategies that choose among a prompt's rollouts, or reuse them, against numbers by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.advantages import compute_advantages
from dopr.core.ledger import Ledger
from dopr.strategies import AR3PO, PODS, VCRL, ReinforceAda
from dopr.strategies.methods.ar3po import reuse
from dopr.strategies.methods.pods import max_variance_subset
from dopr.strategies.methods.vcrl import normalised_variance
from sampling_tools import Game, group, ledger_of, shares

NAN = float("nan")


def test_reinforce_ada_stops_at_two_right_and_two_wrong() -> None:
    rounds = {
        0: [[1, 0, 0, 0, 0, 0, 0, 0]] * 4,  # balanced after two rounds
        1: [[0] * 8] * 4,  # never right
        2: [[0, 1, 1, 0, 0, 1, 1, 1]],  # balanced at once
    }
    left = {prompt: list(outcomes) for prompt, outcomes in rounds.items()}
    game = Game(ReinforceAda(prompts_per_step=3), lambda prompt, n: left[prompt].pop(0), 3)
    first, second, third = game.step().kept
    assert game.asked == [[(0, 8), (1, 8), (2, 8)], [(0, 8), (1, 8)], [(1, 8)], [(1, 8)]]
    assert first.kept.tolist() == [0, 1, 2, 8] and first.baseline == pytest.approx(2 / 16)
    advantages = compute_advantages([first], game.driver.ledger, scale="none")[0][first.kept]
    assert advantages == pytest.approx([14 / 16, -2 / 16, -2 / 16, 14 / 16])
    assert second.kept.tolist() == [0, 1, 2, 3] and second.baseline == 0
    assert third.kept.tolist() == [0, 1, 2, 3] and third.baseline == pytest.approx(5 / 8)
    assert game.strategy.metrics()["select/balanced_share"] == pytest.approx(2 / 3)


def test_reinforce_ada_fills_up_with_the_other_kind() -> None:
    strategy, ledger = ReinforceAda(), ledger_of(0.0, 1.0)
    assert strategy.balance(group(0, [0, 0, 0, NAN, 0, 1, 0]), ledger).kept.tolist() == [0, 1, 2, 5]
    assert strategy.balance(group(0, [1, 1, 1, 1, 1]), ledger).kept.tolist() == [0, 1, 2, 3]
    unscored = strategy.balance(group(0, [NAN] * 6), ledger)
    assert unscored.num_kept == 4 and unscored.baseline is None


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


def test_pods_keeps_both_ends() -> None:
    assert max_variance_subset(np.array([0, 0.4, 1, 0.5]), 2).tolist() == [0, 2]
    assert max_variance_subset(np.array([0.9, 0.8, 0.1, 0.5, 0.2, 1]), 4).tolist() == [0, 2, 4, 5]
    kept = PODS(keep=4).downsample(group(0, [1, 0, 0, NAN, 0, 0, 0, 0]))
    assert kept.kept.tolist() == [0, 5, 6, 7] and kept.baseline == pytest.approx(0.25)
    assert PODS().downsample(group(0, [NAN] * 8)).num_kept == 2


@pytest.mark.parametrize(
    ("rewards", "kept", "advantages"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], [1, 0, 0, 1], [0.86588, -0.86588, -0.86588, 0.86588]),
        ([0, 0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0], [1.4997, -0.4999, -0.4999, -0.4999]),
        ([1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 0], [0.4999, 0.4999, 0.4999, -1.4997]),
        (
            [0, 0.2, 0.5, 0.9, 1, 0.1, 0.3, 0.4],
            [0, 0.9, 1, 0.1],
            [-0.95618, 0.76495, 0.95618, -0.76495],
        ),
        ([1] * 8, [1] * 4, [0] * 4),
    ],
)
def test_pods_advantages_are_those_of_the_rollouts_kept(
    rewards: list[float], kept: list[float], advantages: list[float]
) -> None:
    smaller = PODS(keep=4).downsample(group(0, rewards))
    assert sorted(smaller.rewards[smaller.kept].tolist()) == sorted(kept)
    (found,) = compute_advantages([smaller], Ledger(1))
    assert sorted(found[smaller.kept]) == pytest.approx(sorted(advantages), abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_pods_subset_has_the_highest_variance_of_all(rewards: list[float], count: int) -> None:
    values = np.array(rewards)
    kept = max_variance_subset(values, count)
    count = min(count, len(values))
    assert len(set(kept.tolist())) == count
    best = max(values[list(subset)].var() for subset in combinations(range(len(values)), count))
    assert values[kept].var() == pytest.approx(best, abs=1e-9)


def test_vcrl_normalises_by_the_largest_variance_a_group_can_have() -> None:
    ledger = ledger_of(-1.0, 1.0)
    assert normalised_variance(group(0, [1, 1] + [-1] * 6), ledger) == pytest.approx(0.75)
    assert normalised_variance(group(0, [1] * 4 + [-1] * 4), ledger) == pytest.approx(1)
    assert normalised_variance(group(0, [1, 1, -1, -1, -1]), ledger) == pytest.approx(1)
    assert normalised_variance(group(0, [1, NAN]), ledger) == 0
    assert normalised_variance(group(0, [NAN]), ledger) == 0


def test_vcrl_fills_the_batch_from_memory_highest_first() -> None:
    rates = [3 / 8, 0.5, 0.25, 0, 1, 0]  # normalised variances 0.9375, 1, 0.75, 0, 0, 0
    game = Game(VCRL(prompts_per_step=3, early_steps=0), shares(rates), 6)
    assert game.kept() == [0, 1]
    outcome = game.step()
    assert [(g.prompt_id, g.step) for g in outcome.kept] == [(1, 0), (0, 0)]
    assert game.kept() == [0, 1]
    early = Game(VCRL(prompts_per_step=3, early_steps=1), shares(rates), 6)
    assert early.kept() == [0, 1, 2]

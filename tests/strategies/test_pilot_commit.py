"""Pilot-Commit, against numbers worked out by hand."""

import pytest

from dopr.strategies import PilotCommit
from games import Game, shares


def pilot_commit_game(**options: object) -> Game:
    # Of 16 pilots: 1 right (deferred), 2 and 12 right (pass), 13 right (skipped), all (dropped).
    rates = [1 / 16, 2 / 16, 12 / 16, 13 / 16, 1.0, 0.0]
    strategy = PilotCommit(prompts_per_step=2, num_generations=64, **options)  # type: ignore[arg-type]
    return Game(strategy, shares(rates), 6)


def test_pilot_commit_commits_where_the_pilot_passes() -> None:
    game = pilot_commit_game()
    outcome = game.step()
    assert game.asked[0] == [(i, 16) for i in range(6)]
    assert sorted(game.asked[1][:2]) == [(1, 48), (2, 48)]
    assert game.asked[1][2:] == [(0, 16), (3, 16), (5, 16)]  # 4 is dropped, 1 and 2 are in work
    assert sorted((g.prompt_id, g.num_rollouts) for g in outcome.kept) == [(1, 64), (2, 64)]
    assert game.strategy.metrics()["select/dropped_share"] == pytest.approx(1 / 6)


def test_pilot_commit_can_keep_solved_prompts() -> None:
    game = pilot_commit_game(drop_from=None)
    game.step()
    assert (4, 16) in game.asked[1]


def test_pilot_commit_drops_only_after_enough_rollouts() -> None:
    strategy = PilotCommit(prompts_per_step=1, drop_after=4, max_rounds=2)
    left = {0: [[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]], 1: [[0, 0]] * 9}
    game = Game(strategy, lambda prompt, n: (left[prompt].pop(0) * n)[:n], 2)
    strategy = game.strategy  # the copy that runs
    game.step()  # 2 of 2, then 1 of 2: the count starts again, and prompt 0 is to be committed to
    assert strategy._solved.tolist() == [0, 0]
    assert game.kept() == [0] and game.asked[0][0] == (0, 6)
    game.step()  # 2 of 2 twice
    assert strategy._solved.tolist() == [4, 0]
    game.step()
    assert {prompt for asked in game.asked for prompt, _ in asked} == {1}


def test_pilot_commit_throws_pilots_away_once_they_are_older_than_four_steps() -> None:
    strategy = PilotCommit(prompts_per_step=1, num_generations=8)
    game = Game(strategy, shares([0.5] * 40), 40)
    strategy = game.strategy  # the copy that runs
    ages = []
    for _ in range(12):
        step = game.driver.ledger.step
        ages += [step - g.step for g in game.step().kept]
        assert all(step - waiting.step <= 4 for waiting in strategy._waiting)
    assert max(ages) == 5  # the end of a step throws away what is older than 4 then
    assert game.asked[0][0][1] == 6 and game.asked[0][1][1] == 2  # 6 committed, pilots of 2


def test_pilot_commit_commits_first_to_the_highest_variance() -> None:
    strategy = PilotCommit(prompts_per_step=1, num_generations=64, order="variance")
    game = Game(strategy, shares([0.25, 0.5, 0.375]), 3)
    assert game.kept() == [1]


def test_pilot_commit_starts_over_once_everything_is_dropped() -> None:
    game = Game(PilotCommit(prompts_per_step=2, max_rounds=2), shares([1.0, 1.0]), 2)
    assert game.kept() == [0, 1] and game.kept() == [0, 1]

"""Strategies that choose prompts, against numbers worked out by hand or by their official code.

Those that choose among rollouts are in test_strategies_rollouts.py, those that predict from
embeddings in test_strategies_prediction.py.
"""

import numpy as np
import pytest

from dopr import UserError, make_strategy
from dopr.core.ledger import Ledger
from dopr.strategies import DAPO, GRESO, LILO, SPEED, MoPPS, PilotCommit
from dopr.strategies.parts.candidates import draw_new, nearest, split_group
from dopr.strategies.parts.posterior import outcome_variance, to_unit, update_posterior
from sampling_tools import Ascending, Game, group, ledger_of, shares

NAN = float("nan")


# -- rewards, posteriors, candidates --------------------------------------------------------


def test_rewards_are_mapped_by_the_lowest_and_highest_seen() -> None:
    ledger = ledger_of(-1.0, 3.0)
    assert to_unit([-1, 0, 1, 3], ledger) == pytest.approx([0, 0.25, 0.5, 1])
    assert np.isnan(to_unit(NAN, ledger))
    assert to_unit([0, 1], Ledger(4)) == pytest.approx([0, 1])
    assert to_unit([5, 0], ledger_of(5.0)) == pytest.approx([1, 0])
    assert to_unit(-2, ledger_of(-2.0)) == pytest.approx(0)


def test_outcome_variance_is_p_times_one_minus_p_for_verdicts() -> None:
    ledger = ledger_of(-1.0, 1.0)
    assert outcome_variance(group(0, [1, 1, 1, -1]), ledger) == pytest.approx(0.75 * 0.25)
    assert outcome_variance(group(0, [NAN, NAN]), ledger) == 0


def test_posterior_fades_towards_its_prior() -> None:
    # alpha = 0.5 * 1 + 0.5 + 2, beta = 0.5 * 1 + 0.5 + 1; then 0.5 * 3 + 0.5 and 0.5 * 2 + 0.5 + 1.
    counts, ledger = np.ones((4, 2)), ledger_of(0.0, 1.0)
    update_posterior(counts, group(2, [1, 1, NAN, 0]), ledger, decay=0.5)
    assert counts[2] == pytest.approx([3, 2])
    update_posterior(counts, group(2, [0]), ledger, decay=0.5)
    assert counts[2] == pytest.approx([2, 2.5])
    update_posterior(counts, group(2, [NAN]), ledger, decay=0.5)
    assert counts[2] == pytest.approx([2, 2.5])
    assert (counts[[0, 1, 3]] == 1).all()


def test_new_candidates_are_distinct_and_never_searched_for_without_end() -> None:
    assert draw_new(Ascending(5), 3, excluded={1}) == [0, 2, 3]
    assert draw_new(Ascending(5), 9, excluded={1, 4}) == [0, 2, 3]
    assert draw_new(Ascending(5), 2, excluded=range(5)) == []
    stream = Ascending(5)
    stream.draw(3)
    assert draw_new(stream, 1, excluded={0, 1, 3, 4}) == [2]  # behind, so only in the next epoch


def test_nearest_breaks_ties_by_the_generator() -> None:
    rng = np.random.default_rng(0)
    assert nearest(np.array([0.95, 0.45, 0.1]), 0.5, 2, rng).tolist() == [1, 2]
    ties = {int(nearest(np.full(4, 0.5), 0.5, 1, rng)[0]) for _ in range(60)}
    assert ties == {0, 1, 2, 3}


def test_groups_split_into_pilot_and_continuation() -> None:
    assert split_group(8, 0.5, None, None) == (4, 4)
    assert split_group(64, 16 / 64, None, None) == (16, 48)
    assert split_group(8, 16 / 64, None, None) == (2, 6)
    assert split_group(2, 0.5, None, None) == (2, 0)
    assert split_group(8, 0.5, 4, 20) == (4, 20)


# -- DAPO, GRESO, MoPPS ---------------------------------------------------------------------


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


def test_greso_skips_more_surely_with_every_visit_without_signal() -> None:
    strategy = GRESO(p_easy=0.5, p_hard=0.2)
    strategy._easy_streak = np.array([0, 1, 2, 7, 0, 0], np.int32)
    strategy._hard_streak = np.array([0, 0, 0, 0, 1, 3], np.int32)
    expected = [0, 0.5, 0.75, 0.99, 0.8, 0.99]
    assert strategy.skip_probability(np.arange(6)) == pytest.approx(expected)
    drawn = np.concatenate([strategy._draw(6, Ascending(6, seed), set()) for seed in range(4000)])
    kept = np.bincount(drawn, minlength=6) / 4000
    assert kept == pytest.approx(1 - np.array(expected), abs=0.03)


def test_greso_refills_as_its_official_code() -> None:
    # 256 prompts a step: 384 first; then need / (1 - share) * 1.25, within 64 and 384.
    strategy = GRESO(prompts_per_step=256)
    assert strategy.first_round == 384
    assert strategy.refill(100, 0.5) == (250, True)
    assert strategy.refill(200, 0.5) == (384, False)
    assert strategy.refill(10, 0.0) == (64, True)
    assert strategy.refill(10, 1.0) == (384, False)


def test_greso_counts_streaks_and_holds_its_targets() -> None:
    strategy = GRESO(prompts_per_step=2)
    game = Game(strategy, shares([1, 0, *[0.5] * 6]), 8)
    game.step()
    assert game.asked == [[(0, 8), (1, 8), (2, 8)], [(3, 8), (4, 8), (5, 8)]]  # one epoch
    assert strategy._easy_streak.tolist()[:2] == [1, 0]
    assert strategy._hard_streak.tolist()[:2] == [0, 1]
    assert (strategy._easy, strategy._hard) == (0.5, 0.5)
    game.driver.stream.epoch = 1
    later = [group(0, [1, 1]), *[group(2, [0, 1])] * 3]  # a quarter all right, none all wrong
    strategy._adapt(later, game.driver.stream, game.driver.ledger)
    assert (strategy._easy, strategy._hard) == pytest.approx((0.49, 0.51))
    for _ in range(100):
        strategy._adapt(later, game.driver.stream, game.driver.ledger)
    assert (strategy._easy, strategy._hard) == pytest.approx((0.05, 0.95))


def test_mopps_takes_the_draws_nearest_to_its_target() -> None:
    strategy = MoPPS(prompts_per_step=2, candidates_factor=3)
    strategy._counts = 1e6 * np.array([[9, 1], [5, 5], [1, 9], [6, 4], [1, 99], [99, 1.0]])
    game = Game(strategy, shares([0.5] * 6), 6)
    assert sorted(game.kept()) == [1, 3]
    assert strategy.metrics()["select/expected_success"] == pytest.approx(0.55)


def test_mopps_counts_successes_and_failures() -> None:
    game = Game(MoPPS(prompts_per_step=1, candidates_factor=1), shares([0.25]), 1)
    game.step()
    game.step()
    assert game.strategy.state_dict()["_counts"].tolist() == [[1 + 4, 1 + 12]]


# -- pilots: SPEED, Pilot-Commit, LILO ------------------------------------------------------


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


def test_lilo_trains_on_the_most_learnable_candidates() -> None:
    rates = [0, 0.125, 0.5, 1, 0.75, 0.25, 0.625, 0]
    game = Game(LILO(prompts_per_step=2), shares(rates), 8)
    assert game.kept() == [2, 6]
    assert game.driver.spent.rollouts == 64
    split = Game(LILO(prompts_per_step=2, pilots=4), shares(rates), 8)
    assert {g.num_rollouts for g in split.step().kept} == {8}
    assert len(split.asked[0]) == 8 and len(split.asked[1]) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dapo", {"max_rounds": 0}, "max_rounds is 0"),
        ("greso", {"oversample": 0.5}, "oversample is 0.5"),
        ("greso", {"p_easy": 2}, "p_easy is 2"),
        ("mopps", {"decay": 1.5}, "decay is 1.5"),
        ("speed", {"pilots": 1}, "pilots is 1"),
        ("speed", {"max_rounds": 1}, "max_rounds is 1"),
        ("pilot-commit", {"defer_below": 0.9}, "defer_below"),
        ("pilot-commit", {"order": "varance"}, "did you mean 'variance'"),
        ("lilo", {"candidates_factor": 0}, "candidates_factor is 0"),
        ("pcl", {"penalty": 0}, "penalty is 0"),
        ("dots", {"candidates": 2}, "candidates is 2"),
        ("dots", {"fresh_share": 0}, "fresh_share is 0"),
        ("reinforce-ada", {"keep": 1}, "keep is 1"),
        ("ar3po", {"memory": -1}, "memory is -1"),
        ("pods", {"keep": 1}, "keep is 1"),
        ("vcrl", {"kappa": -1}, "kappa is -1"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_strategy(name, **options)

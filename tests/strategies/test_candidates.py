"""Rewards, posteriors and candidates, which several strategies share."""

import numpy as np
import pytest

from dopr.core.ledger import Ledger
from dopr.strategies.parts.candidates import draw_new, nearest, split_group
from dopr.strategies.parts.posterior import outcome_variance, to_unit, update_posterior
from games import Ascending
from pools import group, ledger_of

NAN = float("nan")


def test_rewards_are_mapped_by_the_lowest_and_highest_seen() -> None:
    ledger = ledger_of([-1.0, 3.0], size=4)
    assert to_unit([-1, 0, 1, 3], ledger) == pytest.approx([0, 0.25, 0.5, 1])
    assert np.isnan(to_unit(NAN, ledger))
    assert to_unit([0, 1], Ledger(4)) == pytest.approx([0, 1])
    assert to_unit([5, 0], ledger_of([5.0], size=4)) == pytest.approx([1, 0])
    assert to_unit(-2, ledger_of([-2.0], size=4)) == pytest.approx(0)


def test_outcome_variance_is_p_times_one_minus_p_for_verdicts() -> None:
    ledger = ledger_of([-1.0, 1.0], size=4)
    assert outcome_variance(group(0, [1, 1, 1, -1]), ledger) == pytest.approx(0.75 * 0.25)
    assert outcome_variance(group(0, [NAN, NAN]), ledger) == 0


def test_posterior_fades_towards_its_prior() -> None:
    # alpha = 0.5 * 1 + 0.5 + 2, beta = 0.5 * 1 + 0.5 + 1; then 0.5 * 3 + 0.5 and 0.5 * 2 + 0.5 + 1.
    counts, ledger = np.ones((4, 2)), ledger_of([0.0, 1.0], size=4)
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


def test_a_temperature_draws_from_the_softmax_of_the_distance() -> None:
    # Logits 0 and -ln 2: two to one.
    rng, values = np.random.default_rng(3), np.array([0.5, 0.5 + 0.1 * np.log(2)])
    first = [int(nearest(values, 0.5, 1, rng, tau=0.1)[0]) for _ in range(4000)]
    assert np.mean(first) == pytest.approx(1 / 3, abs=0.03)
    cold = nearest(np.array([0.1, 0.47, 0.9, 0.55]), 0.5, 2, rng, tau=1e-3)
    assert cold.tolist() == [1, 3]


def test_groups_split_into_pilot_and_continuation() -> None:
    assert split_group(8, 0.5, None, None) == (4, 4)
    assert split_group(64, 16 / 64, None, None) == (16, 48)
    assert split_group(8, 16 / 64, None, None) == (2, 6)
    assert split_group(2, 0.5, None, None) == (2, 0)
    assert split_group(8, 0.5, 4, 20) == (4, 20)

"""Advantage estimators against numbers worked out by hand."""

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dopr import UserError
from dopr.core.advantages import (
    compute_advantages,
    discounted_beta_bernoulli,
    leave_one_out,
    usual_discount,
)
from dopr.core.ledger import Ledger
from dopr.strategies import DoPRPaper, Group, Uniform
from pools import group


def test_group_relative_by_hand() -> None:
    # Rewards 1, 0, 0, 0: mean 0.25, deviation with n-1 = 0.5.
    (scaled,) = compute_advantages([group(0, [1, 0, 0, 0])], Ledger(1))
    assert scaled == pytest.approx(np.array([0.75, -0.25, -0.25, -0.25]) / 0.5001)
    (plain,) = compute_advantages([group(0, [1, 0, 0, 0])], Ledger(1), scale="none")
    assert plain.tolist() == [0.75, -0.25, -0.25, -0.25]


def test_batch_scale_uses_the_deviation_of_all_rewards() -> None:
    groups = [group(0, [1, 0]), group(0, [1, 1, 1, 1])]
    std = np.std([1, 0, 1, 1, 1, 1], ddof=1)
    first, second = compute_advantages(groups, Ledger(1), scale="batch")
    assert first == pytest.approx(np.array([0.5, -0.5]) / (std + 1e-4))
    assert not second.any()


def test_leave_one_out_by_hand() -> None:
    # Baselines of the others for 1, 0, 0: 0, 0.5, 0.5.
    assert leave_one_out(np.array([1.0, 0.0, 0.0])).tolist() == pytest.approx([1.0, -0.5, -0.5])
    assert leave_one_out(np.array([1.0])).tolist() == [0.0]
    assert leave_one_out(np.array([1.0, np.nan, 0.0])).tolist() == [1.0, 0.0, -1.0]


def test_leave_one_out_leaves_out_of_the_rollouts_that_are_trained_on() -> None:
    # Of an earlier 1, 1, 1, 0 only the first is kept, beside 0, 0, 0, 0: four zeros against it.
    joined = Group(
        0,
        np.array([1.0, 1, 1, 0, 0, 0, 0, 0]),
        np.ones(8, np.int64),
        kept=np.array([0, 4, 5, 6, 7]),
        baseline=0.2,
    )
    (advantages,) = compute_advantages([joined], Ledger(1), "leave_one_out", scale="none")
    assert advantages[joined.kept] == pytest.approx([1.0, -0.25, -0.25, -0.25, -0.25])


def test_leave_one_out_of_the_whole_group_where_its_mean_is_the_baseline() -> None:
    # As Reinforce-Ada keeps a few of many: the others of 1 are 0, 0, 0, whether kept or not.
    few = Group(
        0,
        np.array([1.0, 0, 0, 0]),
        np.ones(4, np.int64),
        kept=np.array([0, 1]),
        baseline=0.25,
    )
    (advantages,) = compute_advantages([few], Ledger(1), "leave_one_out", scale="none")
    assert advantages == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_discounted_beta_bernoulli_by_hand() -> None:
    # Beta(1, 1), discount 0.5; visit 1: 2 of 4 -> (2.5, 2.5); visit 2: 4 of 4 -> (5.25, 1.25).
    ledger = Ledger(1, discount=0.5)
    ledger.observe([group(0, [1, 1, 0, 0])])
    ledger.end_step()
    ledger.observe([group(0, [1, 1, 1, 1])])
    (advantages,) = compute_advantages([group(0, [1, 1, 1, 1])], ledger, "dbb")
    mean = 5.25 / 6.5
    expected = (1 - mean) / np.sqrt(mean * (1 - mean))
    assert advantages == pytest.approx([expected] * 4)  # a group without variance still teaches


@pytest.mark.parametrize(
    ("discount", "visits"),
    [
        # (right of 8, the posterior's mean, advantage of a right and of a wrong rollout)
        (
            0.5,
            [
                (0, 0.055556, 4.123106, -0.242536),
                (3, 0.26, 1.687055, -0.592749),
                (8, 0.675439, 0.693195, -1.442595),
                (8, 0.847107, 0.424839, -2.353835),
            ],
        ),
        (0.75, [(0, 0.078947, 3.415650, -0.292770), (8, 0.566116, 0.875456, -1.142262)]),
    ],
)
def test_discounted_beta_bernoulli_over_the_papers_visits(
    discount: float, visits: list[tuple[int, float, float, float]]
) -> None:
    ledger = Ledger(1, discount=discount)
    for right, mean, if_right, if_wrong in visits:
        seen = group(0, [1] * right + [0] * (8 - right))
        ledger.observe([seen])
        ledger.end_step()
        for_right, for_wrong = discounted_beta_bernoulli(group(0, [1, 0]), ledger)
        assert (for_right, for_wrong) == pytest.approx((if_right, if_wrong), abs=3e-6)
        # They differ by 1 / s, and a wrong one has -m / s.
        assert -for_wrong / (for_right - for_wrong) == pytest.approx(mean, abs=1e-6)


@dataclass
class OwnDiscount(Uniform):
    """A user's strategy with an option that happens to have that name."""

    discount: float = 0.9


def test_dbb_without_a_discount_of_its_own_takes_the_papers() -> None:
    assert usual_discount(Uniform(), "dbb") == 0.5
    assert usual_discount(Uniform(), "group") is None
    assert usual_discount(DoPRPaper(), "dbb") is None  # which has 0.9
    assert usual_discount(DoPRPaper(discount=1.0), "dbb") is None  # told to keep all
    assert usual_discount(deepcopy(DoPRPaper(discount=1.0)), "dbb") is None
    # An own option of that name has nothing to do with the ledger.
    assert usual_discount(OwnDiscount(discount=1.0), "dbb") == 0.5


def test_unscored_rollouts_get_no_advantage() -> None:
    for estimator in ("group", "leave_one_out", "dbb"):
        ledger = Ledger(1)
        ledger.observe([group(0, [1, np.nan, 0])])
        (advantages,) = compute_advantages([group(0, [1, np.nan, 0])], ledger, estimator)
        assert advantages[1] == 0 and advantages[0] > 0 > advantages[2]
        (none,) = compute_advantages([group(0, [np.nan, np.nan])], ledger, estimator)
        assert not none.any()


def test_advantages_against_what_was_expected_by_hand() -> None:
    # Both right where 0.8 was expected: still a gradient, and a small one.
    sure = replace(group(0, [1, 1]), expected_mean=0.8, expected_std=0.4)
    poor = replace(group(0, [1, 0]), expected_mean=0.2, expected_std=0.4)
    found = compute_advantages([sure, poor], Ledger(1), "forecast")
    assert found[0] == pytest.approx(np.array([0.2, 0.2]) / 0.4001)
    assert found[1] == pytest.approx(np.array([0.8, -0.2]) / 0.4001)
    plain = compute_advantages([sure, poor], Ledger(1), "forecast", scale="none")
    assert np.concatenate(plain) == pytest.approx([0.2, 0.2, 0.8, -0.2])
    by_batch = compute_advantages([sure, poor], Ledger(1), "forecast", scale="batch")
    assert by_batch[0] == pytest.approx(np.array([0.2, 0.2]) / (np.sqrt(1 / 4) + 1e-4))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_of_which_nothing_was_expected_are_group_relative(scale: str) -> None:
    groups = [group(0, [1, 0, 0]), replace(group(0, [1, 0, 1]), baseline=0.5, std=2.0)]
    found = compute_advantages(groups, Ledger(1), "forecast", scale)
    wanted = compute_advantages(groups, Ledger(1), "group", scale)
    assert np.concatenate(found).tolist() == np.concatenate(wanted).tolist()


@pytest.mark.parametrize("right", [3, 4, 5])
def test_leave_one_out_of_two_that_are_kept_is_the_same_whatever_the_others_were(
    right: int,
) -> None:
    rewards = [1.0] * right + [0.0] * (8 - right)
    kept = replace(group(0, rewards).keep(np.array([0, 7])), baseline=0.5)
    (advantages,) = compute_advantages([kept], Ledger(1), "leave_one_out", scale="none")
    assert advantages[[0, 7]].tolist() == pytest.approx([1.0, -1.0])


def test_leave_one_out_subtracts_a_baseline_in_which_no_rollout_has_a_part() -> None:
    given = replace(group(0, [1.0, 0.0]), baseline=0.9)
    (advantages,) = compute_advantages([given], Ledger(1), "leave_one_out", scale="none")
    assert advantages.tolist() == pytest.approx([0.1, -0.9])


@pytest.mark.parametrize("estimator", ["group", "leave_one_out", "dbb", "zvp"])
def test_what_was_expected_is_advice_for_one_estimator_alone(estimator: str) -> None:
    plain = group(0, [1, 0, 0])
    advised = replace(plain, expected_mean=0.9, expected_std=0.3)
    ledger = Ledger(1)
    ledger.observe([plain])
    found, wanted = (compute_advantages([g], ledger, estimator)[0] for g in (advised, plain))
    assert found.tolist() == wanted.tolist()


def test_what_was_expected_goes_with_a_group_that_is_cut_and_not_with_one_that_is_joined() -> None:
    advised = replace(group(0, [1, 0, 0]), expected_mean=0.9, expected_std=0.3)
    kept = advised.keep(np.array([0]))
    assert (kept.expected_mean, kept.expected_std) == (0.9, 0.3)
    joined = advised.join(advised)
    assert joined.expected_mean is None and joined.expected_std is None


def test_own_baseline_and_weights_are_used() -> None:
    own = Group(
        0, np.array([1.0, 0.0]), np.ones(2, np.int64), baseline=0.2, weights=np.array([1.0, 3.0])
    )
    (advantages,) = compute_advantages([own], Ledger(1), scale="none")
    assert advantages == pytest.approx([0.8, -0.6])


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=16))
def test_equal_to_trls_formula(rewards: list[float]) -> None:
    (ours,) = compute_advantages([group(0, rewards)], Ledger(1))
    values = torch.tensor(rewards, dtype=torch.float64)
    trl = (values - values.mean()) / (values.std() + 1e-4)
    assert ours == pytest.approx(trl.numpy(), abs=1e-6)


@given(st.lists(st.integers(0, 1), min_size=2, max_size=16))
def test_advantages_of_a_group_sum_to_zero(rewards: list[int]) -> None:
    for estimator in ("group", "leave_one_out"):
        (values,) = compute_advantages(
            [group(0, [float(r) for r in rewards])], Ledger(1), estimator
        )
        assert abs(values.sum()) < 1e-6


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="leave_one_out"):
        compute_advantages([], Ledger(1), "leave_one")
    with pytest.raises(UserError, match="batch"):
        compute_advantages([], Ledger(1), scale="btch")


def test_a_step_without_variance_is_not_blown_up_by_the_scale_of_the_batch() -> None:
    # All are right where 0.9 was expected, with a deviation of 0.5: (1 - 0.9) / 0.5.
    sure = replace(group(0, [1.0, 1.0]), expected_mean=0.9, expected_std=0.5)
    (found,) = compute_advantages([sure], Ledger(1), "forecast", "batch")
    assert found == pytest.approx([0.1 / 0.5001] * 2)
    (found,) = compute_advantages([sure], Ledger(1), "group", "batch")
    assert not found.any()


def test_a_baseline_or_deviation_of_the_strategys_own_wins_over_what_was_expected() -> None:
    expecting = replace(group(0, [1.0, 0.0]), expected_mean=0.9, expected_std=0.5)
    own = replace(expecting, baseline=0.25)
    (found,) = compute_advantages([own], Ledger(1), "forecast", "none")
    assert found == pytest.approx([0.75, -0.25])
    (found,) = compute_advantages([replace(expecting, std=2.0)], Ledger(1), "forecast")
    assert found == pytest.approx([0.1 / 2.0001, -0.9 / 2.0001])

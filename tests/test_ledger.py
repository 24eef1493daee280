"""The ledger's statistics against numbers worked out by hand and against NumPy."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pools
from dopr.core.ledger import _COLUMNS, _TOGETHER_FROM, Ledger

group = partial(pools.group, tokens_each=3)


def test_fair_coin_scores_one_and_constant_rewards_zero() -> None:
    ledger = Ledger(3)
    ledger.observe([group(0, [0, 1, 0, 1]), group(1, [1, 1, 1, 1])])
    assert ledger.volatility("total").tolist() == [1.0, 0.0, 0.0]
    assert ledger.volatility("within", np.array([0, 1])).tolist() == [1.0, 0.0]


def test_discounted_volatility_by_hand() -> None:
    # First visit 4 x 0, second 4 x 1, discount 0.5: weights 2 and 4, mean 4/6,
    # variance (4/6)(2/6) = 2/9, times 4 = 8/9. Visit means 0 and 1 weigh 0.5 and 1: the same 2/9.
    ledger = Ledger(1, discount=0.5)
    for rewards in ([0.0] * 4, [1.0] * 4):
        ledger.observe([group(0, rewards)])
        ledger.end_step()
    assert ledger.mean[0] == pytest.approx(4 / 6)
    assert ledger.volatility("total")[0] == pytest.approx(8 / 9)
    assert ledger.volatility("between")[0] == pytest.approx(8 / 9)
    assert ledger.volatility("within")[0] == 0.0
    assert ledger.visits[0] == 2 and ledger.rollouts[0] == 8 and ledger.tokens[0] == 24


def test_binary_volatility_is_four_p_times_one_minus_p() -> None:
    ledger = Ledger(1, discount=0.7)
    ledger.observe([group(0, [1, 0, 0, 0])])
    ledger.end_step()
    ledger.observe([group(0, [1, 1, 0, 0])])
    p = float(ledger.mean[0])
    assert ledger.volatility("total")[0] == pytest.approx(4 * p * (1 - p), rel=1e-5)


def test_two_groups_of_a_prompt_in_one_step_are_one_visit() -> None:
    ledger = Ledger(1, discount=0.5)
    ledger.observe([group(0, [0, 1])])
    ledger.observe([group(0, [1, 1])])
    assert ledger.visits[0] == 1
    assert ledger.weight[0] == 4 and ledger.mean[0] == pytest.approx(0.75)


def test_unscored_rewards_cost_but_teach_nothing() -> None:
    ledger = Ledger(1)
    ledger.observe([group(0, [np.nan, 1.0, np.nan, 0.0])])
    assert ledger.rollouts[0] == 4 and ledger.weight[0] == 2 and ledger.mean[0] == 0.5
    ledger.end_step()
    ledger.observe([group(0, [np.nan, np.nan])])
    assert ledger.rollouts[0] == 6 and ledger.mean[0] == 0.5


@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=6), min_size=1, max_size=6),
    st.floats(0.1, 1.0),
)
def test_discounted_mean_and_variance_equal_their_definition(
    visits: list[list[float]], discount: float
) -> None:
    ledger = Ledger(1, discount)
    for rewards in visits:
        ledger.observe([group(0, rewards)])
        ledger.end_step()
    flat = np.concatenate([np.array(v) for v in visits])
    age = np.concatenate([[len(visits) - 1 - i] * len(v) for i, v in enumerate(visits)])
    weights = discount**age
    mean = np.average(flat, weights=weights)
    variance = np.average((flat - mean) ** 2, weights=weights)
    assert ledger.mean[0] == pytest.approx(mean, abs=1e-4)
    assert ledger.squares[0] / ledger.weight[0] == pytest.approx(variance, abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 1), min_size=2)), max_size=20))
def test_running_pool_mean_equals_the_mean_over_visited(
    visits: list[tuple[int, list[int]]],
) -> None:
    ledger = Ledger(5, 0.8)
    for prompt, rewards in visits:
        ledger.observe([group(prompt, [float(r) for r in rewards])])
        ledger.end_step()
    seen = ledger.visits > 0
    assert ledger.coverage == seen.mean()
    for kind in ("total", "within", "between"):
        if seen.any():
            expected = ledger.volatility(kind)[seen].mean()
            assert ledger.mean_volatility(kind) == pytest.approx(expected, abs=1e-4)
        else:
            assert np.isnan(ledger.mean_volatility(kind))


def test_a_ledger_goes_on_by_its_own_discount() -> None:
    saved, resumed, fresh = Ledger(2, 0.5), Ledger(2, 0.9), Ledger(2, 0.9)
    saved.observe([group(0, [0, 1])])
    resumed.load_state_dict(saved.state_dict())
    fresh.observe([group(0, [0, 1])])
    for ledger in (resumed, fresh):
        ledger.end_step()
        ledger.observe([group(0, [1, 1])])
    assert resumed.weight[0] == fresh.weight[0] == pytest.approx(2 * 0.9 + 2)


def test_state_round_trip() -> None:
    ledger = Ledger(3, 0.9)
    ledger.observe([group(0, [0, 1]), group(2, [1, 1], entropy=0.5)])
    ledger.observe_policy_entropy(1.5)
    ledger.end_step()
    other = Ledger(3, 0.9)
    other.load_state_dict(ledger.state_dict())
    for column in _COLUMNS:
        assert np.array_equal(getattr(ledger, column), getattr(other, column), equal_nan=True)
    for each in (ledger, other):
        each.observe([group(1, [0, 1, 1])])
    assert other.mean_volatility("total") == ledger.mean_volatility("total")
    assert other.step == 1 and other.mean_entropy == 0.5 and other.initial_entropy == 1.5


def test_a_prompt_costs_at_most_64_bytes() -> None:
    assert sum(np.dtype(dtype).itemsize for dtype in _COLUMNS.values()) <= 64


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_groups_at_once_teach_what_they_teach_one_by_one(data: st.DataObject) -> None:
    # Columns must agree to the last bit, running sums to rounding in float64.
    size = data.draw(st.integers(_TOGETHER_FROM, 24))
    discount = data.draw(st.sampled_from([1.0, 0.9, 0.5]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    value = data.draw(st.sampled_from(["binary", "real", "sometimes missing"]))
    together, single = Ledger(size, discount), Ledger(size, discount)
    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(data.draw(st.integers(1, 2))):  # the second round revisits within the step
            ids = rng.choice(size, rng.integers(1, size + 1), replace=rng.random() < 0.1)
            n = int(rng.integers(1, 40))
            groups = []
            for i in ids:
                rewards = rng.integers(0, 2, n) if value == "binary" else rng.normal(1, 3, n)
                rewards = rewards.astype(float)
                if value == "sometimes missing" and rng.random() < 0.1:
                    rewards[: rng.integers(1, n + 1)] = np.nan
                entropy = float(rng.choice([np.nan, 0.5, 0.7]))
                groups.append(group(int(i), rewards.tolist(), entropy=entropy))
            together.observe(groups)
            for each in groups:
                single.observe([each])
        together.end_step()
        single.end_step()
    for column in _COLUMNS:
        a, b = getattr(together, column), getattr(single, column)
        assert np.array_equal(a, b, equal_nan=True), column
    for kind in ("total", "within", "between"):
        same = pytest.approx(single.mean_volatility(kind), rel=1e-9, abs=1e-9)
        assert together.mean_volatility(kind) == same
    for name in ("visited_count", "reward_low", "reward_high", "mean_entropy"):
        expected = pytest.approx(getattr(single, name), rel=1e-9, nan_ok=True)
        assert getattr(together, name) == expected

"""CoBA-RL, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import CobaRL, Group
from pools import group

rates = st.lists(st.floats(0, 1), min_size=1, max_size=3)


def test_cobas_density_follows_the_failure_rate() -> None:
    strategy = CobaRL()
    assert strategy.alpha(0.8) == pytest.approx(3 + 5 * 0.8)
    assert strategy.alpha(0.5) == pytest.approx(11 / 2)  # symmetric where half fails
    assert strategy.alpha(0.3) == pytest.approx(3 + 5 / (1 + np.exp(2)))
    assert strategy.alpha(1.0) == pytest.approx(8)
    assert CobaRL(scale=9).alpha(1.0) == 8 and CobaRL(scale=-9).alpha(1.0) == 3  # clipped


def test_cobas_values_by_scipys_density() -> None:
    ps = np.array([0.0, 0.2, 0.5, 1.0])
    values = CobaRL(tau=2.0).values(ps, np.array([2, 8]), 7.0)
    inner = beta_distribution.pdf([0.2, 0.5], 7, 4)
    assert values[0].tolist() == [0, 0] and values[3].tolist() == [0, 0]
    assert values[1] == pytest.approx([(1 - np.exp(-n * 0.16 / 2)) * inner[0] for n in (2, 8)])
    assert values[2] == pytest.approx([(1 - np.exp(-n * 0.25 / 2)) * inner[1] for n in (2, 8)])


def test_coba_starts_even_and_then_shuns_what_teaches_nothing() -> None:
    strategy = CobaRL(prompts_per_step=4, num_generations=8, window=2)
    driver = Driver(strategy, PromptStream(4, 0))
    strategy = driver.strategy  # the copy that runs
    success = np.array([0.0, 0.5, 0.5, 1.0])
    alternating = {0: [0] * 8, 1: [0, 1] * 4, 2: [0, 1] * 4, 3: [1] * 8}

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, np.resize(alternating[r.prompt_id], r.num_rollouts))
            for r in requests
        ]

    first = driver.step(roll_out)
    assert [g.num_rollouts for g in first.generated] == [8] * 4
    second = {g.prompt_id: g.num_rollouts for g in driver.step(roll_out).generated}
    assert second == {0: 2, 1: 14, 2: 14, 3: 2}
    assert strategy.metrics()["select/failure_rate"] == pytest.approx(1 - success.mean())


def test_cobas_failure_rate_is_a_moving_average() -> None:
    strategy = CobaRL(prompts_per_step=1, window=2)
    driver = Driver(strategy, PromptStream(1))
    strategy = driver.strategy  # the copy that runs
    for right in (1, 0, 0, 1):
        driver.step(lambda requests, right=right: [group(0, [right] * 4 + [0] * 4)])
    driver.step(lambda requests: [group(0, [np.nan] * 8)])
    # Failure rates 1/2, 1, 1, 1/2; the blank group says nothing.
    assert strategy.metrics()["select/failure_rate"] == pytest.approx(0.75)
    driver.step(lambda requests: [group(0, [1] * 8)])
    assert strategy.metrics()["select/failure_rate"] == pytest.approx(0.75)

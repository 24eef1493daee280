"""CoBA-RL, against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import CobaRL, Group
from dopr.strategies.methods.coba_rl import greedy_share, middle_tau
from pools import group

EIGHT = np.array([0, 0, 1 / 8, 1 / 4, 1 / 2, 5 / 8, 7 / 8, 1])


@pytest.mark.parametrize(
    ("failure", "alpha", "counts"),
    [
        (0.0, 1.060236, [9, 5, 40, 2, 2, 2, 2, 2]),
        (0.25, 1.682724, [9, 5, 33, 9, 2, 2, 2, 2]),
        (0.5, 5.5, [9, 5, 2, 2, 25, 17, 2, 2]),
        (0.6, 6.4, [9, 5, 2, 2, 19, 23, 2, 2]),
        (0.75, 7.75, [9, 5, 2, 2, 7, 31, 6, 2]),
        (0.9, 9.1, [9, 5, 2, 2, 2, 2, 40, 2]),
        (1.0, 10.0, [9, 5, 2, 2, 2, 2, 40, 2]),
    ],
)
def test_coba_divides_as_the_official_rule(failure: float, alpha: float, counts: Any) -> None:
    # Of 64 rollouts 48 are spare, 38 dealt greedily and 10 left for the two hopeless prompts.
    strategy = CobaRL()
    assert strategy.alpha(failure) == pytest.approx(alpha, abs=1e-6)
    assert strategy.allocate(EIGHT, strategy.alpha(failure)).tolist() == counts


def test_coba_divides_small_steps_as_the_official_rule() -> None:
    strategy, unknown = CobaRL(), np.nan
    assert strategy.allocate(np.array([unknown, 0, unknown, 0.5]), 5.5).tolist() == [9, 7, 8, 8]
    assert strategy.allocate(np.array([0.0, 0, 1, 1]), 5.5).tolist() == [17, 11, 2, 2]
    counts = strategy.allocate(np.array([0, 0, 0, 0.5, 1, 1, 1, 1]), 5.5)
    assert counts.tolist() == [9, 8, 6, 33, 2, 2, 2, 2]
    assert strategy.allocate(np.full(4, unknown), 9.0).tolist() == [8] * 4
    # Both bounds of the middle class belong to it.
    edge = CobaRL(num_generations=4).allocate(np.array([0.05, 0.99, 0.0, 0.0]), 5.5)
    assert edge[0] > 2 and edge[2] > 2


def test_cobas_tau_follows_the_middles_variance() -> None:
    assert middle_tau(np.array([0.05, 0.95])) == 12
    assert middle_tau(np.array([0.3])) == 3
    assert middle_tau(EIGHT[2:7]) == pytest.approx(6.846731, abs=1e-6)
    assert [greedy_share(share) for share in (0.25, 0.5, 0.51)] == pytest.approx([0.7, 0.8, 0.8])


def test_cobas_values_by_scipys_density() -> None:
    ps = np.array([0.2, 0.5])
    values = CobaRL(tau=2.0).values(ps, np.array([2, 8]), 7.0)
    inner = beta_distribution.pdf(ps, 7, 4)
    assert values[0] == pytest.approx([(1 - np.exp(-n * 0.16 / 2)) * inner[0] for n in (2, 8)])
    assert values[1] == pytest.approx([(1 - np.exp(-n * 0.25 / 2)) * inner[1] for n in (2, 8)])


def test_coba_starts_even_and_then_goes_by_the_last_visit() -> None:
    strategy = CobaRL(prompts_per_step=4, num_generations=8)
    driver = Driver(strategy, PromptStream(4, 0))
    strategy = driver.strategy  # the copy that runs
    outcomes = {0: [0] * 8, 1: [0, 1] * 4, 2: [0, 1] * 4, 3: [1] * 8}

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, np.resize(outcomes[r.prompt_id], r.num_rollouts)) for r in requests
        ]

    first = driver.step(roll_out)
    assert [g.num_rollouts for g in first.generated] == [8] * 4
    assert strategy.metrics()["select/alpha"] == 9
    second = {g.prompt_id: g.num_rollouts for g in driver.step(roll_out).generated}
    # 24 spare, int(24 * 0.8) = 19 dealt to the two in the middle, the other 5 to the hopeless one.
    assert second[0] == 7 and second[3] == 2 and sorted([second[1], second[2]]) == [11, 12]
    assert strategy.metrics()["select/failure_rate"] == 0.5
    # The past is gone after one visit; a window of two keeps it.
    outcomes[0] = [1] * 8
    driver.step(roll_out)
    assert strategy.rates(np.array([0])).tolist() == [1.0]


def test_cobas_windows_pool_visits_and_average_failure_rates() -> None:
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
    assert strategy.rates(np.array([0])).tolist() == [12 / 16]


def test_coba_counts_only_the_highest_reward_as_a_success() -> None:
    strict, lenient = CobaRL(prompts_per_step=1), CobaRL(prompts_per_step=1, right_from=0.5)
    for strategy, rate in ((strict, 0.25), (lenient, 0.75)):
        driver = Driver(strategy, PromptStream(1))
        driver.step(lambda requests: [group(0, [0, 0.5, 0.5, 1] * 2)])
        assert driver.strategy.rates(np.array([0])).tolist() == [rate]

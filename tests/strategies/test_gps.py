"""GPS, against numbers worked out by hand."""

import numpy as np

from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import GPS
from pools import QUANTITIES, bernoulli_pool, measurer


def test_gps_weighs_distance_to_one_half_against_likeness() -> None:
    strategy = GPS(diversity=0.1)
    strategy._embeddings = np.array([[1, 0], [1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    rng = np.random.default_rng(0)
    # 0 first; 1 is as good but alike (distance 0), 2 is 1 away and costs 0.2 ^ 2.
    rates = np.array([0.5, 0.5, 0.3, 0.0])
    assert sorted(strategy.choose(rates, 2, rng).tolist()) in ([0, 2], [1, 2])
    strategy.diversity = 0.0
    assert sorted(strategy.choose(rates, 2, rng).tolist()) == [0, 1]
    strategy.diversity, strategy._before = 0.1, np.array([0])
    assert strategy.choose(np.full(4, 0.5), 1, rng).tolist() == [2]  # farthest from the last


def test_gps_learns_which_kind_is_worth_choosing() -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(GPS(diversity=0.01), PromptStream(60, 0), can_measure=QUANTITIES)
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(8):
        driver.step(roll_out, measure)
    chosen = [g.prompt_id for _ in range(4) for g in driver.step(roll_out, measure).kept]
    assert np.mean(success[chosen] == 0.5) > 0.6

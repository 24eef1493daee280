"""SEC, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import SEC
from dopr.strategies.methods.sec import advantage_size
from pools import bernoulli_pool, group


def test_secs_reward_is_the_mean_absolute_advantage() -> None:
    assert advantage_size(group(0, [1, 0, 0, 0])) == pytest.approx(2 * np.sqrt(3 / 16))
    assert advantage_size(group(0, [-5, 5])) == pytest.approx(1)
    assert advantage_size(group(0, [1, 1])) == 0
    assert advantage_size(group(0, [np.nan, 1])) == 0


@pytest.mark.parametrize(("fades", "absent"), [(False, 0.8), (True, 0.4)])
def test_sec_learns_the_value_of_each_category(fades: bool, absent: float) -> None:
    strategy = SEC(learning_rate=0.5, fade_absent=fades)
    strategy._values = np.array([0.0, 0.2, 0.8])
    kinds = np.array([0, 0, 1, 2])
    strategy.learn(
        [group(0, [0, 1]), group(1, [0, 0]), group(2, [1, 0, 0, 0]), group(3, [np.nan])], kinds
    )
    # Category 0 yielded (1 + 0) / 2; category 1 2 sqrt(3/16); category 2 nothing that counts.
    expected = [0.25, 0.1 + np.sqrt(3 / 16), absent]
    assert strategy._values == pytest.approx(expected)


def test_sec_draws_categories_by_softmax_and_never_beyond_their_size() -> None:
    strategy, rng = SEC(prompts_per_step=4), np.random.default_rng(0)
    chances = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    sizes = np.array([100, 100])
    drawn = sum(strategy.draw_categories(chances, sizes, rng) for _ in range(1000))
    assert drawn / 4000 == pytest.approx(chances, abs=0.03)
    full = strategy.draw_categories(np.array([0.0, 1.0]), np.array([9, 1]), rng)
    assert full.tolist() == [3, 1]
    assert strategy.draw_categories(chances, np.array([1, 1]), rng).tolist() == [1, 1]


def test_sec_with_one_category_is_uniform_choice() -> None:
    driver = Driver(SEC(prompts_per_step=4), PromptStream(12, 0))
    for _ in range(6):
        driver.step(bernoulli_pool(np.full(12, 0.5)))
    assert driver.ledger.visits.tolist() == [2] * 12


def test_sec_prefers_the_category_that_teaches() -> None:
    stream = PromptStream(60, 0)
    stream.categories = np.repeat([7, 3, 5], 20)
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(SEC(temperature=0.2), stream)
    for _ in range(60):
        driver.step(bernoulli_pool(success, driver.ledger.step))
    assert driver.ledger.visits[20:40].sum() > 0.8 * driver.ledger.visits.sum()
    assert driver.strategy.metrics()["select/likeliest_category"] == 3

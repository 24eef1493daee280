"""The oracle, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import Group, Measure, Oracle
from pools import QUANTITIES, group


def test_oracle_measures_for_free_and_takes_the_best() -> None:
    asked: list[Measure] = []

    def measure(request: Measure) -> tuple[np.ndarray, int]:
        asked.append(request)
        return np.array([0.0, 0.25, 0.5, 1.0])[list(request.prompt_ids)], 0

    driver = Driver(Oracle(refresh=3, samples=6), PromptStream(4), can_measure=QUANTITIES)

    def half(requests: list[Request]) -> list[Group]:
        return [group(r.prompt_id, [0, 1] * 4) for r in requests]

    for _ in range(4):
        assert [g.prompt_id for g in driver.step(half, measure).kept] == [2]
    assert [(a.prompt_ids, a.samples) for a in asked] == [((0, 1, 2, 3), 6)] * 2
    assert driver.spent.rollouts == 4 * 8 and driver.spent.measured_tokens == 0


def test_oracle_moves_on_from_a_prompt_that_is_learned() -> None:
    strategy = Oracle(refresh=100, samples=8)
    driver = Driver(strategy, PromptStream(2), can_measure=QUANTITIES)
    strategy = driver.strategy  # the copy that runs

    def solved(requests: list[Request]) -> list[Group]:
        return [group(r.prompt_id, [1] * 8) for r in requests]

    measured = np.array([0.5, 0.2])
    steps = [driver.step(solved, lambda asked: (measured, 0)) for _ in range(3)]
    # 1/2 becomes (4 + 8) / 16 = 3/4 and then 7/8: p(1 - p) falls below the other's 0.16.
    assert [step.kept[0].prompt_id for step in steps] == [0, 0, 1]
    assert strategy.state_dict()["_rates"] == pytest.approx([7 / 8, (1.6 + 8) / 16])
    harder = Oracle(target=2.0)
    harder._rates = np.array([0.5, 1 / 3, 0.1])
    assert harder.choose(Ledger(3), np.random.default_rng(0)).tolist() == [1]


def test_oracle_knows_rewards_of_any_range_and_breaks_ties_at_random() -> None:
    strategy = Oracle(prompts_per_step=2)
    strategy._rates = np.array([-4.0, 0.0, 4.0, np.nan])
    firsts = set()
    for seed in range(20):
        chosen = strategy.choose(Ledger(4), np.random.default_rng(seed))
        assert chosen[0] == 1
        firsts.add(int(chosen[1]))
    assert firsts == {0, 2}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_oracle_chooses_at_random_where_nothing_could_be_measured() -> None:
    strategy = Oracle()
    strategy._rates = np.full(3, np.nan)
    chosen = {int(strategy.choose(Ledger(3), np.random.default_rng(s))[0]) for s in range(20)}
    assert chosen == {0, 1, 2}

"""VIGOR, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import VIGOR, Group
from pools import bernoulli_pool, group


@pytest.mark.parametrize(
    ("prompts", "rounds", "total"),
    [(16, [(16, 2), (8, 4), (4, 8), (2, 16)], 128), (8, [(8, 2), (4, 4), (2, 8), (1, 16)], 64)],
)
def test_vigors_rounds_cost_alike(prompts: int, rounds: list[tuple[int, int]], total: int) -> None:
    asked: list[tuple[int, int]] = []
    roll_out = bernoulli_pool(np.full(prompts, 0.5))

    def noted(requests: list[Request]) -> list[Group]:
        asked.append((len(requests), requests[0].num_rollouts))
        return roll_out(requests)

    kept = Driver(VIGOR(prompts_per_step=prompts), PromptStream(prompts)).step(noted).kept
    assert asked == rounds
    assert sum(g.num_rollouts for g in kept) == total
    assert set(g.num_rollouts for g in kept) == {2, 6, 14, 30}


def test_vigor_goes_on_where_rewards_vary_most() -> None:
    outcomes = {0: [0, 0, 0, 0], 1: [1, 0, 1, 0], 2: [1, 1, 1, 1], 3: [1, 1, 1, 0]}
    strategy = VIGOR(prompts_per_step=4, rounds=2, first=4, keep=0.25, growth=4)
    driver = Driver(strategy, PromptStream(4))
    kept = driver.step(
        lambda asked: [
            group(r.prompt_id, outcomes[r.prompt_id] * (r.num_rollouts // 4)) for r in asked
        ]
    ).kept
    assert {g.prompt_id: g.num_rollouts for g in kept} == {0: 4, 1: 20, 2: 4, 3: 4}

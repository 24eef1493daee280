"""XRPO, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy import special

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import XRPO, Group
from dopr.strategies.methods.xrpo import student_quantile
from pools import group


def test_students_quantiles_are_scipys() -> None:
    for freedom in (1, 2, 3, 4, 7, 30, 127):
        for confidence in (0.5, 0.95, 0.999):
            expected = special.stdtrit(freedom, 0.5 + confidence / 2)
            assert student_quantile(freedom, confidence) == pytest.approx(expected, rel=1e-8)


def test_xrpos_worth_of_one_more_rollout() -> None:
    counts = np.array([4, 4, 4, 8])
    stds = np.array([0, 0.5, np.std([0, 0, 1, 1], ddof=1), 0.5])
    strategy = XRPO(bonus=1.0)
    widths = strategy.half_width(counts, stds)
    assert widths == pytest.approx([0, 0.795612, 0.918693, 0.418010], abs=1e-6)
    worth = strategy.worth(counts, stds, 32)
    assert worth[:3] == pytest.approx([0.874127, 1.048906, 1.075945], abs=1e-6)
    assert worth[3] == pytest.approx(0.033676 + 0.437063, abs=1e-6)
    assert XRPO(bonus=1.0, bonus_form="root").worth(counts, stds, 32)[0] == pytest.approx(
        0.934948, abs=1e-6
    )


def test_xrpo_spends_the_budget_where_rewards_vary() -> None:
    success = np.array([0.0, 1.0, 0.5, 0.5])
    rng = np.random.default_rng(3)

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, rng.permutation(np.arange(r.num_rollouts) % 2))
            if success[r.prompt_id] == 0.5
            else group(r.prompt_id, [success[r.prompt_id]] * r.num_rollouts)
            for r in requests
        ]

    driver = Driver(XRPO(prompts_per_step=4, bonus=0.0), PromptStream(4))
    sizes = {g.prompt_id: g.num_rollouts for g in driver.step(roll_out).kept}
    assert sizes[0] == sizes[1] == 4 and sizes[2] + sizes[3] == 24
    assert abs(sizes[2] - sizes[3]) <= 2

"""The advantages that the trainer's loss is given, by estimator and scale."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dopr.strategies import DoPR
from engine_tools import Recorder
from training import TwoRounds, make_trainer, parameters

# Rewards of TwoRounds' three groups, the first and the last of one prompt, and what each estimator
# subtracts and multiplies by: worked out by hand.
GROUPS = ([1, 0, 0, 1, 0], [0, 1, 0], [1, 0, 0, 1])
MEANS = (2 / 5, 1 / 3, 1 / 2)
# Successes and failures, beside one of each assumed before and faded by one half since, as DBB does
# where nothing else is said: 4 + 1/2 of 9 + 1, and 1 + 1/2 of 3 + 1.
POSTERIORS = (9 / 20, 3 / 8, 9 / 20)
CENTERS = {"group": MEANS, "leave_one_out": MEANS, "dbb": POSTERIORS}
FACTORS = {"group": (1, 1, 1), "leave_one_out": (5 / 4, 3 / 2, 4 / 3), "dbb": (1, 1, 1)}
DEVIATIONS = {
    "group": np.sqrt([3 / 10, 1 / 3, 1 / 3]),
    "batch": np.sqrt([35 / 132] * 3),  # five of twelve are right
    "own": np.sqrt([99 / 400, 15 / 64, 99 / 400]),
}


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("estimator", ["group", "leave_one_out", "dbb"])
def test_the_loss_is_given_the_advantages_of_the_estimator(
    tmp_path: Path, estimator: str, scale: str
) -> None:
    def as_written(completions: list[str], **columns: Any) -> list[float]:
        both_pilots = [*GROUPS[0], *GROUPS[1]]
        return [float(r) for r in (both_pilots if len(completions) == 8 else GROUPS[2])]

    trainer = make_trainer(
        tmp_path,
        TwoRounds(keep_every=1),
        as_written,
        advantage_estimator=estimator,
        scale_rewards=scale,
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
    )
    recorder, before = Recorder(trainer), parameters(trainer)
    trainer.train()
    # DBB brings its own scale, whatever is asked for, which is never 0 and wants no epsilon.
    by = "own" if estimator == "dbb" else scale
    epsilon = 0.0 if by == "own" else 1e-4
    divisors = np.ones(3) if by == "none" else DEVIATIONS[by] + epsilon
    wanted = [
        (reward - center) * factor / divisor
        for rewards, center, factor, divisor in zip(
            GROUPS, CENTERS[estimator], FACTORS[estimator], divisors, strict=True
        )
        for reward in rewards
    ]
    given = [float(row["advantages"].flatten()[0]) for _, row in recorder.rows()]
    assert sorted(given) == pytest.approx(sorted(wanted), abs=1e-5)
    assert not torch.equal(before, parameters(trainer))


@pytest.mark.parametrize("estimator", [None, "forecast", "group"])
def test_groups_that_all_went_one_way_teach_where_something_else_was_expected(
    tmp_path: Path, estimator: str | None
) -> None:
    def right(completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    trainer = make_trainer(tmp_path, None, right, advantage_estimator=estimator, max_steps=1)
    recorder, before = Recorder(trainer), parameters(trainer)
    trainer.train()
    given = np.array([float(row["advantages"].flatten()[0]) for _, row in recorder.rows()])
    # Four forecasts of twenty start from a coin, Beta(1, 1), the others from Beta(a, a), whose
    # spread is 0.35; then four of four are right. A coin's deviation is 1/2.
    a = (0.25 / 0.35**2 - 1) / 2
    coin, other = 4 * 1 / 5, 16 * math.prod((a + n) / (2 * a + n) for n in range(4))
    expected = (coin * 5 / 6 + other * (a + 4) / (2 * a + 4)) / (coin + other)
    wanted = (1 - expected) / (0.5 + 1e-4) if estimator != "group" else 0.0
    assert given == pytest.approx(wanted, rel=1e-4)
    assert torch.equal(before, parameters(trainer)) == (estimator == "group")


def test_one_rollout_of_a_prompt_is_held_against_what_was_expected(tmp_path: Path) -> None:
    def in_turn(completions: list[str], **columns: Any) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    strategy = DoPR(num_generations=1, prompts_per_step=8)
    trainer = make_trainer(tmp_path, strategy, in_turn, max_steps=1)
    recorder, before = Recorder(trainer), parameters(trainer)
    trainer.train()
    given = sorted(float(row["advantages"].flatten()[0]) for _, row in recorder.rows())
    # As above; the first rollout is as likely under every forecast.
    a = (0.25 / 0.35**2 - 1) / 2
    expected = 1 / 5 * 2 / 3 + 4 / 5 * (a + 1) / (2 * a + 1)
    surprise = (1 - expected) / (0.5 + 1e-4)
    assert given == pytest.approx([-surprise] * 4 + [surprise] * 4, rel=1e-4)
    assert not torch.equal(before, parameters(trainer))

"""VCRL, against numbers worked out by hand."""

import pytest

from dopr.strategies import VCRL
from dopr.strategies.methods.vcrl import normalised_variance
from games import Game, shares
from pools import group, ledger_of

NAN = float("nan")


def test_vcrl_normalises_by_the_largest_variance_a_group_can_have() -> None:
    ledger = ledger_of([-1.0, 1.0], size=4)
    assert normalised_variance(group(0, [1, 1] + [-1] * 6), ledger) == pytest.approx(0.75)
    assert normalised_variance(group(0, [1] * 4 + [-1] * 4), ledger) == pytest.approx(1)
    assert normalised_variance(group(0, [1, 1, -1, -1, -1]), ledger) == pytest.approx(1)
    assert normalised_variance(group(0, [1, NAN]), ledger) == 0
    assert normalised_variance(group(0, [NAN]), ledger) == 0


def test_vcrl_fills_the_batch_from_memory_highest_first() -> None:
    rates = [3 / 8, 0.5, 0.25, 0, 1, 0]  # normalised variances 0.9375, 1, 0.75, 0, 0, 0
    game = Game(VCRL(prompts_per_step=3, early_steps=0), shares(rates), 6)
    assert game.kept() == [0, 1]
    outcome = game.step()
    assert [(g.prompt_id, g.step) for g in outcome.kept] == [(1, 0), (0, 0)]
    assert game.kept() == [0, 1]
    early = Game(VCRL(prompts_per_step=3, early_steps=1), shares(rates), 6)
    assert early.kept() == [0, 1, 2]

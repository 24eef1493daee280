"""BOTS, against numbers worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from dopr import UserError
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import BOTS
from pools import bernoulli_pool

REFERENCES = [[0.1, 0.6], [0.3, 0.9], [0.0, 0.5], [0.8, 1.0]]


def bots_of(tmp_path: Path, m: int) -> BOTS:
    file = tmp_path / "references.json"
    file.write_text(json.dumps({str(i): pair for i, pair in enumerate(REFERENCES)}))
    strategy = BOTS(references=str(file), num_generations=m)
    strategy._counts = np.ones((4, 2))
    return strategy


def test_bots_moves_its_posteriors_as_the_official_class(tmp_path: Path) -> None:
    strategy = bots_of(tmp_path, 16)
    strategy.update(np.array([0, 1]), np.array([0.25, 0.5]))
    assert strategy._place == pytest.approx(0.318181, abs=1e-6)
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([5, 9, 1.254545, 2.381818], abs=2e-6)
    assert beta == pytest.approx([13, 9, 2.345455, 1.218182], abs=2e-6)
    strategy.update(np.array([2]), np.array([0.0]))
    assert strategy._place == pytest.approx(0.286363, abs=1e-6)
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([4.989090, 8.954909, 1.229090, 3.615272], abs=2e-6)
    assert beta == pytest.approx([13.010910, 9.045091, 18.210910, 1.424728], abs=2e-6)


def test_bots_counts_rollouts_and_clips_rates_not_the_place(tmp_path: Path) -> None:
    strategy = bots_of(tmp_path, 8)
    strategy.update(np.array([0, 1]), np.array([0.25, 0.5]))
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([3, 5, 1.127273, 1.690909], abs=2e-6)
    assert beta == pytest.approx([7, 5, 1.672728, 1.109091], abs=2e-6)
    strategy = bots_of(tmp_path, 8)
    strategy.update(np.array([0]), np.array([0.9]))
    assert strategy._place == pytest.approx(1.6, abs=1e-5)
    assert strategy._counts[1] == pytest.approx([1.8, 1])  # 0.3 + 0.6 * 1.6 is clipped to 1


def test_bots_comes_to_choose_what_its_references_tell_apart(tmp_path: Path) -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    file = tmp_path / "references.json"
    file.write_text(json.dumps([[rate / 2, rate] for rate in success]))
    driver = Driver(BOTS(references=str(file)), PromptStream(60, 0))
    for _ in range(20):
        driver.step(bernoulli_pool(success))
    chosen = [g.prompt_id for _ in range(5) for g in driver.step(bernoulli_pool(success)).kept]
    assert np.mean(success[chosen] == 0.5) > 0.7
    assert driver.strategy.metrics()["select/place"] > 0.8  # the policy is the strong one


@pytest.mark.parametrize("content", ["[[0, 2]]", '{"0": [0]}', '{"1": [0, 1]}', "no json"])
def test_bad_references_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "references.json"
    file.write_text(content)
    with pytest.raises(UserError, match="references"):
        BOTS(references=str(file))
    with pytest.raises(UserError, match="cannot read"):
        BOTS(references=str(tmp_path / "none.json"))
    file.write_text("[[0, 1]]")
    with pytest.raises(UserError, match="1 rows and the pool 3"):
        Driver(BOTS(references=str(file)), PromptStream(3)).step(bernoulli_pool(np.ones(3) / 2))

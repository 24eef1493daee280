"""LIMR, history variance and one-shot: strategies that follow the learning curves of a pre-run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopr import Request, UserError, make_strategy
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import LIMR, Group, HistoryVariance
from dopr.strategies.parts.learning_curves import alignment_scores, deviations
from pools import bernoulli_pool, group


def write_history(tmp_path: Path, history: dict[str, Any]) -> str:
    file = tmp_path / "history.json"
    file.write_text(json.dumps(history))
    return str(file)


def test_alignment_scores_by_the_official_rule() -> None:
    # Mean curve (1/2, 1/2); the largest distance from it is 1/4 + 1/4.
    curves = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert alignment_scores(curves) == pytest.approx([0, 1, 0])
    # The missing first epoch takes the second's value; a missing last one leaves no score.
    gaps = np.array([[np.nan, 0.5], [0.5, 0.5], [0.9, np.nan]])
    scores = alignment_scores(gaps)
    assert scores[:2] == pytest.approx([1, 1]) and np.isnan(scores[2])
    assert alignment_scores(np.ones((2, 3))).tolist() == [1, 1]
    assert np.isnan(alignment_scores(np.full((2, 3), np.nan))).all()


def test_deviations_leave_missing_epochs_out() -> None:
    found = deviations(np.array([[0.0, 1.0, np.nan], [0.4, 0.4, 0.4], [np.nan] * 3]))
    assert found[:2] == pytest.approx([0.5, 0.0], abs=1e-9) and np.isnan(found[2])


def test_a_files_pre_run_is_paid_for_from_the_start(tmp_path: Path) -> None:
    history = write_history(tmp_path, {"0": [0.0, 1.0], "2": [0.5, 0.5], "3": [None, 0.6]})
    strategy = make_strategy("limr", history=history, history_group_size=4, num_generations=2)
    driver = Driver(strategy, PromptStream(5))
    assert driver.spent.rollouts == 5 * 4
    outcome = driver.step(bernoulli_pool(np.full(5, 0.5)))
    # Prompt 0 swings away from the mean curve; the other two fill the eight places in turn.
    assert sorted(g.prompt_id for g in outcome.kept) == [2] * 4 + [3] * 4
    assert driver.spent.rollouts == 5 * 4 + 8 * 2
    one_shot = make_strategy("one_shot", history=history)
    assert Driver(one_shot, PromptStream(5)).spent.rollouts == 5 * 8
    assert Driver(make_strategy("limr"), PromptStream(5)).spent.rollouts == 0


@pytest.mark.parametrize("ahead", [16, 24])
def test_a_pre_run_selects_once_all_of_it_is_there_however_many_steps_overlap(ahead: int) -> None:
    strategy = make_strategy(
        "history-variance", prerun_epochs=2, prompts_per_step=2, num_generations=2
    )
    driver = Driver(strategy, PromptStream(8, seed=1))
    flights = [driver.begin() for _ in range(ahead // 2)]
    rng = np.random.default_rng(0)
    for number in rng.permutation(len(flights)).tolist():
        flight = flights[number]
        assert (driver.strategy.metrics()["select/prerun"] == 1.0) == (strategy._arrived < 16)
        driver.deliver(flight, [group(r.prompt_id, rng.random(2).tolist()) for r in flight.open])
        driver.finish(flight)
    assert strategy._selected is not None and not np.isnan(strategy._curves).any()


def test_a_pre_run_of_which_a_step_was_given_up_comes_to_its_end() -> None:
    strategy = make_strategy("limr", prerun_epochs=2, prompts_per_step=2, num_generations=2)
    driver = Driver(strategy, PromptStream(8, seed=1))
    driver.drop(driver.begin())
    for _ in range(8):
        assert strategy._selected is None
        flight = driver.begin()
        driver.deliver(flight, [group(r.prompt_id, [0.0, 1.0]) for r in flight.open])
        driver.finish(flight)
    assert strategy._selected is not None


def test_history_variance_keeps_the_most_varied(tmp_path: Path) -> None:
    history = write_history(tmp_path, {"0": [0.5, 0.5], "1": [0, 1], "2": [0.2, 0.4]})
    best = make_strategy("history-variance", history=history, prompts_per_step=3)
    outcome = Driver(best, PromptStream(3)).step(bernoulli_pool(np.full(3, 0.5)))
    assert [g.prompt_id for g in outcome.kept] == [1, 1, 1]
    two = HistoryVariance(history=history, keep=2, prompts_per_step=2)
    outcome = Driver(two, PromptStream(3)).step(bernoulli_pool(np.full(3, 0.5)))
    assert sorted(g.prompt_id for g in outcome.kept) == [1, 2]
    with pytest.raises(UserError, match="not in the pool of 1"):
        Driver(two, PromptStream(1)).step(bernoulli_pool(np.full(3, 0.5)))


def test_where_no_prompt_passes_the_best_one_is_kept() -> None:
    strategy = LIMR(threshold=0.9)
    assert strategy.select(np.array([[0.0, 1.0], [0.6, 0.3], [1.0, 0.0]])).tolist() == [1]
    assert strategy.select(np.full((3, 2), np.nan)).tolist() == [0, 1, 2]


def test_pre_run_inside_the_run_watches_every_prompt_each_epoch() -> None:
    # Only prompt 4 changes between the two epochs; the last step of the pre-run is a short one.
    strategy = HistoryVariance(prerun_epochs=2, prompts_per_step=4, num_generations=2)
    driver = Driver(strategy, PromptStream(5, 3))
    strategy = driver.strategy  # the copy that runs

    def roll_out(requests: list[Request]) -> list[Group]:
        visits = driver.ledger.visits
        return [
            group(r.prompt_id, [-1, -1] if r.prompt_id != 4 or visits[4] == 0 else [3, 3])
            for r in requests
        ]

    sizes = [len(driver.step(roll_out).kept) for _ in range(3)]
    assert sizes == [4, 4, 2] and driver.ledger.visits.tolist() == [2] * 5
    assert strategy.metrics() == {"select/prerun": 0.0, "select/selected": 1.0}
    assert {g.prompt_id for g in driver.step(roll_out).kept} == {4}
    assert driver.spent.rollouts == 20 + 8

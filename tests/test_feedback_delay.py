"""DoPRTrainer with rewards that are known late: steps are chosen ahead, and resumed so."""

from pathlib import Path
from typing import Any

import torch

from dopr import make_strategy
from training import make_trainer, metrics, parameters


def test_a_delay_chooses_ahead_and_a_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "feedback_delay": 2}
    strategy = make_strategy(
        "dopr", candidates=6, prompts_per_step=2, num_generations=4, exploration=0.2
    )
    whole = make_trainer(tmp_path / "whole", strategy, max_steps=6, **options)
    whole.train()
    assert [flight.index for flight in whole.driver.flights] == [6, 7]
    in_flight = [r.prompt_id for flight in whole.driver.flights for r in flight.open]
    assert len(set(in_flight)) == 4 and whole.driver.ledger.step == 8
    spent = whole.driver.spent
    assert spent.rollouts == 6 * 2 * 4 == whole.driver.ledger.rollouts.sum()

    resumed = make_trainer(tmp_path / "resumed", strategy, max_steps=6, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(parameters(whole), parameters(resumed))
    assert resumed.driver.spent == spent and spent.dropped_steps == 0
    rows = [row["select/prompt_ids"] for row in metrics(tmp_path / "whole")]
    assert [row["select/prompt_ids"] for row in metrics(tmp_path / "resumed")] == rows[3:]
    # No prompt is in two of three steps that follow each other: their rewards are not in.
    for start in range(4):
        near = [name for row in rows[start : start + 3] for name in row]
        assert len(set(near)) == len(near)


def test_the_loaders_order_is_not_chosen_ahead(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "uniform", max_steps=2, feedback_delay=4)
    trainer.train()
    assert trainer.driver.flights == [] and trainer.driver.spent.rollouts == 16

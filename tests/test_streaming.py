"""A streaming dataset: prompts are chosen among a window of its rows, whole streams as ever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from trl import GRPOConfig

from dopr import DoPRConfig, DoPRTrainer
from dopr.core.errors import UserError
from dopr.engines.trl.streaming import Window
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings, untouched


def numbers(count: int) -> IterableDataset:
    def rows() -> Iterator[dict[str, Any]]:
        for i in range(count):
            yield {"prompt": f"{i}"}

    return IterableDataset.from_generator(rows)


def held(window: Window) -> list[str]:
    return list(window.rows["prompt"])


def make_trainer(folder: Path, rows: Any, cls: Any = DoPRConfig, **changes: Any) -> DoPRTrainer:
    # One prompt a step of two candidates: a window of four lasts two steps.
    options = (
        {} if cls is GRPOConfig else {"strategy_args": {"candidates": 2, "prompts_per_step": 1}}
    )
    return DoPRTrainer(
        make_model(),
        digits_reward,
        cls(**settings(folder, **(options | changes))),
        rows,
        processing_class=make_tokenizer(),
    )


def prompts_of(trainer: DoPRTrainer) -> list[str]:
    return [str(prompt) for prompt in trainer._pool["prompt"]]


def test_window_holds_the_next_rows_and_begins_again_at_the_end() -> None:
    window = Window(numbers(5), 2)
    seen = [held(window)]
    for _ in range(4):
        window.refill()
        seen.append(held(window))
    assert seen == [["0", "1"], ["2", "3"], ["4"], ["0", "1"], ["2", "3"]]
    assert not window.whole


def test_stream_that_fits_is_held_whole() -> None:
    assert Window(numbers(3), 4).whole


def test_restored_window_holds_what_the_saved_one_held() -> None:
    window = Window(numbers(5), 2)
    for _ in range(3):
        window.refill()
    again = Window(numbers(5), 2)
    again.load_state_dict(window.state_dict())
    assert held(again) == held(window) == ["0", "1"]
    again.refill()
    assert held(again) == ["2", "3"]
    with pytest.raises(UserError, match="stream_window"):
        Window(numbers(5), 3).load_state_dict(window.state_dict())


def test_empty_stream_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        Window(numbers(0), 2)


def test_trainer_chooses_among_the_next_rows_when_all_were_offered(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, numbers(12), stream_window=4, max_steps=5)
    assert prompts_of(trainer) == ["0", "1", "2", "3"]
    trainer.train()
    # Steps 1 and 2 offer the first window, 3 and 4 the second; the fifth step begins a third.
    assert prompts_of(trainer) == ["8", "9", "10", "11"]
    assert trainer.driver.spent.rollouts == 5 * 4
    assert trainer.driver.ledger.step == 5
    assert int(trainer.driver.ledger.visits.sum()) == 1  # what was known of the others is gone
    assert len(trainer.prompt_names) == 4


def test_run_on_a_stream_continues_in_its_window(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", numbers(12), stream_window=4, max_steps=6)
    whole.train()
    changes = {"stream_window": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    first = make_trainer(tmp_path / "cut", numbers(12), **changes)
    first.train()
    resumed = make_trainer(tmp_path / "cut", numbers(12), **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    assert prompts_of(resumed) == prompts_of(whole)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
def test_stream_that_fits_trains_as_its_rows_with_every_default(
    tmp_path: Path, strategy: str
) -> None:
    dataset = make_dataset()
    for name, rows in (("rows", dataset), ("stream", dataset.to_iterable_dataset())):
        trainer = DoPRTrainer(
            make_model(),
            digits_reward,
            GRPOConfig(**settings(tmp_path / name, **untouched())),
            rows,
            processing_class=make_tokenizer(),
            strategy=strategy,
        )
        trainer.train()
        assert trainer.driver.spent.rollouts == 4 * 8
        assert trainer.driver.ledger.visited_count > 1


def test_stream_needs_max_steps_as_in_trl(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(tmp_path, numbers(4), max_steps=-1)


def test_no_dataset_is_refused_in_trls_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        make_trainer(tmp_path, None)
    with pytest.raises(UserError, match="empty"):
        make_trainer(tmp_path, Dataset.from_dict({"prompt": []}))


def test_stream_that_just_fits_is_held_whole() -> None:
    window = Window(numbers(4), 4)
    assert window.whole and len(window.rows) == 4
    longer = Window(numbers(5), 4)
    assert not longer.whole and len(longer.refill()) == 1

"""Checkpoints and tables of a TRL script whose one import was changed."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dopr import DoPRConfig, DoPRTrainer, UserError
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings


def make_trainer(folder: Path, steps: int, strategy: str, **changes: Any) -> DoPRTrainer:
    arguments = settings(folder, max_steps=steps, save_strategy="steps", save_steps=1)
    arguments |= {"strategy": strategy, "lr_scheduler_type": "constant", **changes}
    return DoPRTrainer(
        make_model(),
        digits_reward,
        DoPRConfig(**arguments),
        make_dataset(),
        eval_dataset=make_dataset(2),
        processing_class=make_tokenizer(),
    )


def parameters(trainer: DoPRTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# What a kill leaves while a checkpoint is written: files come in this order, or are cut off.
LEFT_OUT = {
    "nothing but the folder": ["*"],
    "the weights alone": ["trainer_state.json", "optimizer.pt", "dopr_*"],
    "all but our part": ["dopr_*"],
    "all but the list of files": ["dopr_manifest.json"],
}


@pytest.mark.parametrize(
    ("strategy", "left_out"),
    [("uniform", "all but our part"), *[("dopr", left_out) for left_out in LEFT_OUT]],
)
def test_true_passes_over_a_half_written_checkpoint(
    tmp_path: Path, left_out: str, strategy: str
) -> None:
    make_trainer(tmp_path, 2, strategy).train()
    half = tmp_path / "checkpoint-3"
    shutil.copytree(tmp_path / "checkpoint-2", half)
    for pattern in LEFT_OUT[left_out]:
        for file in half.glob(pattern):
            file.unlink()
    again = make_trainer(tmp_path, 4, strategy)
    again.train(resume_from_checkpoint=True)
    straight = make_trainer(tmp_path / "straight", 4, strategy)
    straight.train()
    assert again.state.global_step == 4
    assert torch.equal(parameters(again), parameters(straight))


def test_true_passes_over_a_checkpoint_with_a_file_cut_off(tmp_path: Path) -> None:
    make_trainer(tmp_path, 2, "dopr").train()
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    again = make_trainer(tmp_path, 3, "dopr")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3


def test_true_without_any_whole_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    make_trainer(tmp_path, 1, "dopr").train()
    (tmp_path / "checkpoint-1" / "dopr_manifest.json").unlink()
    expected = r"no checkpoint in .* is whole and holds the state of a strategy, so"
    with pytest.raises(UserError, match=expected):
        make_trainer(tmp_path, 2, "dopr").train(resume_from_checkpoint=True)


def test_true_does_not_take_another_runs_checkpoint_from_a_subfolder(tmp_path: Path) -> None:
    make_trainer(tmp_path / "other", 1, "dopr").train()
    with pytest.raises(ValueError, match="No valid checkpoint found"):
        make_trainer(tmp_path, 2, "dopr").train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("strategy", "rows", "start"),
    [("dopr", 8, False), ("dopr", 32, True), ("uniform", 8, True)],
)
def test_tables_hold_what_training_and_evaluation_completed(
    tmp_path: Path, start: bool, rows: int, strategy: str
) -> None:
    """Each row's `prompt_id` names its prompt, where training fills the table and where not."""
    changes = {
        "log_completions": True,
        "num_completions_to_print": 0,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": start,
        "per_device_eval_batch_size": 8,
        "per_device_train_batch_size": rows,
        "save_strategy": "no",
    }
    trainer = make_trainer(tmp_path, 2, strategy, **changes)
    trainer.train()
    texts = dict(zip(trainer.prompt_names, make_dataset()["prompt"], strict=True))
    table = pd.concat([pd.read_parquet(f) for f in tmp_path.glob("completions/*.parquet")])
    assert len(table) and table["prompt"].tolist() == [texts[i] for i in table["prompt_id"]]

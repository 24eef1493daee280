"""The seam: uniform choice through DoPRTrainer must be plain GRPOTrainer to the last bit.

When TRL moves one of the private methods that `dopr.engines.trl.trainer` wraps, this file fails
first.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

SEAMS = {
    "_prepare_inputs": ["self", "generation_batch"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_output_dir": ["self", "trial"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "log": ["self", "logs", "start_time"],
}


def trained_parameters(cls: Any, args: GRPOConfig, model: Any = None) -> list[torch.Tensor]:
    # Built and trained in one go: both constructors seed the global generators.
    trainer = cls(
        model or make_model(),
        digits_reward,
        args,
        make_dataset(),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    return [p.detach() for p in trainer.model.parameters()]


def assert_equal_to_plain_grpo(folder: Path, **changes: Any) -> None:
    plain = GRPOConfig(**settings(folder / "plain", **changes))
    ours = DoPRConfig(**settings(folder / "ours", strategy="uniform", **changes))
    expected = trained_parameters(GRPOTrainer, plain)
    actual = trained_parameters(DoPRTrainer, ours)
    start = [p.detach() for p in make_model().parameters()]
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(start, actual, strict=True))


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo", "cispo"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_uniform_without_options_equals_plain_grpo(
    tmp_path: Path, loss_type: str, accumulation: int
) -> None:
    assert_equal_to_plain_grpo(
        tmp_path, loss_type=loss_type, gradient_accumulation_steps=accumulation
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_rewards": "none"},
        {"scale_rewards": "batch"},
        {"num_iterations": 2},
        {"steps_per_generation": 2},
        {"importance_sampling_level": "sequence"},
    ],
)
def test_uniform_equals_plain_grpo_with_other_settings(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert_equal_to_plain_grpo(tmp_path, **changes)


def test_uniform_equals_plain_grpo_with_a_reference_model(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    plain = GRPOConfig(**settings(tmp_path / "plain", beta=0.1))
    ours = DoPRConfig(**settings(tmp_path / "ours", beta=0.1, strategy="uniform"))
    expected = trained_parameters(GRPOTrainer, plain, str(tiny_model_dir))
    actual = trained_parameters(DoPRTrainer, ours, str(tiny_model_dir))
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


@pytest.mark.parametrize("name", SEAMS)
def test_wrapped_methods_keep_their_signature(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == SEAMS[name]


def test_the_trainer_takes_the_arguments_of_grpo_trainer() -> None:
    theirs = inspect.signature(GRPOTrainer).parameters
    ours = dict(inspect.signature(DoPRTrainer).parameters)
    assert ours.pop("strategy").kind is inspect.Parameter.KEYWORD_ONLY
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default), name
        assert ours[name].annotation is not inspect.Parameter.empty, name

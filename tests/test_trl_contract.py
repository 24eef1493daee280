"""The seam: uniform choice through DoPRTrainer must be plain GRPOTrainer to the last bit.

tests/test_trl_names.py names what this rests on.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from dopr.engines.trl import versions
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings


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


def test_the_trainer_takes_the_arguments_of_grpo_trainer() -> None:
    theirs = inspect.signature(GRPOTrainer).parameters
    ours = dict(inspect.signature(DoPRTrainer).parameters)
    assert ours.pop("strategy").kind is inspect.Parameter.KEYWORD_ONLY
    # Older TRL has fewer, and one of the last elsewhere.
    assert list(ours) == list(theirs) or versions.TRL < (1, 16)
    assert list(ours)[:9] == list(theirs)[:9] and set(theirs) <= set(ours)
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind, name
        if parameter.default is not inspect.Parameter.empty or versions.TRL >= (1, 16):
            assert ours[name].default == parameter.default, name
        assert ours[name].annotation is not inspect.Parameter.empty, name

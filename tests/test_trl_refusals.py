"""What TRL refuses DoPRTrainer refuses in its words; and what cannot go with our settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import ParallelismConfig

from dopr import DoPRConfig, DoPRTrainer, UserError
from trl_pair import BOTH, made

REFUSALS: dict[str, Callable[[], dict[str, Any]]] = {
    "auto_find_batch_size": lambda: {"auto_find_batch_size": True},
    "liger": lambda: {"use_liger_kernel": True, "liger_kernel_config": {"rope": True}},
    "parallelism_config": lambda: {"parallelism_config": ParallelismConfig(cp_size=2)},
    "fsdp": lambda: {"fsdp": "full_shard"},
    "dispatch_batches": lambda: {"accelerator_config": {"dispatch_batches": True}},
    "stop strings": lambda: {"generation_kwargs": {"stop_strings": ["1"]}},
    "hub without tables": lambda: {"log_completions_hub_repo": "someone/tables"},
    "importance sampling": lambda: {"importance_sampling_level": "paragraph"},
    "loss": lambda: {"loss_type": "none"},
    "batch": lambda: {"generation_batch_size": 12},
    "groups": lambda: {"num_generations": 1},
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_trl_refuses_is_refused_in_its_words(tmp_path: Path, name: str) -> None:
    said = []
    for cls, config in BOTH:
        with pytest.raises(Exception, match=r".") as error:
            made(cls, config, tmp_path / config.__name__, REFUSALS[name]()).train()
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_dataset": None},
        {"reward_funcs": None},
        {"processing_class": object()},
        {"peft_config": object()},
        {"reward_processing_classes": [None, None]},
        {"tools": [len]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_that_trl_refuses_are_refused_in_its_words(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    said = []
    for cls, config in BOTH:
        with pytest.raises(Exception, match=r".") as error:
            made(cls, config, tmp_path / config.__name__, **arguments)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize("estimator", ["forecast", "leave_one_out", "dbb", "zvp"])
def test_an_estimator_of_one_reward_is_refused_beside_rewards_kept_apart(
    tmp_path: Path, estimator: str
) -> None:
    changes = {
        "multi_objective_aggregation": "normalize_then_sum",
        "advantage_estimator": estimator,
    }
    with pytest.raises(UserError, match=f"advantage_estimator '{estimator}' knows one reward"):
        made(DoPRTrainer, DoPRConfig, tmp_path, changes)


def test_rewards_kept_apart_are_held_against_their_groups_means(tmp_path: Path) -> None:
    changes = {"multi_objective_aggregation": "normalize_then_sum"}
    assert made(DoPRTrainer, DoPRConfig, tmp_path / "apart", changes)._estimator == "group"
    assert made(DoPRTrainer, DoPRConfig, tmp_path / "summed", {})._estimator == "forecast"

"""Every recipe in configs/ validates offline, up to the point where weights are needed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dopr.compare.comparison import Comparison
from dopr.core.configuration import build, load_yaml
from dopr.runs.callbacks import RunCallback
from dopr.runs.settings import TrainSettings
from dopr.runs.train import trainer_arguments
from dopr.warmstart.finetune import WarmstartSettings

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize(
    "file",
    sorted(
        str(path.relative_to(CONFIGS))
        for path in CONFIGS.rglob("*.yaml")
        if path.parent.name != "accelerate"  # read by accelerate: tests/test_sharded.py
    ),
)
def test_recipe_is_valid(file: str, tmp_path: Path) -> None:
    mapping = load_yaml(CONFIGS / file)
    if "curate" in mapping:
        build(WarmstartSettings, mapping)
        return
    if "strategies" in mapping:
        plan = build(Comparison, mapping)
        plan.check()
        runs = [plan.settings(n, plan.seeds[0], plan.tries(n)[0]) for n in plan.strategies]
    else:
        runs = [build(TrainSettings, mapping)]
    for settings in runs:
        settings.check()
        settings.bf16 = settings.gradient_checkpointing = False  # what a CPU lacks
        settings.use_vllm = False
        arguments = trainer_arguments(settings, tmp_path)
        assert arguments.generation_batch_size % settings.num_generations == 0


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 1),
        ({"num_iterations": 8}, 8),
        ({"gradient_accumulation_steps": 1, "trl": {"steps_per_generation": 4}}, 4),
        ({"num_iterations": 2, "gradient_accumulation_steps": 2}, 2),
        (
            {"num_iterations": 2, "gradient_accumulation_steps": 2}
            | {"trl": {"steps_per_generation": 6}},
            6,
        ),
    ],
)
def test_a_run_saves_between_batches_and_ends_by_its_budget(
    changes: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    values = {"num_generations": 2, "batch_size": 2, "save_every": 5, "max_rollouts": 400}
    settings = TrainSettings(dataset="a.jsonl", strategy="uniform", **(values | changes))
    arguments = trainer_arguments(settings, tmp_path)
    assert arguments.save_steps % steps == 0 and 5 <= arguments.save_steps < 5 + steps
    # Even if every batch held a single rollout.
    assert arguments.max_steps >= 400 * steps


@pytest.mark.parametrize(
    ("size", "every", "due"), [(1, 3, [3, 6, 9, 12]), (2, 5, [6, 10]), (4, 3, [4, 8, 12])]
)
def test_evaluations_between_batches_are_not_passed_over(
    size: int, every: int, due: list[int]
) -> None:
    trainer = SimpleNamespace(steps_per_batch=size)
    asked = SimpleNamespace(eval=SimpleNamespace(every_rollouts=None, every_steps=every))
    callback: Any = SimpleNamespace(_trainer=trainer, _settings=asked)
    found = [step for step in range(size, 13, size) if RunCallback._is_due(callback, step, 0)]
    assert found == due

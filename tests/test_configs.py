"""Every recipe in configs/ validates offline, up to the point where weights are needed."""

from pathlib import Path

import pytest

from dopr.compare.comparison import Comparison
from dopr.core.configuration import build, load_yaml
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

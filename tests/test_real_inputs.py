"""The shipped model on a public test set, from the command line."""

import json
from pathlib import Path

import pytest

from dopr.cli import main

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "benchmarks" / "gsm8k_test.jsonl"


def test_three_steps_on_the_gsm8k_file(tmp_path: Path) -> None:
    if not GSM8K.is_file():
        pytest.skip("../shared/data/benchmarks/gsm8k_test.jsonl is not here")
    run = tmp_path / "run"
    arguments = ["train", "--quiet", "--dataset", str(GSM8K), "--output_dir", str(run)]
    arguments += ["--steps", "3", "--max_completion_length", "16", "--overlong_prompts", "drop"]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["rollout/rollouts_total"] == 3 * 4 * 8  # four prompts of 8 a step

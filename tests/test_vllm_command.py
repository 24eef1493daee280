"""Runs with vLLM in processes of their own.

`dopr train` with vLLM as TRL starts it (bfloat16, compiled), on the model of the package; and two
processes with an engine each.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vllm_tools

pytestmark = [*vllm_tools.NEEDS_VLLM, pytest.mark.timeout(900)]

# The command line, after what a CPU needs.
COMMAND = """
import sys, vllm_tools
vllm_tools.prepare()
from dopr.cli import main
sys.exit(main(sys.argv[1:]))
"""


def train(run_dir: Path, *options: str) -> list[dict[str, Any]]:
    """Run it to the end; the lines of metrics.jsonl."""
    task = "gym:chain_sum?min_terms=3&max_terms=5&min_digits=1&max_digits=1&size="
    command = [
        *(sys.executable, "-c", COMMAND, "train", "--model", "tiny-reasoner", "--reward", "gym"),
        *("--dataset", f"{task}64&seed=1", "--eval_dataset", f"{task}16&seed=9"),
        *("--output_dir", str(run_dir), "--num_generations", "4", "--max_completion_length", "64"),
        *("--learning_rate", "1e-4", "--threads", "1", "--save_every", "4"),
        *("--use_vllm", "true", "--trl.vllm_max_model_length", "256", *options),
    ]
    environment = vllm_tools.environment_of_helpers()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_with_an_engine_each_agree(tmp_path: Path) -> None:
    """Five and three rollouts, then four: each engine makes half of every round."""
    model, output = vllm_tools.save_model(tmp_path / "model"), tmp_path / "run"
    output.mkdir()
    script = Path(vllm_tools.__file__).parent / "vllm_processes_script.py"
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    done = subprocess.run(
        [*launch, str(script), str(model), str(output)],
        env=os.environ | vllm_tools.ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    first, second = (json.loads((output / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["rows"] == [4, 2] * 5 and first["spent"]["rollouts"] == 5 * 12
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert all(row["sampling/sampling_logp_difference/max"] < vllm_tools.SAME for row in rows)


def test_train_command_runs_and_resumes_with_vllm(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first = train(run_dir, "--steps", "8")
    rows = train(run_dir, "--steps", "20", "--resume")
    assert rows[:8] == first and [row["step"] for row in rows] == list(range(1, 21))
    # What bfloat16 leaves of equality; the ratios are there to correct it. Observed over 20 steps:
    # up to 0.01 in the mean, 0.18 at most.
    assert all(row["sampling/sampling_logp_difference/mean"] < 0.05 for row in rows)
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 0.1 for row in rows)
    assert rows[-1]["rollout/rollouts_total"] == 20 * 4 * 4
    evals = [json.loads(line) for line in (run_dir / "eval.jsonl").read_text().splitlines()]
    assert evals[-1]["step"] == 20

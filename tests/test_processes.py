"""Two real processes (gloo, CPU) do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_model

SCRIPT = Path(__file__).parent / "helpers" / "processes_script.py"


def run(output: Path, strategy: str, processes: int, **settings: Any) -> Path:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launch if processes > 1 else []), str(SCRIPT), str(output)]
    done = subprocess.run(
        [*command, strategy, json.dumps(settings)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return output


@pytest.mark.parametrize("strategy", ["dopr", "uniform", "coba-rl", "reinforce-ada", "speed"])
def test_two_processes_equal_one(tmp_path: Path, strategy: str) -> None:
    one, two = run(tmp_path / "one", strategy, 1), run(tmp_path / "two", strategy, 2)
    chosen = [
        [json.loads(line)["select/prompt_ids"] for line in lines.read_text().splitlines()]
        for lines in (one / "metrics.jsonl", two / "metrics.jsonl")
    ]
    assert chosen[0] == chosen[1]
    single = np.load(one / "rank0.npz")
    for rank in (0, 1):
        found = np.load(two / f"rank{rank}.npz")
        for column in ("mean", "visits"):
            assert np.array_equal(found[column], single[column]), column
        np.testing.assert_allclose(found["entropy"], single["entropy"], rtol=1e-4)
        np.testing.assert_allclose(found["parameters"], single["parameters"], atol=2e-5)
        assert json.loads((two / f"rank{rank}.json").read_text()) == json.loads(
            (one / "rank0.json").read_text()
        )
    before = torch.cat([p.detach().flatten() for p in make_model().parameters()]).numpy()
    assert np.abs(single["parameters"] - before).max() > 1e-3  # far more than the tolerance


def test_settings_of_data_parallel_training_are_kept(tmp_path: Path) -> None:
    settings = {
        "ddp_backend": "gloo",
        "ddp_timeout": 60,
        "ddp_find_unused_parameters": True,
        "ddp_bucket_cap_mb": 1,
        "ddp_broadcast_buffers": True,
        "ddp_static_graph": True,
    }
    two = run(tmp_path / "two", "dopr", 2, **settings)
    kept = json.loads((two / "wrapper.json").read_text())
    assert kept == {"static_graph": True, "find_unused_parameters": True, "bucket_bytes": 1 << 20}
    first, second = (np.load(two / f"rank{rank}.npz")["parameters"] for rank in (0, 1))
    before = torch.cat([p.detach().flatten() for p in make_model().parameters()]).numpy()
    assert np.array_equal(first, second) and np.abs(first - before).max() > 1e-3

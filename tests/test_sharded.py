"""Parameters spread over two processes, with the settings that `configs/accelerate` holds."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from cli_tools import rows_of, words
from dopr.core.errors import UserError
from dopr.engines.trl.micro_batches import cut_micro_batches

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "helpers" / "sharded_script.py"
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="make test-deepspeed installs it"
)
deepspeed = [pytest.mark.slow, needs_deepspeed]


def launch(settings: Path | None, arguments: list[str]) -> subprocess.CompletedProcess:
    """`dopr train` in two processes, begun as `docs/scaling.md` says; None: whole copies."""
    how = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    if settings is not None:
        how = ["accelerate.commands.launch", "--config_file", str(settings)]
        how += ["--num_processes", "2", "--main_process_port", "0"]
    return subprocess.run(
        [sys.executable, "-m", *how, str(SCRIPT), "train", "--quiet", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        # The second name is DeepSpeed's.
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )


def test_deepspeed_is_not_given_a_step_without_rollouts() -> None:
    args = SimpleNamespace(steps_per_generation=2, gradient_accumulation_steps=2)
    accelerator = SimpleNamespace(
        num_processes=1,
        process_index=0,
        device="cpu",
        distributed_type=DistributedType.NO,
        scaler=None,
    )
    micro_batches = cut_micro_batches([], args, accelerator, "dapo", 0)
    assert [list(piece) for piece in micro_batches] == [["dopr_skip"]] * 2
    accelerator.distributed_type = DistributedType.DEEPSPEED
    with pytest.raises(UserError, match="DeepSpeed cannot skip an update"):
        cut_micro_batches([], args, accelerator, "dapo", 0)


def test_float16s_scaler_is_not_given_a_step_without_rollouts() -> None:
    args = SimpleNamespace(steps_per_generation=2, gradient_accumulation_steps=2)
    accelerator = SimpleNamespace(
        num_processes=1,
        process_index=0,
        device="cpu",
        distributed_type=DistributedType.NO,
        scaler=object(),
    )
    with pytest.raises(UserError, match="fp16 cannot skip an update"):
        cut_micro_batches([], args, accelerator, "dapo", 0)
    accelerator.scaler = None
    assert len(cut_micro_batches([], args, accelerator, "dapo", 0)) == 2


@pytest.mark.parametrize(
    "engine",
    ["fsdp2", pytest.param("zero2", marks=deepspeed), pytest.param("zero3", marks=deepspeed)],
)
def test_spread_parameters_do_what_whole_ones_do(
    tmp_path: Path, tiny_model_dir: Path, engine: str
) -> None:
    """The same choices, rollouts and weights, and a run that resumes exactly."""
    chosen: dict[str, Any] = {
        "steps": 6,
        "save_every": 2,
        "fast_decoding": False,  # its random numbers come in another order
        "share_prefixes": False,  # rounds otherwise than rows
        "eval_dataset": tmp_path / "rows.jsonl",
        "eval.every_steps": 3,
        "eval.temperature": 0,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    settings = ROOT / "configs/accelerate" / f"{engine}.yaml"
    for name, how in (("whole", None), ("run", settings)):
        arguments = words(tmp_path, tiny_model_dir, output_dir=tmp_path / name, **chosen)
        done = launch(how, arguments)
        assert done.returncode == 0, done.stderr[-5000:]
        assert done.stdout.count("finished") == 1  # one process speaks for the run
    run, whole = tmp_path / "run", tmp_path / "whole"
    marks = ("select/prompt_ids", "reward", "rollout/generated_tokens_total")
    for ours, theirs in zip(*(rows_of(r / "metrics.jsonl") for r in (run, whole)), strict=True):
        assert [ours[mark] for mark in marks] == [theirs[mark] for mark in marks]
    scores = [[row["avg@k"] for row in rows_of(r / "eval.jsonl")] for r in (run, whole)]
    assert len(scores[0]) == 3 and scores[0] == scores[1]
    weights = [load_file(r / "model/model.safetensors") for r in (run, whole)]
    before = load_file(tiny_model_dir / "model.safetensors")
    for name, tensor in weights[1].items():
        assert (weights[0][name] - tensor).abs().max() < 1e-5, name
    moved = max((weights[1][name] - before[name]).abs().max() for name in before)
    assert moved > 1e-3  # far more than the tolerance

    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    shutil.rmtree(run / "checkpoints/checkpoint-6")
    shutil.rmtree(run / "model")
    (run / "done.json").unlink()
    done = launch(settings, [*arguments, "--resume"])
    assert done.returncode == 0, done.stderr[-5000:]
    for name in ("model/model.safetensors", "ledger.parquet"):
        assert (run / name).read_bytes() == (kept / name).read_bytes(), name
    assert rows_of(run / "metrics.jsonl") == rows_of(kept / "metrics.jsonl")


@pytest.mark.slow
@needs_deepspeed
def test_zero_3_that_would_save_no_model_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = (ROOT / "configs/accelerate/zero3.yaml").read_text()
    file = tmp_path / "zero3.yaml"
    file.write_text(settings.replace("16bit_model: true", "16bit_model: false"))
    told = launch(file, words(tmp_path, tiny_model_dir))
    assert told.returncode != 0
    assert "stage3_gather_16bit_weights_on_model_save" in told.stderr
    assert not (tmp_path / "run/metrics.jsonl").exists()

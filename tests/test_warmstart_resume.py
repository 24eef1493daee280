"""A warm start that is killed goes on from its last checkpoint and ends as if it never was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dopr import cli
from dopr.core.errors import UserError
from dopr.warmstart.finetune import WarmstartSettings, run_warmstart
from dopr.warmstart.saving import begin, folder_for, last_checkpoint

SMALL = {"facts_steps": 6, "steps": 40, "batch_size": 4, "save_every": 4, "measure_prompts": 0} | {
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_size": 32,
    "warmup_steps": 2,
    "threads": 1,
}


def settings(folder: Path, **more: Any) -> WarmstartSettings:
    return WarmstartSettings(str(folder), ["leg_counting"], **(SMALL | more))


def arguments(folder: Path) -> list[str]:
    words = ["warmstart", "--output_dir", str(folder), "--families", '["leg_counting"]']
    return words + [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_kill_and_resume_gives_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = run_warmstart(settings(tmp_path / "whole"))
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "dopr", *arguments(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while last_checkpoint(killed / "unfinished" / "mixture") is None:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()

    assert cli.main(arguments(killed)) == 2
    assert "was interrupted; add --resume to go on with it" in capsys.readouterr().err
    assert cli.main([*arguments(killed), "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["train_loss"] == pytest.approx(
        whole["train_loss"], abs=2e-4
    )
    expected, found = weights(tmp_path / "whole"), weights(killed)
    assert all((found[name] == expected[name]).all() for name in expected)
    assert not (killed / "unfinished").exists()


def test_a_finished_warm_start_is_not_written_over(tmp_path: Path) -> None:
    config = settings(tmp_path / "a", facts_steps=1, steps=2)
    run_warmstart(config)
    before = (tmp_path / "a" / "warmstart.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(UserError, match="already holds a finished warm start"):
            run_warmstart(config, resume=resume)
    assert (tmp_path / "a" / "warmstart.json").read_bytes() == before


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    config = settings(tmp_path / "a")
    begin(folder_for(config, resume=False), config)
    with pytest.raises(UserError, match="was begun with another batch_size and steps; go on"):
        run_warmstart(settings(tmp_path / "a", steps=3, batch_size=2), resume=True)


def test_what_could_not_begin_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing_there"):
        run_warmstart(settings(tmp_path / "a", base=str(tmp_path / "nothing_there")))
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, text in ((8, "{}"), (12, '{"epoch": 1'), (16, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    assert last_checkpoint(tmp_path / "none") is None

"""The best model is kept, a run that gets no better ends, and adapters are gone on from."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cli_tools import rows_of, train, words
from dopr.core.errors import UserError
from dopr.policy.models import base_model, is_adapter, load_model
from dopr.runs.best import has_stopped_improving, mend_best, place_of_best
from dopr.runs.settings import TrainSettings


def evals(*values: float | None) -> list[dict[str, Any]]:
    return [{"avg@k": value, "pass@k": None if value is None else 1 - value} for value in values]


def test_the_best_is_the_first_of_the_highest() -> None:
    rows = evals(0.1, 0.5, None, 0.5, 0.4)
    assert place_of_best(rows, "avg@k") == 1
    assert place_of_best(rows, "pass@k") == 0
    assert place_of_best(evals(None), "avg@k") is None


def test_a_run_has_stopped_improving_after_so_many_evaluations_without_a_better_one() -> None:
    rows = evals(0.1, 0.5, 0.5, 0.4)
    assert has_stopped_improving(rows, None, 2) and not has_stopped_improving(rows, None, 3)
    assert has_stopped_improving(rows, "pass@k", 3)
    assert not has_stopped_improving(rows, None, None)
    assert not has_stopped_improving(evals(None, None, None), None, 1)


# The first evaluation is answered with 0, the third best, and so on: whatever the model does.
SCRIPT = """
import json, pathlib
VALUES = [0.0, 0.25, 0.75, 0.5, 0.5, 0.75, 0.9, 1.0]

def reward(completions, answer, **columns):
    if answer[0] != "held out":
        return [float(sum(c.isdigit() for c in text) % 2) for text in completions]
    file = pathlib.Path(__file__).with_name("count")
    count = int(file.read_text()) if file.exists() else 0
    file.write_text(str(count + 1))
    return [VALUES[count]] * len(completions)
"""


def scripted(tmp_path: Path, tiny_model_dir: Path, **changes: Any) -> list[str]:
    (tmp_path / "rw2.py").write_text(SCRIPT)
    held_out = [{"prompt": f"{i}=", "answer": "held out"} for i in range(2)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return words(
        tmp_path,
        tiny_model_dir,
        reward=f"{tmp_path / 'rw2.py'}:reward",
        eval_dataset=tmp_path / "eval.jsonl",
        save_every=1,
        save_total_limit=20,
        **{"eval.every_steps": 1, "steps": 7, "keep_best": "avg@k"} | changes,
    )


def weights(folder: Path) -> Any:
    return (folder / "model.safetensors").read_bytes()


def test_the_best_model_is_kept_beside_the_last(tmp_path: Path, tiny_model_dir: Path) -> None:
    assert train(*scripted(tmp_path, tiny_model_dir, steps=5)) == 0
    run = tmp_path / "run"
    assert json.loads((run / "best/best.json").read_text())["step"] == 2
    assert weights(run / "best") == weights(run / "checkpoints/checkpoint-2")
    assert weights(run / "best") != weights(run / "model")
    assert load_model(str(run / "best"))[1].eos_token == "<eos>"


def test_a_run_that_gets_no_better_ends_and_stays_ended(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = scripted(tmp_path, tiny_model_dir, early_stop_evals=2)
    assert train(*chosen) == 0
    run = tmp_path / "run"
    assert [row["step"] for row in rows_of(run / "eval.jsonl")] == [0, 1, 2, 3, 4]
    assert "finished, early since no evaluation was better" in capsys.readouterr().out
    assert (run / "model/model.safetensors").is_file()
    assert train(*chosen, "--resume") == 0
    assert len(rows_of(run / "metrics.jsonl")) == 4
    # More patience, and it goes on: 0.75 at step 5 is no better, 0.9 at step 6 is.
    assert train(*scripted(tmp_path, tiny_model_dir, early_stop_evals=4), "--resume") == 0
    assert [row["avg@k"] for row in rows_of(run / "eval.jsonl")][5:] == [0.75, 0.9, 1.0]
    assert json.loads((run / "best/best.json").read_text())["step"] == 7


@pytest.mark.parametrize("name", ["keep_best", "early_stop_evals"])
def test_both_want_evaluations(name: str) -> None:
    value: Any = "avg@k" if name == "keep_best" else 3
    with pytest.raises(UserError, match=f"{name} goes by evaluations"):
        TrainSettings(dataset="a.jsonl", steps=3, **{name: value}).check()


# -- LoRA ----------------------------------------------------------------------------------------


def lora(tmp_path: Path, model: Path, **changes: Any) -> list[str]:
    pytest.importorskip("peft")
    options = {"lora.r": 4, "lora.target_modules": "all-linear"}
    return words(tmp_path, model, save_every=2, **options | changes)


def adapter(folder: Path) -> dict[str, Any]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def test_a_lora_run_resumes_exactly_from_its_own_folder(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    assert train(*lora(tmp_path, tiny_model_dir, steps=6, output_dir=tmp_path / "whole")) == 0
    assert train(*lora(tmp_path, tiny_model_dir, steps=3)) == 0
    assert train(*lora(tmp_path, tiny_model_dir, steps=6), "--resume") == 0
    assert rows_of(tmp_path / "run/metrics.jsonl") == rows_of(tmp_path / "whole/metrics.jsonl")
    found, expected = adapter(tmp_path / "run/model"), adapter(tmp_path / "whole/model")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)
    assert any(value.abs().max() > 0 for name, value in found.items() if "lora_B" in name)


def test_training_goes_on_from_an_adapter_alone(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*lora(tmp_path, tiny_model_dir, steps=2)) == 0
    first = tmp_path / "run/model"
    assert is_adapter(str(first)) and base_model(str(first)) == str(tiny_model_dir)
    assert not is_adapter(str(tiny_model_dir))
    capsys.readouterr()
    assert train(*lora(tmp_path, first, steps=2, output_dir=tmp_path / "next")) == 2
    assert "is a LoRA adapter" in capsys.readouterr().err
    chosen = words(tmp_path, first, steps=2, output_dir=tmp_path / "next")
    assert train(*chosen) == 0
    before, after = adapter(first), adapter(tmp_path / "next/model")
    assert before.keys() == after.keys()
    assert not all(before[name].equal(after[name]) for name in before)
    assert base_model(str(tmp_path / "next/model")) == str(tiny_model_dir)


@pytest.mark.parametrize("killed_at", ["saving", "before the swap", "in the swap", "after it"])
def test_a_kill_while_the_best_is_saved_leaves_a_whole_one(tmp_path: Path, killed_at: str) -> None:
    def model(name: str, step: int, whole: bool = True) -> None:
        (tmp_path / name).mkdir()
        if whole:
            (tmp_path / name / "best.json").write_text(str(step))

    model("best.old" if killed_at in ("in the swap", "after it") else "best", 1)
    if killed_at == "after it":
        model("best", 2)
    else:
        model("best.new", 2, whole=killed_at != "saving")
    mend_best(tmp_path)
    expected = "2" if killed_at in ("in the swap", "after it") else "1"
    assert (tmp_path / "best/best.json").read_text() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["best"]

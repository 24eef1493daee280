"""What a user gets wrong is one sentence and status 2, and loses nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli_tools import train, words
from dopr import Strategy, UserError, cli, make_strategy
from dopr.compare.comparison import Comparison
from dopr.core.configuration import build
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import MANIFEST_FILE
from dopr.runs.settings import TrainSettings

LONG = "x" * 300  # longer than a file's name may be


def refused(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dopr: error: ")
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", LONG],
        ["report", LONG],
        ["plan", "--history", LONG],
        ["train", "--config", LONG],
        ["train", "--dataset", f"{LONG}.jsonl", "--steps", "1"],
        ["compare", "--config", LONG],
        ["rewards", "fit", "--data", LONG, "--output", "x"],
        ["train", "--dataset", "gym:chain_sum", "--steps", "1", "--strategy_args.name", "x"],
        ["train", "--dataset", "gym:chain_sum", "--steps", "1", "--strategy_args.room", ".inf"],
        ["plan", "--memory", "--model", "tiny-reasoner", "--device-gib", "inf"],
        ["report", ".", "--watch", "0"],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    refused(arguments, capsys)


def test_an_output_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "model")
    assert "file" in refused(["warmstart", "--steps", "1", "--output_dir", inside], capsys)


def comparison(**changes: Any) -> Comparison:
    base = {"dataset": "tiny:ab/half", "eval_dataset": "tiny:ab/eval", "max_rollouts": 64}
    values = {"strategies": {"uniform": {}}, "base": base, "target": {"value": 0.5}}
    return build(Comparison, values | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pool": {"group_size": -3}}, "pool.group_size"),
        ({"pool": {"num_prompts": 0}}, "pool.num_prompts"),
        ({"tuning": {"max_rollouts": 0}}, "tuning.max_rollouts"),
        ({"target": {"fraction_of_best": -1.0}}, "target.fraction_of_best"),
        ({"headline": ["unifrom"]}, "did you mean 'uniform'"),
        ({"strategies": {"": {"strategy": "uniform"}}}, "usable as a folder's name"),
        (
            {"strategies": {"uniform": {"learning_rates": [1e-4, 1e-3]}}, "tuning": {"seeds": []}},
            "tuning.seeds is empty",
        ),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    comparison().check()
    with pytest.raises(UserError, match=said):
        comparison(**changes).check()


@pytest.mark.parametrize("strategies", [None, [1], {"uniform": 3}, {"uniform": {}}])
def test_a_tuning_file_that_is_none_is_refused(strategies: Any, tmp_path: Path) -> None:
    text = "{" if strategies is None else json.dumps({"strategies": strategies})
    (tmp_path / "tuning.json").write_text(text)
    with pytest.raises(UserError, match="is no tuning"):
        comparison(tuning={"from_file": str(tmp_path)}).check()


def no_yield(self: Any, prompts: Any, ledger: Any) -> Any:
    return []


def yields_a_number(self: Any, prompts: Any, ledger: Any) -> Any:
    yield 3


def yields_numbers(self: Any, prompts: Any, ledger: Any) -> Any:
    yield [3]


def returns_a_number(self: Any, prompts: Any, ledger: Any) -> Any:
    yield []
    return 5


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (no_yield, "has no `yield`"),
        (yields_a_number, "yielded 3, not requests"),
        (yields_numbers, "not requests"),
        (returns_a_number, "returned 5, not groups"),
    ],
)
def test_a_strategy_that_is_none_says_why(step: Any, said: str) -> None:
    mine = type("Mine", (Strategy,), {"step": step})
    with pytest.raises(UserError, match=said):
        Driver(mine(), PromptStream(4)).begin()


def test_an_option_called_name_is_unknown() -> None:
    with pytest.raises(UserError, match="option of strategy 'dopr'"):
        make_strategy("dopr", name="x")


# -- going on with a run ------------------------------------------------------------------------


def test_a_run_whose_only_checkpoint_is_damaged_is_not_begun_anew(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    chosen = words(tmp_path, tiny_model_dir, steps=2, save_every=1, save_total_limit=1)
    assert train(*chosen) == 0
    run = tmp_path / "run"
    (manifest,) = run.glob(f"checkpoints/*/{MANIFEST_FILE}")
    weights = manifest.parent / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    lines = (run / "metrics.jsonl").read_text()
    more = words(tmp_path, tiny_model_dir, steps=3, save_every=1, save_total_limit=1)
    assert train(*more, "--resume") == 2
    assert "no checkpoint in" in capsys.readouterr().err
    assert weights.exists() and (run / "metrics.jsonl").read_text() == lines


def test_a_finished_run_is_no_answer_to_another_one(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train(*words(tmp_path, tiny_model_dir, steps=1)) == 0
    assert train(*words(tmp_path, tiny_model_dir, steps=1), "--resume") == 0
    other = words(tmp_path, tiny_model_dir, steps=1, learning_rate=0.5)
    assert train(*other, "--resume") == 2
    assert "was run with learning_rate" in capsys.readouterr().err
    (tmp_path / "run/done.json").write_text("{")
    assert train(*words(tmp_path, tiny_model_dir, steps=1), "--resume") == 2
    assert "done.json' is damaged" in capsys.readouterr().err


# -- what is left alone -------------------------------------------------------------------------


def test_the_usual_length_fits_the_usual_model() -> None:
    assert TrainSettings(dataset="a.jsonl").max_completion_length == 128
    assert TrainSettings(dataset="a.jsonl", model="other").max_completion_length == 256
    given = TrainSettings(dataset="a.jsonl", max_completion_length=64)
    assert given.max_completion_length == 64


def test_a_run_with_every_default_that_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["train", "--dataset", "tiny:ab/half", "--reward", "gym", "--steps", "1"]
    assert cli.main([*arguments, "--output_dir", str(tmp_path / "run")]) == 0
    assert "1 steps, 32 rollouts" in capsys.readouterr().out

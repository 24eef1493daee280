"""The recipes for objectives, Supervised RL and plain text train a real model for a few steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cli_tools import train
from dopr import cli

ROOT = Path(__file__).parent.parent
JUDGE = """
def digits(prompts, completions, answer, **columns):
    return [float(sum(ch.isdigit() for ch in text) % 2) for text in completions]
"""


def run(recipe: str, folder: Path, model_dir: Path, *more: str) -> list[dict[str, Any]]:
    """Two steps of a recipe on a model of a few thousand weights; the lines of metrics.jsonl."""
    shrunk = {
        "model": model_dir,
        "output_dir": folder / "run",
        "steps": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "overlong_prompts": "drop",
        "learning_rate": 1e-2,
        "threads": 1,
        "eval.k": 1,
        "eval.num_prompts": 4,
        "eval.every_rollouts": 8,
    }
    words = [f"--{key}={value}" for key, value in shrunk.items()]
    assert train("--config", str(ROOT / "configs" / recipe), *words, *more) == 0
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert (folder / "run" / "report.html").stat().st_size > 0
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name the example data from the clone's root."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("recipe", ["tiny-minirl.yaml", "tiny-ibro.yaml"])
def test_objective_recipes_train(recipe: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "rw.py").write_text(JUDGE.replace("answer, ", ""))
    lines = run(recipe, tmp_path, tiny_model_dir, f"--reward={tmp_path / 'rw.py'}:digits")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert ("ibro/coefficient" in lines[0]) == (recipe == "tiny-ibro.yaml")


def test_srl_trains_on_dense_rewards_and_rlvr_goes_on_from_there(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    more = ["--strategy_args.min_reward_std=0.001", "--max_completion_length=12"]
    more.append("--num_iterations=1")  # every step has rollouts of its own
    held_out = "--eval_dataset=srl:examples/data/sums-by-steps.jsonl?thought=none&separator="
    lines = run("tiny-srl.yaml", tmp_path / "srl", tiny_model_dir, held_out, *more)
    assert all(-1 <= line["reward"] < 1 and line["reward_std"] > 0 for line in lines)
    ledger = pd.read_parquet(tmp_path / "srl" / "run" / "ledger.parquet")
    assert ledger["mean"].dropna().between(-1, 1).all()
    model = tmp_path / "srl" / "run" / "model"
    assert len(run("tiny-srl-rlvr.yaml", tmp_path / "rlvr", model)) == 2


def test_steps_of_wrong_form_give_negative_means_everywhere(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """The tiny model never closes a thought: every reward is -1, and nothing breaks."""
    source = "srl:examples/data/sums-by-steps.jsonl"
    more = [f"--dataset={source}", f"--eval_dataset={source}", "--strategy=uniform-1"]
    more.append("--num_iterations=1")
    rows = [{"problem": "1+2+3=?", "steps": ["3", "6", "end"]}]
    (tmp_path / "s.jsonl").write_text(json.dumps(rows[0]) + "\n")
    short = [
        word.replace("examples/data/sums-by-steps.jsonl", f"{tmp_path}/s.jsonl") for word in more
    ]
    lines = run("tiny-srl.yaml", tmp_path, tiny_model_dir, *short, "--strategy_args={}")
    assert [line["reward"] for line in lines] == [-1.0, -1.0]
    evals = (tmp_path / "run" / "eval.jsonl").read_text().splitlines()
    assert json.loads(evals[-1])["avg@k"] == -1.0


def test_rlpt_trains_with_a_judge(tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    judge = ["--reward=rlpt", f"--judge={tmp_path / 'judge.py'}:digits", "--eval_dataset=null"]
    lines = run("tiny-rlpt.yaml", tmp_path, tiny_model_dir, *judge)
    assert any(line["reward"] > 0 for line in lines)


def test_rlpt_trains_as_the_recipe_says(tmp_path: Path, tiny_model_dir: Path) -> None:
    assert len(run("tiny-rlpt.yaml", tmp_path, tiny_model_dir)) == 2


def test_an_empty_text_is_one_sentence_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("")
    words = ["train", f"--dataset=rlpt:{tmp_path / 't.txt'}", "--reward=rlpt", "--steps=1"]
    assert cli.main([*words, f"--output_dir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dopr: error:") and "is empty" in said and said.count("\n") == 1

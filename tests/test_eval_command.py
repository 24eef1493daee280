"""`dopr eval`: one model or several, what it saves, and what a reward of one's own sees."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cli_tools import train, words
from dopr import cli
from tiny import make_model, make_tokenizer

ROWS = [
    {"question": f"{i}+1=", "solution": f"so \\boxed{{{i + 1}}}", "tests": [{"in": i}], "level": i}
    for i in range(6)
]
REWARD = """
import json

def spy(prompts, completions, answer, solution, tests, level, question, **columns):
    for row in zip(prompts, answer, solution, tests, level, question):
        prompt, a, s, t, n, q = row
        assert prompt == q == f"{n}+1=" and s == f"so \\\\boxed{{{a}}}" and t == [{"in": n}], row
    return [float(sum(c.isdigit() for c in text) % 2) for text in completions]
"""


@pytest.fixture
def task(tmp_path: Path) -> list[str]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rw.py").write_text(REWARD)
    return [
        *("--dataset", str(tmp_path / "rows.jsonl"), "--reward", f"{tmp_path / 'rw.py'}:spy"),
        *("--max-completion-length", "5", "--quiet"),
    ]


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    make_model(seed=1).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_columns_of_the_file_reach_a_reward_of_ones_own_in_training(
    tmp_path: Path, tiny_model_dir: Path, task: list[str]
) -> None:
    own = {"reward": task[3], "eval_dataset": task[1], "strategy_args.candidates": 4}
    (tmp_path / "sub").mkdir()
    chosen = words(tmp_path / "sub", tiny_model_dir, steps=2, dataset=task[1], **own)
    assert train(*chosen) == 0


def test_several_models_stand_side_by_side(
    tiny_model_dir: Path, other_model: Path, task: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(tiny_model_dir), str(other_model)]
    found = []
    for model in models:
        assert cli.main(["eval", model, *task, "--k", "2", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert cli.main(["eval", *models, *task, "--k", "2", "--json"]) == 0
    together = json.loads(capsys.readouterr().out)
    for single in (*found, *together):
        del single["eval_s"]
    assert together == found
    assert [summary["model"] for summary in together] == models
    assert cli.main(["eval", *models, *task, "--k", "2"]) == 0
    table = capsys.readouterr().out
    for summary in found:
        assert f"{summary['avg@k']:.4f}" in table and f"{summary['pass@k']:.4f}" in table


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_completions_are_saved(
    tmp_path: Path,
    tiny_model_dir: Path,
    task: list[str],
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / f"answers{suffix}"
    chosen = [str(tiny_model_dir), *task, "--k", "3", "--json", "--save", str(file)]
    assert cli.main(["eval", *chosen]) == 0
    summary = json.loads(capsys.readouterr().out)
    rows: list[dict[str, Any]]
    if suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [r["question"] for r in ROWS for _ in range(3)]
    assert {row["model"] for row in rows} == {str(tiny_model_dir)}
    assert all(row["reward"] == sum(c.isdigit() for c in row["completion"]) % 2 for row in rows)
    assert sum(row["reward"] for row in rows) / len(rows) == pytest.approx(summary["avg@k"])
    assert sum(row["tokens"] for row in rows) / len(rows) == pytest.approx(summary["mean_length"])


def test_a_model_is_read_in_the_precision_asked_for(
    tiny_model_dir: Path, task: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dopr.policy import models

    seen, load = [], models.load_model

    def spy(*args: Any, **options: Any) -> Any:
        model, tokenizer = load(*args, **options)
        seen.append(str(model.dtype))
        return model, tokenizer

    monkeypatch.setattr(models, "load_model", spy)
    assert cli.main(["eval", str(tiny_model_dir), *task, "--dtype", "bfloat16", "--json"]) == 0
    assert seen == ["torch.bfloat16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "answers.csv"], "must end in .jsonl or .parquet"),
        (["--save", "nowhere/answers.jsonl"], "no folder 'nowhere'"),
        (["--dtype", "float46"], "did you mean 'float16'"),
        (["--overlong-prompts", "drip"], "did you mean 'drop'"),
        (["--chat-template-kwargs", "no"], "is no mapping"),
        (["--columns", "{prompt: questoin}"], "did you mean 'question'"),
        (["--limit", "0"], "limit is 0; it must be at least 1"),
    ],
)
def test_mistakes_get_one_sentence(
    tiny_model_dir: Path,
    task: list[str],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["eval", str(tiny_model_dir), *task, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_stop_text_ends_completions(
    tmp_path: Path, tiny_model_dir: Path, task: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    chosen = [*task, "--k", "8", "--stop", "7", "--stop", "x", "--save", str(file)]
    assert cli.main(["eval", str(tiny_model_dir), *chosen]) == 0
    texts = [json.loads(line)["completion"] for line in file.read_text().splitlines()]
    assert any(text[-1:] in "7x" for text in texts if text)
    assert not any(set("7x") & set(text[:-1]) for text in texts)


def test_a_live_line_counts_completions(
    tiny_model_dir: Path,
    task: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dopr.runs import progress

    monkeypatch.setattr(progress, "_PLAIN_S", 0.0)
    loud = [word for word in task if word != "--quiet"]
    assert cli.main(["eval", str(tiny_model_dir), *loud, "--batch-size", "2"]) == 0
    shown = capsys.readouterr().err
    assert "2 of 6 completions" in shown and "6 of 6 completions" in shown

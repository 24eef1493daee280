"""The command line: what it leaves behind, and that every mistake is one line and status 2."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_tools import rows_of, train, words, write_rows
from dopr import cli

COMMANDS = (
    "train",
    "compare",
    "eval",
    "replay",
    "plan",
    "report",
    "tasks",
    "strategies",
    "warmstart",
    "rewards",
)


def refused(capsys: pytest.CaptureFixture, status: int = 2) -> str:
    """The one line on standard error."""
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("dopr: error")
    ]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def base(tmp_path: Path, tiny_model_dir: Path) -> Any:
    """Makes the arguments of a run in a fresh folder."""

    def make(**changes: Any) -> list[str]:
        return words(tmp_path, tiny_model_dir, **changes)

    return make


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["replay", "x.json", "--strategy", "dopr"], "did you mean '--strategies'?"),
        (["replay", "x.json", "--seeds", "1e1"], "invalid int value: '1e1'; see `dopr replay"),
        (["replay"], "HISTORY; see `dopr replay --help`"),
        (["compare"], "--config; see `dopr compare --help`"),
    ],
)
def test_words_that_no_command_knows_get_one_line(
    capsys: pytest.CaptureFixture, argv: list[str], said: str
) -> None:
    assert cli.main(argv) == 2
    assert said in refused(capsys)


@pytest.mark.parametrize(
    ("command", "shorter"),
    [("train", ["--max_rollouts", "16"]), ("eval", ["--limit", "2", "--k", "1"])],
)
def test_the_example_of_a_commands_help_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    command: str,
    shorter: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # or words are broken at their hyphens
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    _, _, example = " ".join(capsys.readouterr().out.split()).partition("Example: dopr ")
    monkeypatch.chdir(tmp_path)
    argv = [word for word in example.split() if word != "runs/train/model"]
    assert cli.main([*argv, *shorter]) == 0


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output_is_no_fault(name: str) -> None:
    closing = {"stdout": ">&-", "stderr": "2>&-"}[name]
    command = f"{sys.executable} -m dopr strategies --json {closing}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dopr import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'transformers', 'trl', 'datasets', 'pandas', 'scipy', 'rich')\n"
        "assert not {*heavy} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"    {name}" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert "usage: dopr" in capsys.readouterr().out


def test_a_run_leaves_what_is_promised(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = base(
        eval_dataset=tmp_path / "rows.jsonl",
        completions_every=2,
        save_every=2,
        **{"eval.every_rollouts": 8, "eval.num_prompts": 5, "eval.k": 2},
    )
    assert train(*arguments) == 0
    run = tmp_path / "run"
    for name in ("config.yaml", "ledger.parquet", "report.html", "model/model.safetensors"):
        assert (run / name).is_file(), name
    assert [row["rollout/rollouts_total"] for row in rows_of(run / "metrics.jsonl")] == [
        4,
        8,
        12,
        16,
    ]
    evals = rows_of(run / "eval.jsonl")
    assert [row["rollouts_total"] for row in evals] == [0, 8, 16]
    needed = {"step", "generated_tokens_total", "avg@k", "pass@k", "k", "temperature", "top_p"}
    needed |= {"num_prompts", "avg@k_low", "avg@k_high", "pass@k_low", "pass@k_high"}
    assert all(needed <= row.keys() for row in evals)
    assert sorted(p.name for p in (run / "completions").iterdir()) == [
        "completions_00002.parquet",
        "completions_00004.parquet",
    ]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    assert "finished" in capsys.readouterr().out
    # A second run into the same folder is refused, resuming a finished one does nothing.
    assert train(*arguments) == 2
    assert "--resume" in refused(capsys)
    stamp = (run / "metrics.jsonl").stat().st_mtime_ns
    assert train(*arguments, "--resume") == 0
    assert (run / "metrics.jsonl").stat().st_mtime_ns == stamp
    # The model that was saved can be evaluated.
    words_ = ["eval", str(run / "model"), "--dataset", str(tmp_path / "rows.jsonl"), "--json"]
    capsys.readouterr()
    assert cli.main([*words_, "--k", "2", "--limit", "3", "--max-completion-length", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 3


def test_checkpoints_do_not_grow_with_the_log(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dopr.runs.callbacks.LOG_ROWS_KEPT", 2)
    assert train(*base(steps=5, save_every=5)) == 0
    state = json.loads((tmp_path / "run/checkpoints/checkpoint-5/trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"]] == [4, 5]
    assert [row["step"] for row in rows_of(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_tables_hold_only_the_rows_of_their_step(base: Any, tmp_path: Path) -> None:
    import pandas as pd

    assert train(*base(completions_every=1, steps=2, batch_size=16)) == 0
    for step in (1, 2):
        table = pd.read_parquet(tmp_path / f"run/completions/completions_{step:05}.parquet")
        assert len(table) == 4 and set(table["step"]) == {step}


def test_the_rollout_budget_ends_a_run(base: Any, tmp_path: Path) -> None:
    assert train(*base(steps=None, max_rollouts=10)) == 0
    assert rows_of(tmp_path / "run/metrics.jsonl")[-1]["rollout/rollouts_total"] == 12


def test_print_config_shows_all_settings(base: Any, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["train", "--print-config", *base()]) == 0
    shown = capsys.readouterr().out
    assert "candidates: 8" in shown and "seed: 5" in shown and "temperature: 1.0" in shown


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
    ({"strategy": "unifrm"}, "did you mean 'uniform'?"),
    ({"strategy_args.candidates": 0}, "candidates is 0"),
    ({"strategy_args.candidate": 3}, "did you mean 'candidates'?"),
    ({"stepz": 3}, "did you mean 'steps'?"),
    ({"reward": "maht"}, "did you mean 'math'?"),
    ({"reward": "nowhere.py:f"}, "nowhere.py"),
    ({"model": "./nowhere"}, "nowhere"),
    ({"model": "nobody/nothing"}, "could not be loaded"),
    ({"columns": "{prompt: question}"}, "question"),
    ({"max_completion_length": 126}, "more than the model's context of 128"),
    ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ({"reward_weights": "[1, 2]"}, "2 numbers for 1 rewards"),
    ({"lora.rr": 3}, "LoRA setting"),
    ({"loss_type": "nonsense"}, "nonsense"),
    ({"report_to": "wandb"}, "pip install wandb"),
    ({"reward": "mine.py"}, "not of the form path/to/file.py:name"),
    ({"dataset": "mine.py"}, "not of the form path/to/file.py:name"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_mistakes_are_one_line(
    base: Any, capsys: pytest.CaptureFixture, changes: dict[str, Any], said: str
) -> None:
    assert train(*base(**changes)) == 2
    assert said in refused(capsys)


def test_damaged_and_empty_datasets(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = write_rows(tmp_path / "damaged.jsonl", 5)
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines[:2], '{"prompt": "1+', *lines[2:]]))
    assert train(*base(dataset=rows)) == 2
    assert "line 3" in refused(capsys)
    rows.write_text("")
    assert train(*base(dataset=rows)) == 2
    assert "no rows" in refused(capsys)


def test_duplicate_prompts_are_merged(base: Any, tmp_path: Path) -> None:
    import pandas as pd

    rows = write_rows(tmp_path / "twice.jsonl", 6)
    rows.write_text(rows.read_text() * 2)
    assert train(*base(dataset=rows)) == 0
    assert len(pd.read_parquet(tmp_path / "run/ledger.parquet")) == 6


def test_overlong_prompts_can_be_dropped(base: Any, tmp_path: Path) -> None:
    import pandas as pd

    rows = write_rows(tmp_path / "long.jsonl", 6)
    rows.write_text(rows.read_text() + json.dumps({"prompt": "1" * 200, "answer": "1"}))
    assert train(*base(dataset=rows, overlong_prompts="drop")) == 0
    assert len(pd.read_parquet(tmp_path / "run/ledger.parquet")) == 6


def reward_file(tmp_path: Path, body: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(f"calls = 0\ndef mine(completions, **columns):\n    global calls\n{body}\n")
    return f"{path}:mine"


@pytest.mark.parametrize("value", ["float('nan')", "None", "0.0"])
def test_rewards_that_teach_nothing_finish_with_a_warning(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture, value: str
) -> None:
    reward = reward_file(tmp_path, f"    return [{value}] * len(completions)")
    assert train(*base(reward=reward)) == 0
    assert "in none of the 4 groups of this run did rewards differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    raise ValueError('my own fault')", "my own fault"),
        ("    return [1.0]", "returned 1 numbers for 4 completions"),
        ("    return 1.0", "mine"),
        ("    return ['high'] * len(completions)", "where a number or None belongs"),
    ],
)
def test_rewards_that_misbehave(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture, body: str, said: str
) -> None:
    assert train(*base(reward=reward_file(tmp_path, body))) == 2
    assert said in refused(capsys)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_that_diverges_says_so_and_leaves_no_model(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture, steps: int
) -> None:
    # Within the run sampling meets the weights, at its end nothing does.
    reward = reward_file(tmp_path, "    return [float(i % 2) for i in range(len(completions))]")
    assert train(*base(reward=reward, learning_rate=1e39, steps=steps)) == 2
    assert "not finite after step 1: training has diverged; lower" in refused(capsys)
    assert not (tmp_path / "run/model").exists() and not (tmp_path / "run/done.json").exists()


def test_a_reward_that_hangs_is_stopped(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    reward = reward_file(tmp_path, "    import time; time.sleep(60)")
    assert train(*base(reward=reward, reward_timeout_s=0.3)) == 2
    assert "3 times in a row" in refused(capsys)


def test_a_reward_that_fails_late_loses_nothing(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = "    calls += 1\n    if calls > {}:\n        raise ValueError('late')\n"
    good += "    return [float(len(text) % 2) for text in completions]"
    reward = reward_file(tmp_path, good.format(3))
    assert train(*base(reward=reward, steps=6)) == 2
    message = refused(capsys)
    assert "late" in message and "saved at step 3, continue with --resume" in message
    reward_file(tmp_path, good.format(100))
    assert train(*base(reward=reward, steps=6), "--resume") == 0
    assert [row["step"] for row in rows_of(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_an_output_folder_that_cannot_be_made(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert train(*base(output_dir=tmp_path / "file" / "run")) == 2
    assert "cannot be written" in refused(capsys)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 700 kB, where making one is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(
    base: Any, small_disk: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = base(output_dir=small_disk / "run", steps=12, save_every=1, save_total_limit="null")
    assert train(*arguments) == 1
    assert "any more" in (said := refused(capsys)) and "checkpoint-" in said
    grow = ["mount", "-o", "remount,size=20m", str(small_disk)]
    subprocess.run(grow, check=True)
    assert train(*arguments, "--resume") == 0
    steps = [row["step"] for row in rows_of(small_disk / "run/metrics.jsonl")]
    assert steps == list(range(1, 13))


def test_a_read_only_disk(base: Any, small_disk: Path, capsys: pytest.CaptureFixture) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert train(*base(output_dir=small_disk / "run")) == 2
    assert "cannot be written" in refused(capsys)


def test_lists_as_json(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["strategies", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "summary", "source", "mark", "pays"} <= rows[0].keys()
    assert cli.main(["tasks", "chain_sum", "--json"]) == 0
    assert any("chain_sum" in row["name"] for row in json.loads(capsys.readouterr().out))
    assert cli.main(["strategies"]) == 0
    assert "one random prompt a step" in capsys.readouterr().out


def test_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["report", str(tmp_path / "none")]) == 2
    assert "there is no directory" in refused(capsys)


@pytest.mark.parametrize(("limit", "column"), [("max_tokens", 40), ("max_seconds", 0.05)])
def test_tokens_or_seconds_end_a_run(base: Any, tmp_path: Path, limit: str, column: float) -> None:
    assert train(*base(steps=None, **{limit: column})) == 0
    done = json.loads((tmp_path / "run/done.json").read_text())
    spent = {"max_tokens": done["generated_tokens"], "max_seconds": done["training_seconds"]}
    assert spent[limit] >= column and done["steps"] < 200
    assert train(*base(steps=None, **{limit: column}), "--resume") == 0  # nothing is left to do
    assert json.loads((tmp_path / "run/done.json").read_text()) == done

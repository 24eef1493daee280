"""Warnings: each rule on rows made by hand, where it speaks and where it must not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli_tools import train, words
from dopr.core.json_lines import NewLines
from dopr.report import write_report
from dopr.runs.alarms import Alarm, Thresholds, find_alarms
from dopr.runs.watching import AlarmCallback
from report_fixtures import make_run, write_jsonl

STEPS = 200


def rows(**columns: Any) -> list[dict[str, Any]]:
    """A healthy run of one prompt a step; a function of progress in [0, 1] replaces a column."""
    usual: dict[str, Any] = {
        "reward": 0.5,
        "reward_std": 0.4,
        "completions/mean_length": 100.0,
        "completions/clipped_ratio": 0.0,
        "select/signal_rate": lambda t: float(round(t * STEPS) % 2),
        "select/coverage": lambda t: 0.9 * t,
        "select/prompt_ids": lambda t: [f"p{round(t * STEPS)}"],
    }
    columns = usual | {name.replace("__", "/"): column for name, column in columns.items()}
    return [
        {"step": i + 1} | {k: v((i + 1) / STEPS) if callable(v) else v for k, v in columns.items()}
        for i in range(STEPS)
    ]


def evals(*accuracies: float) -> list[dict[str, Any]]:
    """Evaluations at equal distances, the last one at the end."""
    gap = STEPS // (len(accuracies) - 1)
    return [
        {"step": i * gap, "avg@k": a, "avg@k_low": a - 0.03, "avg@k_high": a + 0.03}
        for i, a in enumerate(accuracies)
    ]


def found(rows: list[dict[str, Any]], evals: list[dict[str, Any]] | None = None) -> list[str]:
    return [alarm.name for alarm in find_alarms(rows, evals or [])]


def rising(t: float) -> float:
    return 0.3 + 0.5 * t


def test_a_healthy_run_raises_nothing() -> None:
    assert found(rows(), evals(0.3, 0.4, 0.5)) == []
    longer = rows(reward=rising, completions__mean_length=lambda t: 20 + 200 * t)
    assert found(longer, evals(0.3, 0.5, 0.7)) == []
    assert found([]) == [] and found(rows()[:3]) == []
    assert found([{"step": 1, "reward": None}, {"step": 2, "reward": 0.5}]) == []


def test_the_signal_collapses() -> None:
    late = rows(select__signal_rate=lambda t: float(t < 0.5))
    (alarm,) = find_alarms(late, [])
    assert alarm.name == "signal_collapse" and STEPS / 2 + 48 <= alarm.step < STEPS / 2 + 60
    assert "0% of the groups" in alarm.message and "the completions and the reward" in alarm.message
    solved = rows(select__signal_rate=0.0, reward=1.0)
    assert "nearly all are right" in find_alarms(solved, [])[0].message
    by_trl = [{k: v for k, v in row.items() if k != "select/signal_rate"} for row in late]
    assert found([row | {"frac_reward_zero_std": 1.0} for row in by_trl]) == ["signal_collapse"]
    assert found(rows(select__signal_rate=lambda t: float(round(t * STEPS) % 10 == 0))) == []


def test_a_step_with_many_groups_counts_for_many() -> None:
    wide = rows(select__prompt_ids=[str(i) for i in range(128)], select__signal_rate=0.0)
    assert find_alarms(wide, [])[0].step == 8


def test_the_same_few_prompts() -> None:
    few = {"select__prompt_ids": lambda t: [f"p{round(t * STEPS * 2) % 5}"] * 2}
    (alarm,) = find_alarms(rows(**few, select__coverage=0.01), [])
    assert alarm.name == "narrow_choice" and alarm.step == 128
    assert "256 groups went to 5 prompts" in alarm.message and "1% of the pool" in alarm.message
    assert found(rows(**few, select__coverage=1.0)) == []  # a pool of five prompts


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("completions__mean_length", lambda t: 100 * (1 - 0.9 * t), "length went from"),
        ("completions__mean_length", lambda t: 100 + 900 * t, "length went from"),
        ("completions__clipped_ratio", lambda t: 0.6 * t, "cut off at the limit went from"),
        ("rewards__format_reward__mean", lambda t: 1 - 0.8 * t, "rewards/format_reward/mean fell"),
    ],
)
def test_a_rising_reward_with_strange_completions(column: str, change: Any, said: str) -> None:
    (alarm,) = find_alarms(rows(reward=rising, **{column: change}), [])
    assert alarm.name == "reward_hacked" and said in alarm.message
    assert found(rows(**{column: change})) == []  # the reward does not rise
    assert found(rows(reward=rising, **{column: change}), evals(0.3, 0.5, 0.7)) == []


def test_held_out_accuracy_falls_while_the_reward_rises() -> None:
    (alarm,) = find_alarms(rows(reward=rising), evals(0.5, 0.6, 0.5, 0.4, 0.3))
    assert alarm.name == "held_out_falls" and "from 0.600 at step 50 to 0.400" in alarm.message
    assert alarm.step == 152
    assert found(rows(), evals(0.5, 0.6, 0.5, 0.4, 0.3)) == []
    assert found(rows(reward=rising), evals(0.5, 0.6, 0.55, 0.56, 0.57)) == []  # within its noise
    assert found(rows(reward=rising), evals(0.5, 0.6, 0.3, 0.6, 0.6)) == []  # one bad evaluation


def test_each_warning_is_given_once_and_steps_of_reuse_count_for_nothing() -> None:
    collapsed = rows(select__signal_rate=0.0)
    reused = [row for r in collapsed for row in (r, {"step": r["step"], "loss": 0.1})]
    assert find_alarms(reused, []) == find_alarms(collapsed, [])
    assert found(collapsed) == ["signal_collapse"]
    assert found(rows(select__signal_rate=0.02)) == ["signal_collapse"]
    assert not find_alarms(rows(select__signal_rate=0.02), [], Thresholds(signal_rate=0.01))


def test_new_lines_wait_for_their_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = NewLines(path)
    assert lines.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert lines.read() == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\nbroken\n[3]\n{"step": 4}\n')
    assert lines.read() == [{"step": 2}, {"step": 4}]
    assert lines.read() == []


def test_the_callback_says_and_keeps_what_the_report_finds(tmp_path: Path) -> None:
    state, said = SimpleNamespace(is_world_process_zero=True), []
    logged, measured = rows(reward=rising), evals(0.5, 0.6, 0.5, 0.4, 0.3)
    callback = AlarmCallback(tmp_path, said.append)
    for row in logged:
        # The trainer evaluates before it logs, and the callback runs between the two.
        write_jsonl(tmp_path / "eval.jsonl", [e for e in measured if e["step"] <= row["step"]])
        callback.on_step_end(None, state, None)
        write_jsonl(tmp_path / "metrics.jsonl", logged[: row["step"]])
    callback.on_train_end(None, state, None)
    AlarmCallback(tmp_path, said.append).on_train_end(None, state, None)  # resumed: stays silent
    kept = [Alarm(**row) for row in NewLines(tmp_path / "warnings.jsonl").read()]
    assert kept == find_alarms(logged, measured) and len(kept) == len(said) == 1
    assert said[0].startswith(f"warning ({tmp_path}, step 152): held-out accuracy fell")


def test_a_training_run_warns_once_and_the_page_shows_it(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "same.py").write_text(
        "def same(completions, **_):\n    return [0.0] * len(completions)\n"
    )
    reward = f"{tmp_path / 'same.py'}:same"
    changes = {"strategy_args.prompts_per_step": 16, "strategy_args.candidates": 16, "steps": 6}
    assert train(*words(tmp_path, tiny_model_dir, **changes, reward=reward, num_generations=2)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warning (" in line]
    assert len(said) == 1 and "0% of the groups" in said[0]
    (row,) = NewLines(tmp_path / "run" / "warnings.jsonl").read()
    assert row["name"] == "signal_collapse" and row["message"] in said[0]
    assert "Warnings" in (page := (tmp_path / "run" / "report.html").read_text())
    assert "step 6: in the last 4 steps 0% of the groups" in page


def test_the_page_finds_warnings_of_a_run_that_was_not_watched(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "metrics.jsonl", rows(select__signal_rate=0.0))
    assert "step 48: in the last 48 steps" in write_report(tmp_path).read_text()
    (tmp_path / "warnings.jsonl").write_text(json.dumps({"step": 3, "message": "as it was said"}))
    write_jsonl(tmp_path / "warnings.jsonl", [{"step": 3, "message": "as it was said"}], '{"st')
    page = write_report(tmp_path).read_text()
    assert "step 3: as it was said" in page and "in the last 48 steps" not in page
    assert 'id="alarms"' not in write_report(make_run(tmp_path / "one", "dopr", 0)).read_text()

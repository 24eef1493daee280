"""A comparison: its description, its summary, and a small one from end to end."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_tools import REWARD, weights_in, write_rows
from dopr import cli
from dopr.compare import jobs, run
from dopr.compare.comparison import Comparison, Target
from dopr.compare.summary import FinishedRun, arrival, final_score, summarise, target_value
from dopr.compare.tuning import tune
from dopr.core.configuration import build
from dopr.core.errors import UserError


def evals(*scores: float, every: int = 100) -> list[dict[str, Any]]:
    return [
        {
            "step": i,
            "rollouts_total": i * every,
            "tokens_total": i * every * 10,
            "wall_s": float(i),
            "avg@k": score,
            "k": 1,
        }
        for i, score in enumerate(scores)
    ]


# -- arrival and finals ----------------------------------------------------------------------


def test_arrival_is_the_first_evaluation_at_or_above() -> None:
    rows = evals(0.1, 0.5, 0.8, 0.6)
    assert arrival(rows, "avg@k", 0.5) is rows[1]
    assert arrival(rows, "avg@k", 0.51) is rows[2]
    assert arrival(rows, "avg@k", 0.9) is None


def test_sustained_arrival_needs_the_mean_to_hold() -> None:
    rows = evals(0.1, 0.8, 0.2, 0.8, 0.7)
    assert arrival(rows, "avg@k", 0.7, sustain=2) is rows[3]
    assert arrival(rows, "avg@k", 0.8, sustain=2) is None
    assert arrival(evals(0.9), "avg@k", 0.8, sustain=2) is None


def test_final_is_the_mean_of_the_last_evaluations() -> None:
    rows = evals(0.1, 0.5, 0.7)
    assert final_score(rows, "avg@k", 1) == 0.7
    assert final_score(rows, "avg@k", 2) == pytest.approx(0.6)
    assert math.isnan(final_score([], "avg@k", 2))


# -- its description ---------------------------------------------------------------------------

BASE = {"dataset": "gym:chain_sum", "eval_dataset": "gym:chain_sum?seed=9", "max_rollouts": 64}


def described(**changes: Any) -> Comparison:
    mapping = {
        "base": BASE,
        "seeds": [0, 1],
        "target": {"value": 0.5},
        "strategies": {
            "grpo": {"strategy": "uniform", "strategy_args": {"prompts_per_step": 4}},
            "dopr": {"learning_rate": "3e-5", "learning_rate_from": "tuned.json"},
        },
    }
    return build(Comparison, mapping | changes)


def test_settings_of_a_run() -> None:
    made = described().settings("dopr", 1, {"learning_rate": 2e-5})
    assert (made.seed, made.learning_rate, made.strategy) == (1, 2e-5, "dopr")
    assert made.output_dir == "runs/compare/runs/dopr/seed-1"
    assert described().settings("dopr", 0, {}).learning_rate == 3e-5
    described().check()


STRATEGY_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"strategies": {}}, "at least one strategy"),
    ({"strategies": {"a": {"strategy": "unifrm"}}}, "did you mean 'uniform'?"),
    ({"strategies": {"a": {"learning_ratess": [1]}}}, "learning_rates"),
    ({"strategies": {"a": {"learning_rates": []}}}, "list of numbers"),
    ({"strategies": {"a": {"learning_rates": ["x", "y"]}}}, "must be numbers"),
    ({"strategies": {"a": {"seed": 3}}}, "set by the comparison"),
    ({"strategies": {"a/b": {}}}, "folder"),
    (
        {"strategies": {"a": {"learning_rates": [1, 2]}, "b": {"learning_rates": [1, 2, 3]}}},
        "equal",
    ),
    ({"strategies": {"a": {"learning_rates": [1, 2]}}, "tuning": {"seeds": [1]}}, "overlap"),
    ({"seeds": [0, 1, 0]}, "seeds holds a seed twice"),
    ({"seeds": [0, -1]}, r"seeds\[1\] is -1"),
    ({"strategies": {"a": {"tries": [3]}}}, "list of mappings"),
    ({"strategies": {"a": {"tries": [{}, {}], "learning_rates": [1, 2]}}}, "keep one"),
    ({"strategies": {"a": {"tries": [{"stepps": 1}, {}]}}}, "did you mean 'strategies.a.steps'"),
    ({"target": {}}, "target.value"),
    ({"target": {"value": 1, "fraction_of_best": 1}}, "target.value"),
    ({"target": {"value": 1, "metric": "avg"}}, "did you mean 'avg@k'?"),
    ({"base": {"dataset": "x", "steps": 1}}, "held-out"),
]


@pytest.mark.parametrize(("changes", "said"), STRATEGY_MISTAKES)
def test_plans_that_cannot_be_carried_out(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        described(**changes).check()


def test_an_unknown_key_of_a_plan() -> None:
    with pytest.raises(UserError, match="did you mean 'seeds'"):
        described(seedz=[1])


# -- the summary -----------------------------------------------------------------------------


def finished(name: str, seed: int, *scores: float, every: int = 100) -> FinishedRun:
    rows = evals(*scores, every=every)
    totals = {"rollouts": rows[-1]["rollouts_total"], "tokens": 1.0, "wall_s": 1.0}
    return FinishedRun(name, seed, rows, totals)


def test_comparison_has_the_shape_that_others_rely_on() -> None:
    runs = {
        "grpo": [
            finished("grpo", 0, 0.1, 0.2, 0.5, every=1000),
            finished("grpo", 1, 0.1, 0.2, 0.3, every=1000),
        ],
        "dopr": [finished("dopr", 0, 0.1, 0.6), finished("dopr", 1, 0.1, 0.2, 0.7)],
    }
    found = summarise(described(), runs, {"grpo": {}, "dopr": {}}, {"pool": {"size": 3}})
    json.dumps(found, allow_nan=False)
    dopr, grpo = found["strategies"]["dopr"], found["strategies"]["grpo"]
    assert dopr["seeds"] == [0, 1] and dopr["learning_rate"] == 3e-5
    assert dopr["learning_rate_from"] == "tuned.json"
    assert dopr["rollouts_to_target"]["per_seed"] == [100, 200]
    assert dopr["rollouts_to_target"]["median"] == 150
    assert grpo["rollouts_to_target"] == {
        "median": None,
        "low": 2000,
        "high": None,
        "reached": 1,
        "per_seed": [2000, None],
    }
    assert set(found["ratios"]) == {"dopr/grpo"}
    ratio = found["ratios"]["dopr/grpo"]
    assert ratio["rollouts"]["per_seed"] == [0.05, 0.1] and ratio["rollouts"]["bounded"] == 1
    assert ratio["final_difference"]["median"] == pytest.approx(0.25)
    assert found["target"]["value"] == 0.5 and "no interpolation" in found["target"]["rule"]
    assert found["pool"] == {"size": 3}


def test_a_target_relative_to_the_best() -> None:
    wanted = described(target={"fraction_of_best": 0.5})
    runs = {"a": [finished("a", 0, 0.1, 0.8)], "b": [finished("b", 0, 0.1, 0.6)]}
    assert target_value(wanted, runs) == pytest.approx(0.4)
    assert "0.5 of the best" in Target(fraction_of_best=0.5).rule


# -- from end to end -------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, tiny_model_dir: Path) -> Path:
    rows = str(write_rows(tmp_path / "rows.jsonl", 16))
    (tmp_path / "rw.py").write_text(REWARD)
    mapping = {
        "output_dir": str(tmp_path / "out"),
        "threads": 1,
        "base": {
            "model": str(tiny_model_dir),
            "dataset": rows,
            "eval_dataset": rows,
            "reward": f"{tmp_path / 'rw.py'}:odd",
            "max_completion_length": 4,
            "max_rollouts": 16,
            "num_generations": 4,
            "save_every": 2,
            "completions_every": 0,
            "eval": {"every_rollouts": 8, "num_prompts": 4},
        },
        "seeds": [0, 1],
        "tuning": {"seeds": [9], "max_rollouts": 8},
        "target": {"value": 0.3},
        "strategies": {
            "grpo": {
                "strategy": "uniform",
                "strategy_args": {"prompts_per_step": 2},
                "learning_rates": [1e-3, 1e-2],
            },
            "dopr": {"learning_rates": [1e-3, 1e-2]},
        },
    }
    path = tmp_path / "described.json"  # JSON is YAML
    path.write_text(json.dumps(mapping))
    return path


def test_tries_change_any_setting_and_keep_the_rest() -> None:
    tried = {
        "strategies": {
            "a": {
                "strategy": "uniform",
                "strategy_args": {"prompts_per_step": 2},
                "tries": [
                    {"learning_rate": 1e-4},
                    {"strategy_args": {"prompts_per_step": 4}, "learning_rate": 2e-4},
                ],
            }
        },
        "tuning": {"seeds": [7]},
    }
    made = [described(**tried).tuning_settings("a", 7, number) for number in (0, 1)]
    assert [s.strategy_args["prompts_per_step"] for s in made] == [2, 4]
    assert [s.learning_rate for s in made] == [1e-4, 2e-4]
    assert [s.output_dir.split("/")[-2] for s in made] == ["lr-0.0001", "try-2"]


def test_choices_of_another_comparison_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(json.dumps({"strategies": {"dopr": {"chosen": {"learning_rate": 7e-5}}}}))
    tuned = {
        "strategies": {"dopr": {"learning_rates": [1e-4, 2e-4]}},
        "tuning": {"from_file": str(file)},
    }
    made = described(**tuned)
    assert not made.needs_tuning("dopr")
    found = tune(made, lambda settings, label: pytest.fail("nothing is to be run"))
    assert found is not None
    chosen = found["strategies"]["dopr"]["chosen"]
    assert made.settings("dopr", 0, chosen).learning_rate == 7e-5
    with pytest.raises(UserError, match="no tuning file"):
        described(tuning={"from_file": str(tmp_path / "none.json")}).check()


def test_a_try_that_diverges_is_left_out_and_the_others_go_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # Right and wrong in every group, so that there is something to learn and to ruin.
    body = "    return [i % 2 for i in range(len(completions))]"
    (tmp_path / "rw.py").write_text(f"def mixed(completions, **columns):\n{body}\n")
    plan = json.loads(config.read_text())
    plan["base"]["reward"] = f"{tmp_path / 'rw.py'}:mixed"
    plan["seeds"] = [0]
    plan["strategies"] = {"dopr": {"learning_rates": [1e-3, 1e39]}}
    config.write_text(json.dumps(plan))
    command = ["compare", "--config", str(config), "--quiet"]
    names = ["tuning/dopr/lr-0.001/seed-9", "tuning/dopr/lr-1e+39/seed-9"]
    assert cli.main([*command, "--run", names[1]]) == 0
    capsys.readouterr()
    assert cli.main([*command, "--list-runs"]) == 0
    assert capsys.readouterr().out.split() == names[:1]
    assert cli.main(command) == 0
    tuned = json.loads((tmp_path / "out/tuning.json").read_text())["strategies"]["dopr"]
    assert tuned["chosen"] == {"learning_rate": 1e-3} and tuned["scores"]["lr-1e+39"] == [None]
    capsys.readouterr()
    plan["strategies"] = {"dopr": {"learning_rates": [1e38, 1e39]}}
    config.write_text(json.dumps(plan))
    assert cli.main(command) == 2
    assert "every try of strategy 'dopr' diverged; give it lower" in capsys.readouterr().err


def test_runs_one_by_one_make_the_same_comparison(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["compare", "--config", str(config), "--quiet"]

    def missing() -> list[str]:
        assert cli.main([*command, "--list-runs"]) == 0
        return capsys.readouterr().out.split()

    tuning = missing()
    assert len(tuning) == 4 and tuning[0] == "tuning/grpo/lr-0.001/seed-9"
    assert cli.main([*command, "--run", "runs/dopr/seed-0"]) == 2
    assert "needs the tuning" in capsys.readouterr().err
    for name in tuning:
        assert cli.main([*command, "--run", name]) == 0
    capsys.readouterr()
    reported = missing()
    assert sorted(reported) == [f"runs/{s}/seed-{i}" for s in ("dopr", "grpo") for i in (0, 1)]
    for name in reported:
        assert cli.main([*command, "--run", name]) == 0
    capsys.readouterr()
    assert missing() == []
    assert cli.main([*command, "--run", "runs/dopr/seed-3"]) == 2
    assert "did you mean 'runs/dopr/seed-" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert (tmp_path / "out" / "comparison.json").is_file()
    assert weights_in(tmp_path / "out") == {f"{name}/model" for name in reported}


def test_side_by_side_makes_every_run_once(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["compare", "--config", str(config), "--quiet", "--json"]
    command += ["--base.bf16", "true", "--base.gradient_checkpointing", "true"]  # as on a GPU
    assert cli.main([*command, "--jobs", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategies"]["dopr"]["seeds"] == [0, 1]
    for file in (tmp_path / "out").glob("**/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert steps == sorted(set(steps))
    assert cli.main([*command, "--jobs", "0"]) == 2


@pytest.mark.parametrize(
    ("allowed", "given"), [(None, ["0", "1", "0"]), ("4, 6", ["4", "6", "4"])], ids=str
)
def test_workers_share_the_gpus_that_the_command_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: str | None, given: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    shares = [jobs._share_of_machine(number, 3, 2) for number in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == given
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"2"}


def test_the_pool_is_measured_anew_where_something_of_it_has_changed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = json.loads(config.read_text())
    made = build(Comparison, mapping)
    made.folder.mkdir()
    first = run._pool(made, quiet=True)
    assert first is not None and first["group_size"] == 4
    for change in ({"num_generations": 2}, {"temperature": 0.7}, {"limit": 8}):
        changed = build(Comparison, mapping | {"base": mapping["base"] | change})
        assert run._pool(changed, quiet=True)["of"] != first["of"]  # type: ignore[index]
    kept = run._pool(changed, quiet=True)
    monkeypatch.setattr(run, "load_materials", lambda settings: pytest.fail("measured again"))
    assert run._pool(changed, quiet=True) == kept


SILENT = """
from dataclasses import dataclass
from dopr import Strategy

@dataclass
class Silent(Strategy):
    name, summary, source, mark = "silent", "never asks for a rollout", "test", "I"

    def step(self, prompts, ledger):
        return []
        yield
"""


@pytest.mark.parametrize("jobs", [[], ["--jobs", "1"]])
def test_a_run_that_ends_before_its_budget_stops_the_comparison(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture, jobs: list[str]
) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    mapping = json.loads(config.read_text())
    mapping["strategies"] = {"silent": {"strategy": f"{tmp_path / 'silent.py'}:Silent"}}
    mapping.pop("tuning")
    config.write_text(json.dumps(mapping))
    assert cli.main(["compare", "--config", str(config), "--quiet", *jobs]) == 2
    assert "before its budget was spent" in capfd.readouterr().err


def test_compare_runs_resumes_and_reports(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command = ["compare", "--config", str(config), "--quiet"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "dopr/grpo" in shown and "report.html" in shown
    result = json.loads((out / "comparison.json").read_text())
    assert (out / "report.html").is_file()
    assert {"pool", "machine", "versions", "tuning", "ratios"} <= result.keys()
    assert result["machine"]["threads"] == 1
    tuned = result["tuning"]["strategies"]["grpo"]
    assert tuned["learning_rate"] == result["strategies"]["grpo"]["learning_rate"]
    assert tuned["rollouts"] == 16
    # Again: only the run that is missing is made, and the result is the same.
    before = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*/metrics.jsonl")}
    assert len(before) == 4
    lost = out / "runs/dopr/seed-1"
    (lost / "done.json").unlink()
    assert cli.main([*command, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["strategies"]["grpo"] == result["strategies"]["grpo"]
    assert again["strategies"]["dopr"]["final"] == result["strategies"]["dopr"]["final"]
    touched = [p for p, stamp in before.items() if p.stat().st_mtime_ns != stamp]
    assert touched == [lost / "metrics.jsonl"]
    # Other settings are not mixed with the runs that are there.
    assert cli.main([*command, "--base.temperature", "0.7"]) == 2
    assert "temperature 1.0, now it is 0.7" in capsys.readouterr().err

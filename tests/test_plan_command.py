"""`dopr plan` as a command: what it prints, and mistakes in one sentence."""

import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cli_tools import REWARD, write_rows
from dopr import cli
from dopr.offline import best_arm, bounds, trust_region
from dopr.offline.histories import read_histories


def plan(*words: str) -> int:
    return cli.main(["plan", "--simulations", "2", *words])


def planned(capsys: pytest.CaptureFixture, *words: str) -> dict[str, Any]:
    assert plan("--json", *words) == 0
    return json.loads(capsys.readouterr().out)


def functions(module: ModuleType) -> set[str]:
    found = {name for name, value in vars(module).items() if inspect.isfunction(value)}
    own = {name for name in found if getattr(module, name).__module__ == module.__name__}
    return {name for name in own if not name.startswith("_")}


def write_history(path: Path, prompts: int = 24) -> Path:
    path.write_text(json.dumps({f"q{i}": [(i % 9) / 8, 0.5] for i in range(prompts)}))
    return path


def test_a_pass_rate_gives_every_bound(capsys: pytest.CaptureFixture) -> None:
    found = planned(capsys, "--pass-rate", "0.01", "--group-size", "8", "--price", "2")
    values = {bound["name"]: bound["value"] for bound in found["bounds"]}
    assert values.keys() <= functions(bounds) | functions(trust_region) | functions(best_arm)
    assert functions(bounds) - {"check_rate", "cheapest_rollouts"} <= values.keys()
    assert values["first_success"] == pytest.approx(229, abs=0.5)
    assert values["informative_group"] == pytest.approx(0.077, abs=5e-4)
    assert values["relative_budget"] is None and values["outcome_based"] is None
    for bound in found["bounds"]:
        assert bound["mark"] in ("V", "S", "I") and bound["source"] and bound["assumptions"]
    costs = found["costs"]
    assert costs["target"] == pytest.approx(0.505)
    uniform = costs["strategies"]["uniform"]
    assert uniform["price"]["median"] == pytest.approx(uniform["rollouts"]["median"] * 2 / 1000)
    assert costs["lower_bound"] <= uniform["rollouts"]["median"]


def test_the_table_shows_the_numbers(capsys: pytest.CaptureFixture) -> None:
    assert plan("--pass-rate", "0.01", "--group-size", "8", "--delta", "0.1") == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["first_success", "229"] in lines
    assert ["informative_group", "0.077"] in lines


def test_a_hopeless_pool_is_said_to_be_one(capsys: pytest.CaptureFixture) -> None:
    assert plan("--pass-rate", "1e-7", "--pool-size", "16") == 0
    assert "dopr: no simulated run reached the target" in capsys.readouterr().out


def test_what_was_left_open_can_be_given(capsys: pytest.CaptureFixture) -> None:
    words = ["--max-tokens", "1024", "--solution-tokens", "600", "--coverability", "2"]
    found = planned(capsys, "--pass-rate", "0.2", "--target", "0.5", *words, "--horizon", "4")
    values = {bound["name"]: bound["value"] for bound in found["bounds"]}
    assert values["relative_budget"] == pytest.approx(1024 / 600)
    assert values["outcome_based"] == pytest.approx(2 * 64 / 0.25)


def test_a_history_gives_intervals_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "plan.svg"
    path = write_history(tmp_path / "history.json")
    found = planned(capsys, "--history", str(path), "--target", "0.7", "--plot", str(figure))
    costs = found["costs"]
    assert costs["pool_size"] == 24 and costs["pass_rate"] == pytest.approx(0.48, abs=0.05)
    group = costs["rollouts_per_informative_group"]
    assert group["low"] < group["value"] < group["high"]
    assert figure.read_text().lstrip().startswith("<?xml")


def test_a_pilot_measures_first(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "rw.py").write_text(REWARD)
    rows = write_rows(tmp_path / "rows.jsonl", 12)
    words = ["--pilot", str(tiny_model_dir), "--dataset", str(rows), "--max-tokens", "6"]
    words += ["--reward", f"{tmp_path / 'rw.py'}:odd", "--pilot-rollouts", "4"]
    found = planned(capsys, *words, "--pilot-prompts", "10", "--groups-per-update", "2")
    assert found["costs"]["basis"] == "pilot of 10 prompts x 4"
    assert found["costs"]["pool_size"] == 12
    values = {bound["name"]: bound["value"] for bound in found["bounds"]}
    assert values["relative_budget"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of --pass-rate"),
        (["--pass-rate", "0.1", "--pilot", "x"], "one of --pass-rate"),
        (["--pass-rate", "0"], "pass rate is 0"),
        (["--pass-rate", "1.5"], "both excluded"),
        (["--pass-rate", "nan"], "both excluded"),
        (["--pass-rate", "0.4", "--target", "0.3"], "not above the pass rate 0.4"),
        (["--pass-rate", "0.4", "--target", "1"], "target is 1"),
        (["--pass-rate", "0.4", "--group-size", "1"], "group_size is 1"),
        (["--pass-rate", "0.4", "--pool-size", "4"], "a pool of 4 prompts"),
        (["--pass-rate", "0.4", "--delta", "0"], "delta is 0"),
        (["--pass-rate", "0.4", "--kl", "-1"], "kl is -1"),
        (["--pass-rate", "0.4", "--price", "-1"], "price is -1.0; it must be at least 0"),
        (["--pass-rate", "0.4", "--plot", "x.png"], "must end in .svg"),
        (["--pass-rate", "1e-300"], "rounding does not tell"),
        (["--pass-rate", "0.4", "--kl", "inf"], "kl is inf"),
        (["--pass-rate", "0.4", "--price", "nan"], "price is nan"),
        (["--pass-rate", "0.4", "--seed", "-1"], "seed is -1"),
        (["--history", "none.json"], "there is no history"),
        (["--pilot", "tiny-reasoner"], "--dataset"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert plan(*words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("dopr: error: ") and said in errors[0]


def test_histories_that_no_plan_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps({"a": [None, 0.5], "b": [0.25, 0.5]}))
    assert read_histories([path]).gaps == 1
    assert plan("--history", str(path)) == 2
    assert "misses 1 epochs" in capsys.readouterr().err
    path.write_text(json.dumps({"a": [0, 0.5], "b": [0, 0.5]}))
    assert plan("--history", str(path)) == 2
    assert "is unsolved" in capsys.readouterr().err

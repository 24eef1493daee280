"""The page: what it says, that it is safe and self-contained, and that it survives bad input."""

import html
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import dopr.report as report
from dopr.core.errors import UserError
from dopr.core.json_lines import read_steps
from dopr.report import script_json, write_report
from dopr.report.completions import message_text, pick_evenly
from dopr.report.data import Run, read_source
from dopr.report.figures import bin_mean, median_curve, selection_rates, source_shares
from dopr.report.summary import conclusion
from report_fixtures import HOSTILE, Page, comparison, make_comparison, make_run, write_jsonl


def read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 8_000_000
    return text


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_comparison(tmp_path_factory.mktemp("report") / "cmp", seeds=2, hostile=HOSTILE)


def test_page_of_a_comparison_says_what_was_found(compared: Path) -> None:
    path = write_report(compared)
    assert path == compared / "report.html"
    text = html.unescape(read(path))
    assert (
        "dopr reached avg@8 0.80 in 512 rollouts (median of 2 seeds), 0.091 of grpo's 5,632" in text
    )
    assert "Signal rate of the pool of 128 prompts: 0.48" in text
    assert "reached 0 of 2 seeds" in text and "1,901 to missed" in text
    assert "-0.004 to +0.021" in text and "two cores" in text and "seeds: 3" in text
    assert [p.name for p in compared.glob(".report-*")] == []


def test_page_loads_nothing(compared: Path, tmp_path: Path) -> None:
    text = read(write_report(compared, tmp_path / "deep" / "page.html"))
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}, tag
        assert not {"src", "href", "srcset", "data", "action"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert "@import" not in text and "url(" not in text
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text


def test_hostile_text_stays_text(compared: Path) -> None:
    page = Page(read(write_report(compared)))
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len([a for a in scripts if a.get("type") != "application/json"]) == 1
    assert len(scripts) == 1 + 1 + 8
    table = json.loads(page.json["completions-0"])
    assert table["rows"][0]["c"].startswith(HOSTILE)
    assert any(HOSTILE in key for key in json.loads(page.json["data"])["ids"])


def test_script_json_holds_no_markup() -> None:
    value = {"</script>": ["<!--", "]]>", "&", "\u2028\u2029", "\ud800", "\x00"]}
    text = script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_single_run(tmp_path: Path) -> None:
    text = html.unescape(read(write_report(make_run(tmp_path / "one", "dopr", 0))))
    assert "dopr, seed 0: avg@8 went from" in text
    data = json.loads(Page(text).json["data"])
    assert data["single"] and set(data["accuracy"]) == {"avg@k", "pass@k"}
    assert set(data["accuracy"]["avg@k"]) == {"rollouts", "tokens", "wall_s"}
    curve = data["accuracy"]["avg@k"]["rollouts"][0]
    assert curve["hi"][0] - curve["lo"][0] == pytest.approx(0.06, abs=1e-4)
    visits = data["runs"][0]["visits"]
    assert visits["total"] == visits["shown"] == 160
    assert visits["prompt"][:1] == [0] and max(visits["success"]) <= 1


def test_run_in_progress_with_only_metrics(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "reward": float("nan"), "select/prompt_ids": ["a"], "select/success": [0.5]},
        {"step": 2, "reward": 0.5, "select/prompt_ids": ["a", "b"], "select/success": None},
        {"step": None, "reward": None},
    ]
    write_jsonl(tmp_path / "metrics.jsonl", rows, tail='{"step": 3, "rew')
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "completions_00001.parquet").write_bytes(b"PAR1 half")
    text = html.unescape(read(write_report(tmp_path)))
    assert "no evaluation yet" in text
    assert "completions_00001.parquet could not be read" in text
    data = json.loads(Page(text).json["data"])
    assert data["accuracy"] == {} and data["runs"][0]["visits"]["success"] == [0.5, None, None]


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "{half", '{"strategies": {"a": null}, "ratios": {"a/b": 3}}']
)
def test_odd_comparison_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content, encoding="utf-8")
    read(write_report(tmp_path))


def test_unfinished_comparison(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "grpo" / "seed-10", "grpo", 10)
    make_run(tmp_path / "runs" / "grpo" / "seed-2", "grpo", 2)
    make_run(tmp_path / "tuning" / "grpo" / "seed-9", "grpo", 9)
    source = read_source(tmp_path)
    assert [run.seed for run in source.runs] == ["2", "10"]
    assert conclusion(source).startswith("The comparison is not finished: 2 runs of grpo")
    read(write_report(tmp_path))


def test_conclusion_when_the_method_misses(tmp_path: Path) -> None:
    content = comparison()
    missed = {"median": None, "low": None, "high": None, "reached": 0}
    content["strategies"]["dopr"]["rollouts_to_target"] = missed
    (tmp_path / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    assert conclusion(read_source(tmp_path)) == "dopr reached avg@8 0.80 in 0 of 3 seeds."
    content = comparison()
    content["strategies"]["grpo"]["rollouts_to_target"] = missed
    (tmp_path / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    assert "while grpo reached it in 0 of 3 seeds" in conclusion(read_source(tmp_path))


def test_mistakes_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no directory"):
        write_report(tmp_path / "none")
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(make_run(tmp_path / "run", "grpo", 0), tmp_path / "file" / "page.html")


def test_completions_are_capped_and_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        "step": [i // 10 for i in range(1200)],
        "prompt": ["p"] * 1200,
        "completion": ["x" * 30_000 if i % 7 == 0 else f"{i}" for i in range(1200)],
        "score": [float(i % 10 == 0) for i in range(1200)],
        "advantage": [0.0] * 1200,
    }
    (tmp_path / "completions").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "completions" / "completions_00001.parquet")
    table = json.loads(Page(read(write_report(tmp_path))).json["completions-0"])
    assert (len(table["rows"]), table["total"], table["cut"]) == (400, 1200, True)
    assert table["rewards"] == table["judges"] == ["score"]
    assert len({row["s"] for row in table["rows"]}) == 120
    assert sum(row["v"] for row in table["rows"]) == 120
    monkeypatch.setattr(report, "SIZE_LIMIT", 300_000)
    small = write_report(tmp_path)
    assert small.stat().st_size < 300_000


def test_pick_evenly_takes_right_and_wrong_in_turn() -> None:
    steps = [step for step in range(10) for _ in range(4)]
    verdicts: list[int | None] = [1, 0, 0, 0] * 10
    picked = pick_evenly(steps, verdicts, 20)
    assert [steps[i] for i in picked] == [step for step in range(10) for _ in range(2)]
    assert sum(verdicts[i] or 0 for i in picked) == 10
    few = pick_evenly(steps, verdicts, 4)
    assert [steps[i] for i in few] == [0, 3, 6, 9]
    assert {verdicts[i] for i in few} == {0, 1}
    assert pick_evenly([], [], 5) == []


def test_median_curve_is_a_step_function() -> None:
    curve = median_curve([[(0, 0.0), (10, 1.0)], [(0, 0.5), (5, 0.7), (20, 0.9)]])
    assert curve is not None
    assert curve["x"] == [0, 5, 10, 20]
    assert curve["y"] == pytest.approx([0.25, 0.35, 0.85, 0.95])
    assert curve["lo"] == [0, 0, 0.7, 0.9] and curve["hi"] == [0.5, 0.7, 1, 1]
    assert curve["live"] == [2, 2, 2, 1]
    assert median_curve([[], []]) is None


def test_bin_mean_keeps_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(100)]
    assert bin_mean(points, 10)[-1] == (99.0, 0.5)
    assert bin_mean(points[:5], 10) == points[:5]


def test_the_share_of_each_source_in_the_choice_is_drawn() -> None:
    metrics = [
        {"step": 1, "select/sources": {"sums": 3, "words": 1}},
        {"step": 2, "select/sources": {"words": 4}},
        {"step": 3},
        {"step": 4, "select/sources": "broken"},
    ]
    run = Run("dopr", "0", Path("run"), Path("none"), metrics=metrics)
    assert source_shares(run) == {
        "share of words": [(1.0, 0.25), (2.0, 1.0)],
        "share of sums": [(1.0, 0.75), (2.0, 0.0)],
    }
    assert set(selection_rates(run)) == {"share of words", "share of sums"}
    assert source_shares(Run("dopr", "0", Path("run"), Path("none"), metrics=[{"step": 1}])) == {}


def test_repeated_steps_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1}\nbroken\n{"step": 1}\n{"step": 2, "a": null, "b": 3}\n')
    notes: list[str] = []
    assert read_steps(path, notes) == [{"step": 1}, {"step": 2, "a": 1, "b": 3}]
    assert notes == ["1 line(s) of metrics.jsonl could not be read and were left out."]


def test_message_text() -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"text": "u"}]}]
    assert message_text(chat) == "[system]\ns\n\n[user]\nu"
    assert message_text(chat[1:]) == "u"
    assert message_text(None) == "" and message_text("x") == "x"

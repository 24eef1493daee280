"""The page of a run that goes on: young files, written again until the run is finished."""

import html
import json
import threading
import time
from pathlib import Path

import pytest

from cli_tools import start, wait_for, words
from dopr import cli
from dopr.report import watch
from dopr.report.watch import watch_report
from report_fixtures import Page, make_run, write_jsonl


def reloads(path: Path) -> str | None:
    """The seconds after which the page loads itself again."""
    elements = Page(path.read_text(encoding="utf-8")).elements
    found = [a["content"] for tag, a in elements if (a.get("http-equiv") or "") == "refresh"]
    return found[0] if found else None


def unfinished(folder: Path) -> Path:
    """A run in its third step: a line half written, nothing evaluated, no ledger."""
    row = {"step": 1, "reward": 0.5, "select/prompt_ids": ["a"], "select/success": [0.5]}
    write_jsonl(folder / "metrics.jsonl", [row, row | {"step": 2}], tail='{"step": 3, "rew')
    (folder / "config.yaml").write_text("strategy: dopr\nseed: 4\n")
    return folder


def test_a_report_of_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["report", str(unfinished(tmp_path))]) == 0
    page = tmp_path / "report.html"
    assert "dopr, seed 4: 2 steps logged and no evaluation yet." in html.unescape(page.read_text())
    assert reloads(page) is None


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("strategy: dopr\nseed: 4\n")
    (tmp_path / "metrics.jsonl").write_text("")
    assert cli.main(["report", str(tmp_path)]) == 0


def test_watching_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(tmp_path)
    seen: list[str | None] = []

    def a_step_later(seconds: float) -> None:
        seen.append(reloads(tmp_path / "report.html"))
        if len(seen) == 2:
            (tmp_path / "done.json").write_text("{}")

    monkeypatch.setattr(watch.time, "sleep", a_step_later)
    assert watch_report(tmp_path, every_s=7) == tmp_path / "report.html"
    assert seen == ["7", "7"] and reloads(tmp_path / "report.html") is None


def test_ctrl_c_leaves_a_page_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", stop)
    assert cli.main(["report", str(unfinished(tmp_path)), "--watch", "3"]) == 0
    assert reloads(tmp_path / "report.html") is None


def test_a_finished_run_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "dopr", 0)
    (tmp_path / "done.json").write_text("{}")
    monkeypatch.setattr(watch.time, "sleep", pytest.fail)
    watch_report(tmp_path, tmp_path / "page.html")
    assert reloads(tmp_path / "page.html") is None


def test_mistakes_of_watching(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["report", str(unfinished(tmp_path)), "--watch", "0"]) == 2
    assert "give at least 1 second" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "nowhere"), "--watch", "5"]) == 2
    assert "there is no directory" in capsys.readouterr().err


def test_a_real_run_can_be_watched(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = words(
        tmp_path,
        tiny_model_dir,
        steps=40,
        save_every=10,
        completions_every=1,
        eval_dataset=tmp_path / "rows.jsonl",
        **{"eval.every_steps": 10, "eval.num_prompts": 4},
    )
    process = start("train", "--quiet", *arguments)
    run, page = tmp_path / "run", tmp_path / "page.html"
    wait_for("run/metrics.jsonl", tmp_path, process)
    watcher = threading.Thread(target=watch_report, args=(run, page, 1))
    watcher.start()
    reloading = set()
    while watcher.is_alive():
        if page.exists():
            reloading.add(reloads(page))
        time.sleep(0.05)
    assert process.wait(timeout=60) == 0
    assert "1" in reloading and reloads(page) is None
    data = json.loads(Page(page.read_text(encoding="utf-8")).json["data"])
    assert data["training"]["reward"]["step"][0]["x"][-1] == 40

"""docs/observability.md lists what a run logs: all of it, and nothing that is logged no more."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import dopr
from cli_tools import rows_of, train, words
from dopr import DoPRConfig, DoPRTrainer
from dopr.engines.prompt_pool import prompt_names
from dopr.runs.alarms import RULES
from scripted_engine import Engine, needs_no_files, new_driver
from tiny import digits_reward, make_dataset, settings

PAGE = (Path(__file__).parents[1] / "docs" / "observability.md").read_text(encoding="utf-8")


def listed(part: str) -> set[str]:
    """The names in the first column of the tables between two headings of the page."""
    text = PAGE.split(f"# {part}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


METRICS = listed("Metrics")


def unknown(row: dict[str, Any], names: set[str] = METRICS) -> set[str]:
    generic = {re.sub(r"^rewards/.*/(mean|std)$", r"rewards/NAME/\1", name) for name in row}
    return generic - names


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "uniform", "num_iterations": 2, "beta": 0.1},
        {"loss_type": "cispo", "strategy": "dapo"},
        {"loss_type": "vespo", "entropy_coef": 0.01},
        {"objective": "ibro", "strategy": "coba-rl"},
    ],
)
def test_all_that_a_training_logs_is_listed(
    tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any]
) -> None:
    arguments = DoPRConfig(**settings(tmp_path, max_steps=2, **changes))
    DoPRTrainer(str(tiny_model_dir), digits_reward, arguments, make_dataset()).train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and {"reward", "select/prompt_ids", "wall_s"} <= rows[0].keys()
    assert not set().union(*map(unknown, rows))


def test_what_was_chosen_is_told_by_source(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = make_dataset(12)
    for named, sources in ((False, ["one"] * 12), (True, ["one", "two", "three"] * 4)):
        folder = tmp_path / str(named)
        arguments = DoPRConfig(**settings(folder, max_steps=3))
        dataset = rows.add_column("data_source", sources)
        DoPRTrainer(str(tiny_model_dir), digits_reward, arguments, dataset).train()
        source_of = dict(zip(prompt_names(dataset), sources, strict=True))
        for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
            assert ("select/sources" in row) == named  # a single source needs no telling
            chosen = Counter(source_of[name] for name in row["select/prompt_ids"])
            assert row.get("select/sources", chosen) == chosen
            assert not unknown(row)


def test_all_that_a_run_writes_is_listed(tmp_path: Path, tiny_model_dir: Path) -> None:
    arguments = words(tmp_path, tiny_model_dir, eval_dataset=tmp_path / "rows.jsonl", steps=2)
    assert train(*arguments) == 0
    assert not set().union(*map(unknown, rows_of(tmp_path / "run" / "metrics.jsonl")))
    evals = [json.loads(x) for x in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert evals and not unknown(evals[0], listed("Evaluations"))


@pytest.mark.parametrize("name", needs_no_files())
def test_all_that_a_strategy_logs_is_listed(name: str) -> None:
    driver, engine = new_driver(name, 30, 4, 0), Engine(30, "verdict", 0)
    for _ in range(12):
        engine.checked_step(driver)
        assert not unknown(driver.strategy.metrics())


def test_nothing_is_listed_that_is_logged_no_more() -> None:
    code = "".join(
        file.read_text(encoding="utf-8") for file in Path(dopr.__file__).parent.rglob("*.py")
    )
    ours = {name for name in METRICS if name.startswith(("select/", "rollout/", "ibro/"))}
    assert ours and not {name for name in ours if f'"{name}"' not in code}


def test_every_warning_is_listed() -> None:
    assert listed("Warnings") == set(RULES)

"""Recorded histories: files, ledgers and run directories read as one table."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_tools import write
from dopr import UserError, cli
from dopr.core.json_lines import append_line
from dopr.offline.histories import read_histories


def test_gaps_and_short_histories_are_filled_and_said(tmp_path: Path) -> None:
    content = {"a": [None, 0.5, None, 1.0], "b": [0.25, 0.75], "c": [math.nan, None, 0.0]}
    history = read_histories([write(tmp_path / "h.json", content)])
    assert history.names == ("a", "b", "c")
    assert history.rates.tolist() == [[0.5, 0.5, 0.5, 1], [0.25, 0.75, 0.75, 0.75], [0, 0, 0, 0]]
    assert history.lengths.tolist() == [4, 2, 3]
    assert history.learnable.tolist() == [True, True, False]
    assert (history.group_size, history.group_size_from) == (4, "inferred")
    facts = history.facts()
    assert facts["shortest"] == 2 and facts["signal_rate"] == pytest.approx(5 / 9)
    assert any(note.startswith("4 missing epochs") for note in facts["notes"])
    assert any("keeps its last value" in note for note in facts["notes"])
    json.dumps(facts, allow_nan=False)


def test_a_history_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    file.write_text('{"a": [0.5, 1.0]}', encoding="utf-8-sig")
    assert read_histories([file]).names == ("a",)


def test_several_files_are_one_pool(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.json", {"a": [0.5]}), write(tmp_path / "2.json", {"b": [0.3]})
    assert read_histories([one, two]).names == ("a", "b")
    with pytest.raises(UserError, match=r"'a' of .* in another file too"):
        read_histories([one, one])


@pytest.mark.parametrize(
    ("rates", "size"),
    [([0.125, 0.5], 8), ([0.0, 1.0], 8), ([0.333, 0.667], 3), ([0.1414214, 0.7320508], 8)],
)
def test_the_group_size_is_the_smallest_that_fits(
    tmp_path: Path, rates: list[float], size: int
) -> None:
    file = write(tmp_path / "h.json", {"a": rates})
    assert read_histories([file]).group_size == size
    given = read_histories([file], 16)
    assert (given.group_size, given.group_size_from) == (16, "given")


def test_a_ledger_is_a_history_of_one_epoch(tmp_path: Path) -> None:
    import pandas as pd

    table = {"id": ["x", "y", "z"], "visits": [2, 0, 1], "rollouts": [16, 0, 8]}
    file = tmp_path / "ledger.parquet"
    pd.DataFrame(table | {"mean": [0.75, np.nan, 0.0]}).to_parquet(file)
    for source in (file, tmp_path):  # a run directory without metrics.jsonl falls back on it
        history = read_histories([source])
        assert history.names == ("x", "z") and history.rates.tolist() == [[0.75], [0.0]]
        assert (history.group_size, history.group_size_from) == (8, "record")
        assert any("1 prompts without a scored rollout" in note for note in history.notes)
    pd.DataFrame(table).to_parquet(file)
    with pytest.raises(UserError, match=r"cannot be read as a run's ledger\.parquet"):
        read_histories([file])


def test_a_run_directory_is_read_in_order_of_its_steps(tmp_path: Path) -> None:
    steps = [(["p", "q"], [0.5, None]), (["p", "r"], [0.75, 0.0]), (["p"], [1.0])]
    for number, (names, success) in enumerate(steps):
        row = {"step": number, "select/prompt_ids": names, "select/success": success}
        append_line(tmp_path / "metrics.jsonl", row)
    (tmp_path / "config.yaml").write_text("num_generations: 4\n")
    history = read_histories([tmp_path])
    assert history.names == ("p", "r")
    assert history.rates.tolist() == [[0.5, 0.75, 1.0], [0.0, 0.0, 0.0]]
    assert (history.group_size, history.group_size_from) == (4, "record")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "must be a JSON object"),
        ({}, "holds no prompt"),
        ({"a": []}, "a list without any epoch"),
        ({"a": 0.5}, "has no list of per-epoch accuracies"),
        ({"a": [0.5], "b": [0.5, "x"]}, "prompt 'b' of"),
        ({"a": [0.5, True]}, "which is no number"),
        ({"a": [None, None]}, "only null"),
        ({"a": [0.5, 1.5]}, "1.5 at epoch 1"),
        ({"a": [-1]}, "between 0 and 1"),
        ('{"a": [Infinity]}', "between 0 and 1"),
        (f'{{"a": [1{"0" * 400}]}}', "between 0 and 1"),
    ],
)
def test_files_that_are_no_history_are_refused_in_one_line(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["replay", str(write(tmp_path / "h.json", content))]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


@pytest.mark.parametrize("name", ["nowhere.json", "nowhere.parquet", "."])
def test_missing_histories_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["replay", str(tmp_path / name)]) == 2
    assert "a run directory" in capsys.readouterr().err

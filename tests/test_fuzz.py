"""Whatever a file, a configuration or a completion holds: a result or one sentence, no crash."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dopr.compare.comparison import Comparison
from dopr.core.configuration import build, parse_overrides
from dopr.core.errors import UserError
from dopr.offline.histories import read_histories
from dopr.rewards import (
    exact_match_reward,
    format_reward,
    gym_reward,
    math_reward,
    rlpt_reward,
    srl_reward,
)
from dopr.runs.settings import TrainSettings
from dopr.tasks import load_task

# The folder is the same for all examples of a test; each writes its file anew.
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
COLUMNS = st.sampled_from(
    ["prompt", "question", "problem", "answer", "solution", "id", "extra_info", "reward_model"]
)
TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(
        ["\\boxed{", "}", "<answer>", "</answer>", "\\frac", "^", "{", "1/0", "9" * 50, "$", "\x00"]
    ),
    max_size=8,
).map("".join)


def one_sentence(error: UserError) -> None:
    text = str(error)
    assert text and "\n" not in text.strip() and "Traceback" not in text


@FEW
@given(
    rows=st.lists(st.dictionaries(COLUMNS | st.text(max_size=5), VALUES, max_size=5), max_size=4)
)
@example(rows=[{"\n": None}])
@example(rows=[{"prompt": "", "\x1b[31m": ""}])
def test_any_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    try:
        dataset = load_task(str(file))
    except UserError as error:
        one_sentence(error)
        return
    assert 1 <= len(dataset) <= len(rows)
    assert {"id", "prompt", "answer", "data_source", "extra_info"} <= set(dataset.column_names)
    assert len(set(dataset["id"])) == len(dataset)


@FEW
@given(content=st.binary(max_size=60), ending=st.sampled_from(["jsonl", "json", "parquet"]))
def test_any_bytes_as_a_dataset(tmp_path: Path, content: bytes, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    file.write_bytes(content)
    with pytest.raises(UserError) as found:
        load_task(str(file))
    one_sentence(found.value)


@FEW
@given(content=st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_any_history(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "history.json"
    file.write_bytes(content)
    try:
        history = read_histories([str(file)])
    except UserError as error:
        one_sentence(error)
        return
    assert history.size >= 1 and history.epochs >= 1


NAMES = st.sampled_from(sorted(TrainSettings.__dataclass_fields__)) | st.text(max_size=8)


@FEW
@given(mapping=st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_settings(mapping: dict[str, Any]) -> None:
    try:
        made = build(TrainSettings, {"dataset": "rows.jsonl", "steps": 1} | mapping)
        made.check()
    except UserError as error:
        one_sentence(error)


@FEW
@given(strategies=VALUES, base=VALUES)
def test_any_plan(strategies: Any, base: Any) -> None:
    mapping = {"strategies": strategies, "base": base, "output_dir": "runs/x"}
    try:
        build(Comparison, mapping).check()
    except UserError as error:
        one_sentence(error)


@FEW
@given(words=st.lists(st.text(max_size=10).map(lambda t: f"--{t}") | st.text(max_size=8)))
def test_any_overrides(words: list[str]) -> None:
    try:
        found = parse_overrides(words)
    except UserError as error:
        one_sentence(error)
        return
    assert yaml.safe_load(yaml.safe_dump(found)) is not None


@FEW
@given(completions=st.lists(TEXTS, min_size=1, max_size=4), answer=TEXTS)
def test_any_completion_is_scored_or_none(completions: list[str], answer: str) -> None:
    columns = {
        "prompts": ["?"] * len(completions),
        "completions": completions,
        "answer": [answer] * len(completions),
    }
    for reward in (exact_match_reward, format_reward, math_reward):
        scores = reward(**columns)
        assert len(scores) == len(completions)
        assert all(s is None or s in (0.0, 1.0) for s in scores), reward
    for reward in (srl_reward, rlpt_reward):
        assert all(s is None or -1 <= s <= 1 for s in reward(**columns)), reward


@FEW
@given(completions=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_completion_of_a_gym_task(completions: list[str]) -> None:
    row = load_task("gym:chain_sum?size=1&seed=3")[0]
    columns = {name: [row[name]] * len(completions) for name in ("answer", "data_source")}
    columns["extra_info"] = [row["extra_info"]] * len(completions)
    scores = gym_reward([row["prompt"]] * len(completions), completions, **columns)
    assert all(s is None or 0 <= s <= 1 for s in scores)

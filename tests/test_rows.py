"""What other people's rows hold: chats in parts, tool calls, references, columns, many sources."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.errors import UserError
from dopr.rewards import code_reward
from dopr.tasks import load_task
from dopr.tasks.columns import answer_text

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Any:
    return load_task(write(tmp_path / "rows.jsonl", list(rows)), **options)


def ask(content: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": content}], "answer": "4", **more}


# -- chats ---------------------------------------------------------------------------------------


def test_content_in_parts_is_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2 ="}]
    [row] = load(tmp_path, ask(parts)).to_list()
    assert row["prompt"] == [{"role": "user", "content": "2 + 2 ="}]


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "video"])
def test_what_is_no_text_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    parts = [{"type": kind, kind: "board.png"}, {"type": "text", "text": "What is shown?"}]
    with pytest.raises(UserError, match=rf"row 1 has an? {kind} in its prompt.*DoPRTrainer"):
        load(tmp_path, ask(parts))


@pytest.mark.parametrize("column", [{"image": "board.png"}, {"images": ["board.png"]}])
def test_a_column_with_pictures_is_refused_and_an_empty_one_is_none(
    tmp_path: Path, column: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="has an image in its column"):
        load(tmp_path, ask("What is shown?", **column))
    blank = {name: None if name == "image" else [] for name in column}
    assert load(tmp_path, ask("What?", **blank)).column_names[:2] == ["id", "prompt"]


def test_tool_calls_in_a_history_are_kept_as_they_are(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "half", "arguments": {"of": 8}}}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "2 + 2 ="},
        {"role": "assistant", "content": None, "tool_calls": [CALL, other]},
        {"role": "tool", "name": "add", "content": "4"},
        {"role": "user", "content": "and plus 1?"},
    ]
    rows = load(tmp_path, {"prompt": history, "answer": "5"}, ask("2 + 2 ="), system_prompt="Add.")
    history[1]["content"] = ""  # a template reads it as text
    system = {"role": "system", "content": "Add."}
    assert rows[0]["prompt"] == [system, *history]
    assert rows[1]["prompt"] == [system, {"role": "user", "content": "2 + 2 ="}]


def test_a_message_without_content_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1: a prompt is a text or a list of role and content"):
        load(tmp_path, {"prompt": [{"role": "user"}], "answer": "4"})


# -- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("2 * 500 = 1000\n#### 1,000", "1000"),
        ("#### $1,234,567.50", "1234567.50"),
        ("so 18 #### 18", "18"),
        ("x = 3 and y = 4\n#### (3, 4)", "(3, 4)"),
        ("the point\n#### (3,100)", "(3,100)"),
        ("(x-2)(x-3)\n#### 2, 3", "2, 3"),
        ("#### 1,2", "1,2"),
        ("#### 100,200,30", "100,200,30"),
        ("#### Step 1\nx = 42\n#### Step 2: conclude\nso \\boxed{42}", "42"),
        ("#### Step 1\nx = 42\n#### Step 2\nso it is 42.", None),
        ("2 * 3 = 6\n#### 6\nwhich was to be found", "6"),
        ("so \\boxed{7}\n#### 7", "7"),
        ("#### 5\n\n", "5"),
        ("nothing after it\n####", "nothing after it\n####"),
        (27.0, "27"),
        (["34"], "34"),
        ([3.0], "3"),
        ([], ""),
        ([None], ""),
        (["2", "2"], "2"),
    ],
)
def test_a_reference_is_reduced_to_its_answer(reference: Any, text: str | None) -> None:
    assert answer_text(reference) == (reference if text is None else text)


@given(st.integers(0, 10**15), st.integers(0, 99))
def test_thousands_are_read_whatever_the_number(whole: int, cents: int) -> None:
    assert answer_text(f"sum\n#### {whole:,}") == str(whole)
    assert answer_text(f"sum\n#### ${whole:,}.{cents:02}") == f"{whole}.{cents:02}"


@given(st.lists(st.integers(0, 99), min_size=2, max_size=5))
def test_a_list_of_small_numbers_is_never_joined(numbers: list[int]) -> None:
    for comma in (",", ", "):
        assert answer_text("#### " + comma.join(map(str, numbers))) == comma.join(map(str, numbers))


def test_several_accepted_answers_stay_a_list(tmp_path: Path) -> None:
    rows = load(
        tmp_path,
        {"prompt": "half?", "ground_truth": ["0.5", "#### 1/2"]},
        {"prompt": "1+1?", "ground_truth": ["2"]},
    )
    assert rows["answer"][:] == [["0.5", "1/2"], "2"]


# -- columns ---------------------------------------------------------------------------------------


def test_columns_reach_a_reward_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"question": "q0", "solution": "so \\boxed{1}", "tests": [{"in": 1}, {"out": [2]}], "n": 1},
        {"question": "q1", "solution": "so \\boxed{2}", "mixed": "7", "n": 2.5},
        {"question": "q2", "solution": "3", "mixed": 4, "completions": "x", "prompts": "y"},
    ]
    loaded = load(tmp_path, *rows)
    assert loaded["answer"][:] == ["1", "2", "3"]
    assert loaded["solution"][:] == [row["solution"] for row in rows]
    assert loaded["tests"][:] == [[{"in": 1}, {"out": [2]}], None, None]
    assert loaded["mixed"][:] == [None, "7", 4]
    assert loaded["n"][:] == [1.0, 2.5, None]
    # TRL hands these over itself; a column of that name would clash.
    assert not {"completions", "prompts"} & set(loaded.column_names)


def test_columns_of_different_sources_are_filled_with_nulls(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "1", "level": 3}])
    second = write(tmp_path / "b.jsonl", [{"prompt": "r", "answer": "2", "unit": "m"}])
    loaded = load_task([first, second])
    assert (loaded["level"][:], loaded["unit"][:]) == ([3, None], [None, "m"])


# -- many rows, many sources -------------------------------------------------------------------


def test_limit_reads_no_further_than_it_says(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": "1"} for i in range(3)]
    path = tmp_path / "rows.jsonl"
    write(path, rows)
    with path.open("a") as file:
        file.write("{broken\n")
    assert len(load_task(str(path), limit=3)) == 3
    with pytest.raises(UserError, match="line 4 is not JSON"):
        load_task(str(path), limit=4)
    drawn: list[int] = []
    (tmp_path / "own.py").write_text(
        "drawn = []\n"
        "def rows():\n"
        "    for i in range(10**9):\n"
        "        drawn.append(i)\n"
        "        yield {'prompt': f'q{i}', 'answer': '1'}\n"
    )
    assert len(load_task(f"{tmp_path / 'own.py'}:rows", limit=5)) == 5
    from dopr.core.user_objects import load_object

    drawn = load_object(f"{tmp_path / 'own.py'}:drawn", "task")
    assert drawn == [0, 1, 2, 3, 4]


def test_a_parquet_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from dopr.tasks import sources

    rows = [{"prompt": f"q{i}", "answer": "1"} for i in range(30)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(sources, "_ROWS_AT_ONCE", 4)
    assert len(load_task(str(tmp_path / "a.parquet"))) == 30
    assert load_task(str(tmp_path / "a.parquet"), limit=6)["prompt"][:] == [
        f"q{i}" for i in range(6)
    ]


def three_sources(tmp_path: Path) -> list[str]:
    return [
        write(
            tmp_path / f"{name}.jsonl", [{"prompt": f"{name}{i}", "answer": "1"} for i in range(n)]
        )
        for name, n in (("a", 30), ("b", 10), ("c", 20))
    ]


def counts(rows: Any) -> dict[str, int]:
    return {name: sum(p[0] == name for p in rows["prompt"]) for name in "abc"}


def test_shares_mix_sources_as_far_as_the_scarcest_goes(tmp_path: Path) -> None:
    named = three_sources(tmp_path)
    assert counts(load_task(named, shares=[3, 1, 1])) == {"a": 30, "b": 10, "c": 10}
    assert counts(load_task(named, shares=[0.1, 0.3, 0.2])) == {"a": 3, "b": 10, "c": 6}
    assert counts(load_task(named, shares=[2, 1, 1], limit=8)) == {"a": 4, "b": 2, "c": 2}
    with pytest.raises(UserError, match="2 shares for 3 datasets"):
        load_task(named, shares=[1, 1])
    with pytest.raises(UserError, match="must be above 0"):
        load_task(named, shares=[1, 0, 1])
    with pytest.raises(UserError, match="leaves no row"):
        load_task(named, shares=[100, 1, 1])


def test_rows_say_their_source_where_asked(tmp_path: Path) -> None:
    named = three_sources(tmp_path)
    assert load_task(named, limit=4, name_sources=True)["eval_set"][:] == [
        named[0], named[0], named[1], named[2],
    ]  # fmt: skip
    assert "eval_set" not in load_task(named).column_names


CODE_ROWS = {
    "mbpp": {"text": "Write add(a, b).", "code": "", "test_list": ["assert add(1, 2) == 3"]},
    "human-eval": {
        "prompt": "def add(a, b):\n",
        "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    },
    "open-r1": {
        "problem_statement": "Write add(a, b).",
        "verification_info": {
            "language": "python",
            "test_cases": [
                {"type": "function_call", "fn_name": "add", "input": "[1, 2]", "output": "3"}
            ],
        },
    },
    "verl": {
        "prompt": [{"role": "user", "content": "Write add(a, b)."}],
        "reward_model": {
            "style": "rule",
            "ground_truth": json.dumps({"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}),
        },
    },
}


@pytest.mark.parametrize("kind", CODE_ROWS)
def test_tests_of_a_program_stand_for_the_answer(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(CODE_ROWS[kind]) + "\n")
    rows = load_task(str(file))
    codes = ["def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"]
    completions = [f"```python\n{code}\n```" for code in codes]
    columns = {name: [rows[0][name]] * 2 for name in rows.column_names if name != "prompt"}
    prompts = [rows[0]["prompt"]] * 2
    assert code_reward(prompts=prompts, completions=completions, **columns) == [1.0, 0.0]

"""Every kind of source becomes rows of id, prompt, answer, data_source, extra_info."""

import json
import logging
from pathlib import Path

import pytest

from dopr.core.errors import UserError
from dopr.tasks import content_id, list_tasks, load_task
from dopr.tasks.tiny_pools import POOLS

BENCHMARKS = Path(__file__).resolve().parent.parent / ".." / "shared" / "data" / "benchmarks"


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load_one(tmp_path, row, **options):
    [loaded] = load_task(write_jsonl(tmp_path / "rows.jsonl", [row]), **options).to_list()
    return loaded


def test_rows_have_five_columns_a_content_hash_and_their_own_columns(tmp_path):
    row = load_one(tmp_path, {"prompt": "1+1?", "answer": "2", "level": 3})
    assert row == {
        "id": content_id("1+1?", "2"),
        "prompt": "1+1?",
        "answer": "2",
        "data_source": "rows",
        "extra_info": '{"level": 3}',
        "level": 3,
    }
    assert len(row["id"]) == 16


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "p", "solution": "7"}, "p", "7"),
        ({"prompt": "p", "ground_truth": 7}, "p", "7"),
        ({"prompt": "p", "target": 7.0}, "p", "7"),
        ({"question": "q", "answer": "3*4=12\n#### 1,234"}, "q", "1234"),
        ({"problem": "q", "solution": r"so \boxed{\frac{1}{2}}."}, "q", r"\frac{1}{2}"),
        ({"problem": "q", "solution": r"so \boxed{1}", "answer": "2"}, "q", "2"),
        ({"question": "q", "final_answer": ["$3$"], "solution": ["long"]}, "q", "$3$"),
        ({"input": "q", "output": "o"}, "q", "o"),
        ({"question": "c", "final_answer": ["1"], "context": "Given x."}, "Given x.\n\nc", "1"),
    ],
)
def test_column_names_of_common_datasets_are_recognised(tmp_path, row, prompt, answer):
    loaded = load_one(tmp_path, row)
    assert (loaded["prompt"], loaded["answer"]) == (prompt, answer)


def test_a_verl_row_stays_a_chat_and_keeps_its_source(tmp_path):
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 5},
    }
    loaded = load_one(tmp_path, row, system_prompt="Think.")
    assert loaded["prompt"] == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "1+1?"},
    ]
    assert (loaded["answer"], loaded["data_source"]) == ("2", "openai/gsm8k")
    assert json.loads(loaded["extra_info"]) == {"ability": "math", "index": 5}


def test_a_reasoning_gym_row_in_a_file_keeps_its_family_and_metadata(tmp_path):
    row = {"question": "q", "answer": "4", "metadata": {"source_dataset": "chain_sum", "n": 1}}
    loaded = load_one(tmp_path, row)
    assert loaded["data_source"] == "gym:chain_sum"
    assert json.loads(loaded["extra_info"]) == {"source_dataset": "chain_sum", "n": 1}


def test_columns_can_be_mapped_and_mistakes_name_the_nearest(tmp_path):
    row = {"ask": "q", "reply": "a"}
    loaded = load_one(tmp_path, row, columns={"prompt": "ask", "answer": "reply"})
    assert (loaded["prompt"], loaded["answer"]) == ("q", "a")
    with pytest.raises(UserError, match=r"did you mean 'reply'.*it has: ask, reply"):
        load_one(tmp_path, row, columns={"prompt": "ask", "answer": "replay"})
    with pytest.raises(UserError, match="no column for the prompt among ask, reply"):
        load_one(tmp_path, row)
    with pytest.raises(UserError, match="key of columns 'promt'; did you mean 'prompt'"):
        load_one(tmp_path, row, columns={"promt": "ask"})


def test_prompts_become_chats_on_request(tmp_path):
    row = {"prompt": "q", "answer": "a"}
    assert load_one(tmp_path, row, chat=True)["prompt"] == [{"role": "user", "content": "q"}]
    assert load_one(tmp_path, row, system_prompt="s")["prompt"] == "s\n\nq"
    chat = load_one(tmp_path, row, chat=True, system_prompt="s")
    assert [message["role"] for message in chat["prompt"]] == ["system", "user"]
    assert chat["id"] == load_one(tmp_path, row)["id"]  # the same task, however it is put


def test_json_parquet_folder_and_function_give_the_same_rows(tmp_path):
    import datasets

    rows = [{"question": f"q{i}", "answer": str(i)} for i in range(3)]
    table = datasets.Dataset.from_list(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "splits")
    (tmp_path / "own.py").write_text(f"def rows():\n    return {rows!r}\n")
    expected = load_task(write_jsonl(tmp_path / "a.jsonl", rows))["id"][:]
    for name in ("a.json", "a.parquet", "plain", "splits", "own.py:rows"):
        assert load_task(str(tmp_path / name))["id"][:] == expected, name
    assert len(load_task(str(tmp_path / "splits"), split="test")) == 1
    with pytest.raises(UserError, match="did you mean 'test'"):
        load_task(str(tmp_path / "splits"), split="tests")


def test_sources_mix_and_duplicates_are_merged_with_a_warning(tmp_path, caplog):
    rows = [{"prompt": f"q{i}", "answer": "1"} for i in range(6)]
    first = write_jsonl(tmp_path / "a.jsonl", rows)
    second = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "q0", "answer": "1"}])
    with caplog.at_level(logging.WARNING):
        mixed = load_task([first, second])
    assert len(mixed) == 6
    assert "1 of 7 rows were duplicates" in caplog.text
    rows = [{"prompt": f"r{i}", "answer": "1"} for i in range(6)]
    third = write_jsonl(tmp_path / "c.jsonl", rows)
    assert load_task([first, third], limit=5)["prompt"][:] == ["q0", "q1", "q2", "r0", "r1"]
    assert len(load_task([first, third], limit=50)) == 12


def test_ids_of_the_rows_are_kept_and_made_distinct_in_a_mix(tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl", [{"id": 0, "prompt": "q", "answer": "1"}])
    second = write_jsonl(tmp_path / "b.jsonl", [{"id": 0, "prompt": "r", "answer": "1"}])
    assert load_task(first)["id"][:] == ["0"]
    assert load_task([first, second])["id"][:] == ["a/0", "b/0"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.jsonl", '{"prompt": "q", "answer": "1"}\n\n{oops\n', "line 3 is not JSON"),
        ("list.jsonl", "[1]\n", "line 1 is not an object"),
        ("empty.jsonl", "", "has no rows"),
        ("blank.jsonl", '{"prompt": " ", "answer": "1"}', "row 1 has an empty prompt"),
        ("none.jsonl", '{"prompt": "q", "answer": null}', "row 1 has no answer"),
        ("bad.json", "{", "is not JSON"),
        ("dict.json", "{}", "not a list of objects"),
        ("bad.parquet", "nonsense", "cannot be read as Parquet"),
        ("bad.csv", "a,b", "is not one of .jsonl"),
    ],
)
def test_a_broken_file_is_told_in_one_sentence(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_task(str(path))
    assert "\n" not in str(error.value)


def test_missing_sources_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no file"):
        load_task(str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="not a folder saved by datasets"):
        load_task(str(tmp_path))
    with pytest.raises(UserError, match="neither a file"):
        load_task("./absent")
    with pytest.raises(UserError, match="there is no file"):
        load_task(f"{tmp_path}/absent.py:rows")
    with pytest.raises(UserError, match="give at least one"):
        load_task([])


def test_a_hub_dataset_that_cannot_be_reached_names_the_mend(monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"cannot be loaded \(ConnectionError\).*local .jsonl"):
        load_task("owner/name#main")


def test_a_hub_dataset_is_asked_for_by_name_config_and_split(monkeypatch):
    import datasets

    def fake(name, config, split):
        assert (name, config, split) == ("openai/gsm8k", "main", "test")
        return datasets.Dataset.from_list([{"question": "q", "answer": "x\n#### 5"}])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    [row] = load_task("openai/gsm8k#main", split="test").to_list()
    assert (row["answer"], row["data_source"]) == ("5", "openai/gsm8k#main")


def test_gym_sources_take_typed_options():
    rows = load_task(
        "gym:basic_arithmetic?operators=+,-&min_terms=3&allow_parentheses=false&size=4"
    )
    assert len(rows) == 4
    assert set(rows["data_source"]) == {"gym:basic_arithmetic"}
    info = json.loads(rows["extra_info"][0])
    assert info["gym_config"] == {
        "operators": ["+", "-"],
        "min_terms": 3,
        "allow_parentheses": False,
    }
    assert len(load_task("gym:chain_sum", limit=3)) == 3


def test_gym_rows_are_reproducible_and_differ_between_seeds_and_splits():
    def ids(**options):
        return set(load_task("gym:chain_sum?size=20", **options)["id"])

    assert ids() == ids()
    assert not ids() & ids(split="test")
    assert not ids() & ids(seed=1)
    assert not ids(split="test") & ids(seed=1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gym:chain_sums", "did you mean 'chain_sum'"),
        ("gym:chain_sum?min_term=2", "did you mean 'min_terms'"),
        ("gym:chain_sum?min_terms=two", "option 'min_terms' is int, not 'two'"),
        ("gym:chain_sum?min_terms", "write min_terms=VALUE"),
        ("gym:chain_sum?min_terms=9&max_terms=2", "refuses these options"),
        ("gym:chain_sum?size=0", "refuses these options|has no rows"),
        ("gym:basic_arithmetic?format_style=odd", "option 'format_style'"),
    ],
)
def test_mistakes_in_a_gym_source_are_told(source, message):
    with pytest.raises(UserError, match=message):
        load_task(source)


def test_list_tasks_names_families_with_options_and_file_kinds():
    listed = {task["name"]: task for task in list_tasks()}
    assert len([name for name in listed if name.startswith("gym:")]) > 100
    assert listed["gym:chain_sum"]["options"]["min_terms"] == 2
    assert all(task["summary"] for task in listed.values())
    assert "path/to/file.jsonl" in listed
    json.dumps(list_tasks())


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmark files are not beside this clone")
@pytest.mark.parametrize(
    ("name", "rows", "answer"),
    [
        ("aime24_test", 30, "204"),
        ("amc23_test", 40, "27"),
        ("gsm8k_test", 1319, "18"),
        ("math500_test", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("olympiadbench_test", 675, "2"),
    ],
)
def test_the_public_benchmarks_load_without_options(name, rows, answer):
    loaded = load_task(str(BENCHMARKS / f"{name}.jsonl"))
    assert len(loaded) == rows
    assert loaded["answer"][0] == answer
    assert len(set(loaded["id"])) == rows


def test_pools_of_the_tiny_model_have_short_names() -> None:
    rows = load_task("tiny:ab/hard")
    assert len(rows) == 512
    assert rows["prompt"] == load_task(POOLS["ab"]["hard"])["prompt"]
    with pytest.raises(UserError, match="did you mean 'tiny:ab/hard'"):
        load_task("tiny:ab/hardd")


FUNCTIONS = """
def fails():
    raise ValueError("my own fault")

def fails_late():
    yield {"prompt": "1+1=", "answer": "2"}
    raise ValueError("my own fault")

def wants(more):
    return []
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", r"raised ValueError: my own fault \(own.py:3\)"),
        ("fails_late", r"raised ValueError: my own fault \(own.py:7\)"),
        ("wants", "raised TypeError: .*missing 1 required"),
    ],
)
def test_a_fault_in_a_users_own_task_is_told_in_one_sentence(tmp_path, name, said):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    with pytest.raises(UserError, match=said):
        load_task(f"{tmp_path / 'own.py'}:{name}")


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, ending):
    row = '{"prompt": "1+1=", "answer": "2"}'
    file = tmp_path / f"rows.{ending}"
    file.write_text(row if ending == "jsonl" else f"[{row}]", encoding="utf-8-sig")
    assert load_task(str(file))["prompt"] == ["1+1="]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "1 \\ud800 1", "answer": "2"}', "half of a character"),
        ('{"prompt": "1+1", "answer": "2", "note": "\\ud800"}', "half of a character"),
        ('{"prompt": 3, "answer": "2"}', "has a int as its prompt; write a text"),
        ('{"prompt": {"role": "user"}, "answer": "2"}', "has a dict as its prompt"),
        ('{"prompt": null, "answer": "2"}', "has an empty prompt"),
    ],
)
def test_rows_that_are_no_text_are_refused_by_what_they_are(tmp_path, row, said):
    file = tmp_path / "rows.jsonl"
    file.write_text(row)
    with pytest.raises(UserError, match=said):
        load_task(str(file))

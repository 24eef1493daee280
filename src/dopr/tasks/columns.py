r"""From a row as some dataset names it to `prompt`, `answer` and the rest.

Known are the columns of TRL (`prompt`, `solution`, `ground_truth`), verl (`reward_model`), GSM8K
(`question`, `answer` with `####`), MATH (`problem`, `solution` with `\boxed{}`), reasoning-gym
(`question`, `answer`, `metadata`) and OlympiadBench (`final_answer`); others are mapped by name.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.rewards.extract import is_missing, reference_text
from dopr.tasks.messages import read_prompt, refuse_pictures

# In order of preference: the first that a dataset has is taken.
PROMPTS = (
    *("prompt", "question", "problem", "query", "instruction", "input", "problem_statement"),
    "text",
)
# Tests of a program stand for the answer, see `dopr.rewards.code_tests`.
TESTS = (
    *("verification_info", "test_list", "input_output", "test_cases", "tests"),
    *("public_test_cases", "test"),
)
ANSWERS = (
    "answer",
    "ground_truth",
    "final_answer",
    "expected_answer",
    "target",
    "solution",
    "output",
)
_NOT_INFO = ("id", "data_source", "extra_info", "metadata", "reward_model")
# What a task's rows hold themselves, and what TRL hands to a reward under these names.
_TAKEN = (
    *("id", "prompt", "answer", "data_source", "extra_info", "prompts", "completion"),
    *("completions", "completion_ids", "trainer_state", "environment", "environments"),
    *("log_metric", "log_extra", "image", "images", "dopr_row", "eval_set"),
)

Row = dict[str, Any]


def make_mapper(
    names: Sequence[str], columns: dict[str, str] | None, source: str, label: str
) -> Callable[[Row, int], Row]:
    """A function from a row and its number to `id` (or None), prompt, answer, source, info and the
    row's other columns as they are.

    Args:
        names: the dataset's column names.
        columns: what the user said: "prompt", "answer" or "id" to a column's name.
        source: as the user wrote it, for messages.
        label: the `data_source` of rows that have none.

    Raises:
        UserError: a column that is named does not exist, or none is known for prompt or answer.
    """
    given = dict(columns or {})
    for role, name in given.items():
        if role not in ("prompt", "answer", "id"):
            raise unknown_name("key of columns", role, ("prompt", "answer", "id"))
        if name not in names:
            error = unknown_name("column", name, names)
            raise UserError(f"{source!r}: {error} (it has: {', '.join(names)})")
    prompt_column = given.get("prompt") or _first(PROMPTS, names)
    answer_column = given.get("answer")
    if answer_column is None and "reward_model" not in names:
        free = [name for name in names if name != prompt_column]
        answer_column = _first(ANSWERS, free)
    if prompt_column is None:
        raise _no_column("prompt", names, source)
    tested = any(name in names for name in TESTS)
    if answer_column is None and "reward_model" not in names and not tested:
        raise _no_column("answer", names, source)
    id_column = given.get("id") or ("id" if "id" in names else None)
    with_context = prompt_column != "prompt" and "final_answer" in names and "context" in names

    def map_row(row: Row, number: int) -> Row:
        where = f"{source!r}, row {number + 1}"
        refuse_pictures(row, where)
        prompt = read_prompt(row[prompt_column], where)
        if with_context and row["context"] and isinstance(prompt, str):
            prompt = f"{row['context']}\n\n{prompt}"
        metadata = _info(row.get("metadata"))
        truth = None if answer_column else _info(row.get("reward_model")).get("ground_truth")
        raw = row[answer_column] if answer_column else truth
        family = metadata.get("source_dataset")
        answer = answer_text(raw)
        if not answer and family is None and not tested:
            raise UserError(f"{where} has no answer; remove the row or name another column")
        used = {prompt_column, answer_column, id_column, *_NOT_INFO}
        extra = {key: value for key, value in row.items() if key not in used and value is not None}
        return {
            "id": None if id_column is None or row[id_column] is None else str(row[id_column]),
            "prompt": prompt,
            "answer": answer,
            "data_source": row.get("data_source") or (f"gym:{family}" if family else label),
            "extra_info": {**extra, **_info(row.get("extra_info")), **metadata},
            "columns": {key: value for key, value in row.items() if key not in _TAKEN},
        }

    return map_row


def answer_text(value: Any) -> str | list[str]:
    """A reference as a row holds it: each answer is read by `dopr.rewards.extract.reference_text`.

    Returns:
        The text, empty where there is none. A list of one is that one; several are answers of which
        any is accepted, and stay a list.
    """
    if hasattr(value, "tolist"):  # NumPy's, from a function of the user's own
        value = value.tolist()
    if isinstance(value, list | tuple):
        texts = [text if isinstance(text := answer_text(v), str) else to_json(v) for v in value]
        accepted = list(dict.fromkeys(filter(None, texts)))
        return accepted if len(accepted) > 1 else "".join(accepted)
    if isinstance(value, dict):
        return to_json(value)
    return "" if is_missing(value) else reference_text(value)


def to_json(value: Any) -> str:
    """JSON of any value: NumPy numbers and arrays by value, what JSON lacks by its text."""

    def fallback(item: Any) -> Any:
        return item.tolist() if hasattr(item, "tolist") else str(item)

    return json.dumps(value, ensure_ascii=False, default=fallback)


def _no_column(role: str, names: Sequence[str], source: str) -> UserError:
    return UserError(
        f"{source!r}: no column for the {role} among {', '.join(names)}; "
        f'say which with columns={{"{role}": NAME}}'
    )


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _info(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {"info": value}
    if isinstance(value, dict):
        return value
    return {} if value in (None, "") else {"info": value}

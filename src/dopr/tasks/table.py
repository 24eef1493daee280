"""Rows as a `datasets.Dataset`: five columns of our own, then whatever else the rows hold."""

from typing import TYPE_CHECKING, Any

from dopr.tasks.columns import Row, to_json
from dopr.tasks.messages import has_more_than_text

if TYPE_CHECKING:
    from datasets import Dataset


def as_dataset(rows: list[Row], chat: bool) -> "Dataset":
    """The rows as a table.

    Args:
        rows: with `id`, `prompt`, `answer`, `data_source`, `extra_info` and, where a source has
            them, `columns`, a mapping of further ones, and `eval_set`.
        chat: prompts are lists of messages.
    """
    from datasets import Dataset, Features, Json, List, Value

    text = Value("string")
    prompt: Any = text
    if chat:
        # Arrow would give every message every key of every other one; JSON keeps them as they are.
        whole = any(has_more_than_text(row["prompt"]) for row in rows)
        prompt = Json() if whole else List({"role": text, "content": text})
    several = any(not isinstance(row["answer"], str) for row in rows)
    kinds: dict[str, Any] = {
        "id": text,
        "prompt": prompt,
        "answer": Json() if several else text,
        "data_source": text,
        "extra_info": text,
    }
    table = {name: [row[name] for row in rows] for name in kinds}
    for name in ("prompt", "answer"):
        if isinstance(kinds[name], Json):
            table[name] = _encoded(table[name])
    further: list[dict[str, Any]] = [row.get("columns") or {} for row in rows]
    for name in dict.fromkeys(key for row in further for key in row):
        table[name], kinds[name] = _column([row.get(name) for row in further])
    if rows and "eval_set" in rows[0]:
        table["eval_set"], kinds["eval_set"] = [row["eval_set"] for row in rows], text
    return Dataset.from_dict(table, features=Features(kinds))


def _column(values: list[Any]) -> tuple[list[Any], Any]:
    """Values and their type: Arrow's where it keeps them as they are, else JSON."""
    import pyarrow
    from datasets import Json, Value
    from datasets.features.features import generate_from_arrow_type

    try:
        kind = pyarrow.array(values).type
    except (pyarrow.ArrowException, OverflowError):
        kind = None
    if kind is not None and pyarrow.types.is_null(kind):
        return values, Value("string")
    if kind is not None and not _has_struct(kind):
        return values, generate_from_arrow_type(kind)
    return _encoded(values), Json()


def _encoded(values: list[Any]) -> list[str | None]:
    """Values for a column of JSON: it takes a text for JSON, so that the text `2` would come back
    as a number.
    """
    return [None if value is None else to_json(value) for value in values]


def _has_struct(kind: Any) -> bool:
    """Whether there are mappings in it, whose missing keys Arrow would fill with nulls."""
    import pyarrow

    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _has_struct(kind.value_type)
    return bool(pyarrow.types.is_nested(kind))

"""The pool of prompts as the trainer sees it: their names and whether they fit the model."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from dopr.core.moves import Moves, prompt_keys
from dopr.core.stream import PromptStream

logger = logging.getLogger(__name__)

_PICTURES = frozenset({"image", "images"})  # TRL's names for them


def content_id(prompt: Any, answer: Any = None) -> str:
    """A prompt's id where none is given: 16 hex digits of a hash of what it asks and expects."""
    text = json.dumps([prompt, answer], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_shown(dataset: Dataset) -> Dataset:
    """The columns that a dataset's rows show, as plain values.

    A format (`set_format`, `with_format`) may hide columns or give arrays. A transform makes rows
    of its own: it is applied here once, and what it gives is held in memory, but for pictures.
    """
    told = dataset.format
    if told["type"] == "custom":
        return Dataset.from_list([_without_pictures(row) for row in dataset])
    if told["type"] is not None:
        dataset = dataset.with_format(None, columns=told["columns"])
    shown = [name for name in dataset.column_names if name in set(told["columns"])]
    return dataset if shown == dataset.column_names else dataset.select_columns(shown)


def _without_pictures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _PICTURES}


def prompt_names(dataset: Dataset) -> list[str]:
    """One id per row: the column `id` where there is one, else a hash of prompt and answer.

    Rows without a prompt, which only say what an environment is to do, are told apart by all they
    hold.
    """
    names = dataset.column_names
    if "id" in names:
        return [str(name) for name in dataset["id"]]
    if "prompt" in names:  # reading two columns is much faster than reading whole rows
        dataset = dataset.select_columns([c for c in ("prompt", "answer") if c in names])
    return [row_name(row) for row in dataset]


def row_name(row: Mapping[str, Any]) -> str:
    """The id of one row, see `prompt_names`."""
    if "id" in row:
        return str(row["id"])
    if "prompt" not in row:
        return content_id(dict(row))
    return content_id(row["prompt"], row.get("answer"))


def prompt_categories(dataset: Dataset) -> NDArray[np.int64]:
    """The kind of each prompt as a number, by its column `data_source`; all 0 without one."""
    if "data_source" not in dataset.column_names:
        return np.zeros(len(dataset), dtype=np.int64)
    sources = [str(source) for source in dataset["data_source"]]
    number = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    return np.array([number[source] for source in sources], dtype=np.int64)


def prompt_sources(dataset: Dataset) -> list[str] | None:
    """The source of each prompt, its column `data_source`; None where there are not several."""
    if "data_source" not in dataset.column_names:
        return None
    sources = [str(source) for source in dataset["data_source"]]
    return sources if len(set(sources)) > 1 else None


def pool_state(names: Sequence[str], stream: PromptStream) -> dict[str, Any]:
    """What a checkpoint says of the pool, so that a resumed run can tell its prompts apart.

    Args:
        names: of the prompts, see `prompt_names`.
        stream: with their categories.
    """
    return {"keys": prompt_keys(names), "categories": stream.categories}


def moves_since(
    saved: Mapping[str, Any] | None, names: Sequence[str], stream: PromptStream
) -> Moves | None:
    """Where the prompts of a checkpoint are in the pool of now; None where all are in their rows.

    Args:
        saved: what `pool_state` gave; None for a checkpoint that knows no prompts.
        names: of the prompts now.
        stream: with their categories.

    Raises:
        UserError: not one of the prompts is in the checkpoint.
    """
    if saved is None:
        return None
    kinds = saved["categories"], stream.categories
    moves = Moves.between(saved["keys"], prompt_keys(names), kinds)
    if moves is not None and (moves.gone or len(moves.new)):
        logger.warning(moves.told)
    return moves

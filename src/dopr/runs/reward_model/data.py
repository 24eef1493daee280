"""Scored responses and preferences: from files, or from the tables of completions that runs leave.

Rows hold `prompt`, `response` and `reward`, or `prompt`, `chosen` and `rejected`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError, unknown_name
from dopr.rewards.extract import completion_text
from dopr.tasks.columns import PROMPTS
from dopr.tasks.sources import RawRows, read_source

RESPONSES = ("response", "completion")
REWARDS = ("reward", "correct", "score", "label")
FEWEST_PROMPTS = 4
FEWEST_ROWS = 16

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Responses and their rewards; all of the same length n.

    Attributes:
        prompts: texts or chats.
        responses: texts.
        rewards: shape (n,), finite.
        groups: shape (n,), the number of each row's prompt, counted from 0 in order of appearance.
    """

    prompts: list[Any]
    responses: list[str]
    rewards: Array
    groups: NDArray[np.int64]

    @property
    def labels(self) -> Array:
        """1 where a reward lies above the middle of its range, else 0; shape (n,)."""
        middle = (self.rewards.min() + self.rewards.max()) / 2
        return (self.rewards > middle).astype(np.float64)


@dataclass(frozen=True)
class Preferences:
    """Pairs of responses, the first of which was preferred; all of the same length n.

    Attributes:
        prompts: texts or chats.
        chosen, rejected: texts.
        groups: shape (n,), the number of each row's prompt.
    """

    prompts: list[Any]
    chosen: list[str]
    rejected: list[str]
    groups: NDArray[np.int64]


def read_data(sources: Sequence[str], reward_column: str | None = None) -> Scored | Preferences:
    """Read what a reward model is fitted to.

    Args:
        sources: `.jsonl`, `.json` or `.parquet` files, run directories (their tables of
            completions), or what else a task may be.
        reward_column: where the reward stands; null takes `reward`, `correct`, `score` or `label`,
            else the only column whose name ends in `_reward`.

    Raises:
        UserError: a source that cannot be read, a missing column, rewards that are all equal, or
            too few rows or prompts.
    """
    if not sources:
        raise UserError("no data is named; give --data FILE")
    rows = [row for source in sources for row in _read(source)]
    if not rows:
        raise UserError(f"{', '.join(sources)}: there are no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    where = ", ".join(sources)
    prompt = _required(PROMPTS, names, "prompt", where)
    if {"chosen", "rejected"} <= set(names):
        data: Scored | Preferences = _preferences(rows, prompt)
    else:
        data = _scored(rows, names, prompt, reward_column, where)
    _check_size(data, where)
    return data


def prompt_key(prompt: Any) -> str:
    """What tells prompts apart: a text as it is, a chat as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def _read(source: str) -> RawRows:
    folder = Path(source).expanduser()
    if folder.is_dir():
        inner = folder / "completions"
        tables = sorted((inner if inner.is_dir() else folder).glob("completions_*.parquet"))
        if tables:
            return [row for table in tables for row in read_source(str(table), "train")[0]]
        raise UserError(
            f"{source!r} holds no completions/*.parquet; train with completions_every above 0"
        )
    return read_source(source, "train")[0]


def _required(wanted: Sequence[str], names: Sequence[str], role: str, where: str) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise UserError(
            f"{where}: no column for the {role} among {', '.join(names)}; rename it to {wanted[0]}"
        )
    return found


def _reward_column(names: Sequence[str], given: str | None, where: str) -> str:
    if given is not None:
        if given not in names:
            raise UserError(f"{where}: {unknown_name('column', given, names)}")
        return given
    known = next((name for name in REWARDS if name in names), None)
    if known is not None:
        return known
    ends = [name for name in names if name.endswith("_reward")]
    if len(ends) == 1:
        return ends[0]
    raise UserError(
        f"{where}: no single column for the reward among {', '.join(names)}; "
        "name it with --reward-column"
    )


def _number(value: Any, column: str, number: int) -> float:
    if value is None:
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"row {number + 1} has {value!r} in {column!r}, which is no number; correct it"
        ) from None
    return found if math.isfinite(found) else math.nan


def _scored(
    rows: RawRows, names: Sequence[str], prompt: str, reward_column: str | None, where: str
) -> Scored:
    response = _required(RESPONSES, names, "response", where)
    _check_rows(rows, prompt, response)
    column = _reward_column(names, reward_column, where)
    rewards = np.array([_number(row.get(column), column, i) for i, row in enumerate(rows)])
    # A reward that could not be given says nothing about its response.
    kept = [rows[i] for i in np.flatnonzero(np.isfinite(rewards))]
    rewards = rewards[np.isfinite(rewards)]
    if rewards.size and rewards.min() == rewards.max():
        raise UserError(
            f"{where}: all {rewards.size} rewards are {rewards[0]:g}, so there is nothing to "
            "learn; add responses with other rewards"
        )
    prompts = [row[prompt] for row in kept]
    texts = [completion_text(row[response]) for row in kept]
    return Scored(prompts, texts, rewards, _groups(prompts))


def _preferences(rows: RawRows, prompt: str) -> Preferences:
    _check_rows(rows, prompt, "chosen", "rejected")
    prompts = [row[prompt] for row in rows]
    chosen = [completion_text(row["chosen"]) for row in rows]
    rejected = [completion_text(row["rejected"]) for row in rows]
    return Preferences(prompts, chosen, rejected, _groups(prompts))


def _check_rows(rows: RawRows, prompt: str, *responses: str) -> None:
    """Every row has a prompt and its responses, each a text or a chat."""
    for number, row in enumerate(rows):
        for name in (prompt, *responses):
            if not isinstance(row.get(name), str | list):
                raise UserError(f"row {number + 1} has no text in {name!r}; correct or remove it")


def _groups(prompts: Sequence[Any]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(prompt_key(prompt), len(numbers)) for prompt in prompts], dtype=np.int64
    )


def _check_size(data: Scored | Preferences, where: str) -> None:
    rows, prompts = len(data.groups), len(np.unique(data.groups))
    if rows < FEWEST_ROWS:
        raise UserError(f"{where}: {rows} scored rows are too few; give at least {FEWEST_ROWS}")
    if prompts < FEWEST_PROMPTS:
        raise UserError(
            f"{where}: the rows have {prompts} different prompts; at least {FEWEST_PROMPTS} are "
            "needed, since some are held out"
        )

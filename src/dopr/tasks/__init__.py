"""Tasks as rows of `id, prompt, answer, data_source, extra_info`, from anywhere."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dopr.core.errors import UserError, unknown_name
from dopr.tasks.columns import Row, make_mapper, to_json
from dopr.tasks.gym import gym_rows, list_families
from dopr.tasks.messages import Prompt
from dopr.tasks.rlpt import rlpt_rows
from dopr.tasks.sources import read_source
from dopr.tasks.srl import srl_rows
from dopr.tasks.table import as_dataset

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["content_id", "list_tasks", "load_task"]

logger = logging.getLogger(__name__)

FILE_KINDS = {
    "path/to/file.jsonl": "one JSON object a line",
    "path/to/file.json": "a JSON list of objects",
    "path/to/file.parquet": "a Parquet file, such as verl's",
    "path/to/folder": "a folder written by datasets' save_to_disk",
    "owner/name#config": "a dataset on the Hugging Face Hub (#config where it has several)",
    "tiny:FAMILY/POOL": "a pool made for the tiny model: half, hard or eval of a family",
    "srl:path/to/file.jsonl": "expert solutions as step-wise instances, for the reward srl",
    "rlpt:path/to/file.txt": "sentences of plain text to predict, for the reward rlpt",
    "path/to/file.py:name": "your own function, which returns rows or a datasets.Dataset",
}


def load_task(
    source: str | list[str],
    *,
    split: str = "train",
    limit: int | None = None,
    columns: dict[str, str] | None = None,
    chat: bool = False,
    system_prompt: str | None = None,
    seed: int = 0,
    shares: Sequence[float] | None = None,
    name_sources: bool = False,
) -> "Dataset":
    """Load one source of prompts, or several as one.

    Args:
        source: `gym:NAME?key=value&...`, `tiny:FAMILY/POOL`, `srl:SOURCE?key=value&...`,
            `rlpt:FILE?key=value&...`, a `.jsonl`, `.json` or `.parquet` file, a folder saved by
            `datasets`, a Hub id (`owner/name`, optionally `#config`), `path/to/file.py:name`, or a
            list of these.
        split: which split, where a source has several. reasoning-gym families draw other items for
            "train" than for any other name.
        limit: read and keep at most so many rows: the first ones, shared evenly among several
            sources.
        columns: `{"prompt": NAME, "answer": NAME}` where the names are not recognised.
        chat: make each prompt a list of one user message; a prompt that is a chat stays one either
            way (and where some prompts are chats, all become chats).
        system_prompt: put before each prompt: as a system message in a chat, else as a paragraph.
        seed: of reasoning-gym sources that name none; different seeds draw different items.
        shares: how the rows are mixed, one number a source, in any unit: the first rows of each
            are taken, as many as the scarcest allows. None takes all of them.
        name_sources: add a column `eval_set` that holds the source of each row, as it is named.

    Returns:
        A dataset with the text columns `id`, `answer`, `data_source` and `extra_info` (JSON), and
        `prompt`, a text or a list of `{"role", "content"}` (with tool calls where there are any).
        `id` is the row's own, else a hash of its prompt and answer; where several answers are
        accepted, `answer` is a list. The other columns of files, folders and functions follow under
        their own names, so that a reward reads them as TRL would hand them over. Rows with the same
        prompt and answer are merged, with a warning.

    Raises:
        UserError: a source that is missing, unreadable or empty, a column that is missing, a row
            without prompt or answer or with a picture, or shares that are not one a source.
    """
    named = [source] if isinstance(source, str) else list(source)
    if not named:
        raise UserError("no dataset is named; give at least one")
    _check_shares(shares, named)
    parts = []
    for name in named:
        inner = [_load_rows(url, split, limit, columns, seed) for url in _expand(name)]
        rows = _take(inner, limit)
        parts.append([row | {"eval_set": name} for row in rows] if name_sources else rows)
    rows = _take(parts, limit) if shares is None else _mix(parts, shares, limit)
    try:
        return _as_prompts(rows, " + ".join(named), chat, system_prompt)
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]
        raise UserError(
            f"{' + '.join(named)} holds half of a character (a lone surrogate) in {around!r}; "
            "mend the text"
        ) from None


def _as_prompts(rows: list[Row], source: str, chat: bool, system_prompt: str | None) -> "Dataset":
    """The rows told apart and presented."""
    rows = _merge_duplicates(rows, source)
    _assign_ids(rows)
    chat = chat or any(not isinstance(row["prompt"], str) for row in rows)
    for row in rows:
        row["prompt"] = _present(row["prompt"], chat, system_prompt)
        row["extra_info"] = to_json(row["extra_info"])
    return as_dataset(rows, chat)


def list_tasks() -> list[dict[str, Any]]:
    """What `load_task` accepts: file kinds, then every reasoning-gym family with its options.

    Returns:
        `{"name", "summary", "options": {option: default}}` for each.
    """
    kinds = [{"name": name, "summary": text, "options": {}} for name, text in FILE_KINDS.items()]
    return kinds + list_families()


def content_id(prompt: Prompt, answer: str | list[str]) -> str:
    """16 hexadecimal digits that depend on prompt and answer alone."""
    text, reference = (v if isinstance(v, str) else to_json(v) for v in (prompt, answer))
    return hashlib.sha256(f"{text}\0{reference}".encode()).hexdigest()[:16]


def _expand(source: str) -> list[str]:
    """The sources behind a pool of the tiny model; any other source is itself."""
    if not source.startswith("tiny:"):
        return [source]
    from dopr.tasks.tiny_pools import POOLS

    known = {
        f"tiny:{family}/{name}": urls for family, of in POOLS.items() for name, urls in of.items()
    }
    if source not in known:
        raise unknown_name("pool", source, known)
    return known[source]


def _load_rows(
    source: str, split: str, limit: int | None, columns: dict[str, str] | None, seed: int
) -> list[Row]:
    if source.startswith("gym:"):
        rows = gym_rows(source, split=split, seed=seed, limit=limit)
    elif source.startswith("srl:"):
        rows = srl_rows(source, split=split, columns=columns, limit=limit)
    elif source.startswith("rlpt:"):
        rows = rlpt_rows(source, limit=limit)
    else:
        raw, label = read_source(source, split, limit)
        # Names come from every row: a JSONL file's first row may lack an optional one.
        names = list(dict.fromkeys(name for row in raw for name in row))
        if not raw:
            raise UserError(f"{source!r} has no rows")
        mapper = make_mapper(names, columns, source, label)
        blank = dict.fromkeys(names)
        rows = [mapper({**blank, **row}, number) for number, row in enumerate(raw)]
    if not rows:
        raise UserError(f"{source!r} has no rows")
    return rows


def _take(parts: list[list[Row]], limit: int | None) -> list[Row]:
    """The first rows of each part, so many that all together are at most `limit`."""
    if limit is None:
        return [row for part in parts for row in part]
    quotas = [0] * len(parts)
    room = limit
    while room > 0 and any(quota < len(part) for quota, part in zip(quotas, parts, strict=True)):
        for i, part in enumerate(parts):
            if quotas[i] < len(part) and room > 0:
                quotas[i] += 1
                room -= 1
    return [row for part, quota in zip(parts, quotas, strict=True) for row in part[:quota]]


def _check_shares(shares: Sequence[float] | None, named: list[str]) -> None:
    if shares is None:
        return
    if len(shares) != len(named):
        raise UserError(f"mixing has {len(shares)} shares for {len(named)} datasets; give each one")
    if not all(0 < share < math.inf for share in shares):
        raise UserError(
            "the shares of mixing must be above 0 and finite; leave a dataset out instead"
        )


def _mix(parts: list[list[Row]], shares: Sequence[float], limit: int | None) -> list[Row]:
    """The first rows of each part in these shares, as many as the scarcest part allows."""
    whole = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    if limit is not None:
        whole = min(whole, limit / sum(shares))
    # A hair more: 0.3 / 0.1 must not lose a row to rounding.
    counts = [int(whole * share * (1 + 1e-12)) for share in shares]
    if not all(counts):
        raise UserError(
            "mixing leaves no row of one of the datasets; raise its share, limit or its rows"
        )
    return [row for part, count in zip(parts, counts, strict=True) for row in part[:count]]


def _merge_duplicates(rows: list[Row], source: str) -> list[Row]:
    unique: dict[str, Row] = {}
    for row in rows:
        row["content_id"] = content_id(row["prompt"], row["answer"])
        unique.setdefault(row["content_id"], row)
    merged = len(rows) - len(unique)
    if merged:
        logger.warning("%s: %d of %d rows were duplicates, merged", source, merged, len(rows))
    return list(unique.values())


def _assign_ids(rows: list[Row]) -> None:
    """Rows' own ids where they tell rows apart, with the source's name before them if need be."""
    for row in rows:
        row["id"] = row["id"] or row["content_id"]
    for better in (lambda row: f"{row['data_source']}/{row['id']}", lambda row: row["content_id"]):
        counts = Counter(row["id"] for row in rows)
        repeated = [row for row in rows if counts[row["id"]] > 1]
        for row in repeated:
            row["id"] = better(row)


def _present(prompt: Prompt, chat: bool, system_prompt: str | None) -> Prompt:
    if isinstance(prompt, str):
        if not chat:
            return f"{system_prompt}\n\n{prompt}" if system_prompt else prompt
        prompt = [{"role": "user", "content": prompt}]
    if system_prompt and prompt[0]["role"] != "system":
        return [{"role": "system", "content": system_prompt}, *prompt]
    return prompt

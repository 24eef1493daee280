"""Reads the tables of completions and picks those the page shows."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from dopr.core.strategy import RIGHT
from dopr.report.data import Record, Run, find_key, number

TEXT_LIMIT = 4_000  # characters of one prompt or completion shown
FILE_LIMIT = 200  # tables read per run, evenly over the steps
ID_COLUMNS = ("prompt_id", "id")
# Numeric columns that are not the value of a reward function.
NOT_REWARDS = {"step", "prompt", "completion", "advantage", "advantages", "images", *ID_COLUMNS}
NOT_REWARDS |= {"entropy", "tokens", "num_tokens", "length", "completion_length", "index"}
NOT_REWARDS |= {"answer", "seed", "group", "visits"}
SIDE_WORDS = ("format", "length", "penalty")  # reward functions that do not judge the answer


def completion_table(run: Run, limit: int, ids: "Interner", notes: list[str]) -> Record | None:
    """Up to `limit` completions of a run, evenly over its steps, right and wrong ones alike.

    Returns None if there are none, else an object with `rewards` (names of the reward columns),
    `judges` (those that decide right or wrong), `prompts` (distinct texts), `total` (completions
    on disk), `cut` (whether a text was shortened) and `rows`: `s` step, `i` number of the prompt's
    id or null, `p` index into `prompts`, `c` completion, `r` rewards, `a` advantage, `v` 1 right,
    0 wrong or null unscored, `x` pairs of further columns as text.
    """
    table, total = _read_tables(run, notes)
    if table is None or limit <= 0:
        return None
    rewards = _reward_columns(table, run.config)
    judges = [name for name in rewards if not any(word in name.lower() for word in SIDE_WORDS)]
    judges = judges or rewards
    verdicts = [_verdict(row) for row in _values(table, judges)]
    picked = pick_evenly([int(step) for step in table["step"]], verdicts, limit)
    prompts = Interner()
    shown = table.iloc[picked]
    rows = _rows(shown, rewards, [verdicts[i] for i in picked], prompts, ids)
    texts = [row["c"] for row in rows] + prompts.items
    cut = any(len(text) > TEXT_LIMIT for text in texts)
    for row in rows:
        row["c"] = shorten(row["c"])
    return {
        "rewards": rewards,
        "judges": judges,
        "prompts": [shorten(text) for text in prompts.items],
        "total": total,
        "cut": cut,
        "rows": rows,
    }


class Interner:
    """Gives each distinct text a number, so that the page holds it once."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.items)
            self.items.append(text)
        return self._known[text]


def shorten(text: str) -> str:
    """At most TEXT_LIMIT characters of `text`, from both of its ends."""
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def message_text(value: Any) -> str:
    """A prompt or completion as one text, whether it is a string or a list of chat messages."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return str(value)
    if len(value) == 1 and value[0].get("role") in ("user", "assistant"):
        return _content(value[0])
    return "\n\n".join(f"[{item.get('role', '?')}]\n{_content(item)}" for item in value)


def _content(message: Record) -> str:
    """The text of one chat message; parts that are not text are named by their type."""
    content = message.get("content")
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": str(part)} for part in content]
        content = "\n".join(str(p.get("text") or f"[{p.get('type', 'part')}]") for p in parts)
    text = "" if content is None else str(content)
    calls = message.get("tool_calls")
    if calls is not None and len(calls):
        text += "\n" + json.dumps(list(calls), default=str, ensure_ascii=False)
    return text


def pick_evenly(steps: list[int], verdicts: list[int | None], limit: int) -> list[int]:
    """Positions of at most `limit` rows, in order of step.

    Every step gives about the same number, and within a step right and wrong rows alternate.
    With more steps than `limit`, evenly spaced steps give one row each, right and wrong in turn.
    """
    by_step: dict[int, list[int]] = defaultdict(list)
    for position, step in enumerate(steps):
        by_step[step].append(position)
    queues = []
    for turn, step in enumerate(sorted(by_step)):
        right = [i for i in by_step[step] if verdicts[i] == 1]
        other = [i for i in by_step[step] if verdicts[i] != 1]
        pair = (right, other) if turn % 2 == 0 else (other, right)
        queue = [i for both in zip(*pair, strict=False) for i in both]
        shorter = min(len(right), len(other))
        queues.append(queue + pair[0][shorter:] + pair[1][shorter:])
    picked: list[int] = []
    while queues and len(picked) < limit:
        room = limit - len(picked)
        if room < len(queues):
            queues = [queues[i] for i in np.linspace(0, len(queues) - 1, room).astype(int)]
        picked.extend(queue.pop(0) for queue in queues)
        queues = [queue for queue in queues if queue]
    return sorted(picked, key=lambda i: (steps[i], i))


def _read_tables(run: Run, notes: list[str]) -> tuple[pd.DataFrame | None, int]:
    """The run's completion tables as one, and how many rows there are on disk.

    Of more than FILE_LIMIT files only evenly spaced ones are read. Unreadable ones are noted.
    """
    paths = sorted(run.completions.glob("*.parquet")) if run.completions.is_dir() else []
    sizes: dict[Path, int] = {}
    for path in paths:
        try:
            sizes[path] = pq.read_metadata(path).num_rows
        except Exception:  # a file being written fails in pyarrow in many ways
            notes.append(f"{run.label}: completions/{path.name} could not be read.")
    good = [path for path in paths if sizes.get(path)]
    if len(good) > FILE_LIMIT:
        good = [good[i] for i in np.linspace(0, len(good) - 1, FILE_LIMIT).astype(int)]
    frames = []
    for path in good:
        try:
            frame = pd.read_parquet(path)
        except Exception:
            notes.append(f"{run.label}: completions/{path.name} could not be read.")
            continue
        if "completion" not in frame.columns:
            notes.append(f"{run.label}: completions/{path.name} has no column `completion`.")
            continue
        steps = frame["step"] if "step" in frame.columns else pd.Series(0, index=frame.index)
        frames.append(frame.assign(step=pd.to_numeric(steps, errors="coerce").fillna(0)))
    if not frames:
        return None, 0
    return pd.concat(frames, ignore_index=True), sum(sizes.values())


def _reward_columns(table: pd.DataFrame, config: Record) -> list[str]:
    """The columns that hold rewards: those the configuration names, or else the numeric ones."""
    numeric = [
        str(name)
        for name in table.columns
        if str(name) not in NOT_REWARDS
        and (pd.api.types.is_numeric_dtype(table[name]) or _all_numbers(table[name]))
    ]
    named = find_key(config, "rewards", "reward_funcs", "reward_functions", "reward")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    wanted = {str(name).rsplit(":", 1)[-1].rsplit(".", 1)[-1] for name in names}
    return [name for name in numeric if name in wanted] or numeric


def _all_numbers(column: pd.Series) -> bool:
    """Whether an object column holds numbers and None only (a reward function that abstains)."""
    present = column.dropna()
    if present.empty:
        return "reward" in str(column.name)
    return all(isinstance(v, (int, float, np.number)) for v in present)


def _values(table: pd.DataFrame, columns: list[str]) -> list[list[float | None]]:
    """The numbers of some columns, one list a row; None where there is no finite number."""
    if not columns:
        return [[] for _ in range(len(table))]
    lists = [[number(v) for v in table[name]] for name in columns]
    return [list(row) for row in zip(*lists, strict=True)]


def _verdict(rewards: list[float | None]) -> int | None:
    """1 if the rewards that judge the answer sum to one or more, 0 if not, None without any."""
    present = [value for value in rewards if value is not None]
    return int(sum(present) >= RIGHT) if present else None


def _rows(
    table: pd.DataFrame,
    rewards: list[str],
    verdicts: list[int | None],
    prompts: Interner,
    ids: Interner,
) -> list[Record]:
    """The rows of the page, with texts in full length; see `completion_table` for their keys."""
    known = {"step", "prompt", "completion", "advantage", "advantages", "images", *rewards}
    id_column = next((name for name in ID_COLUMNS if name in table.columns), None)
    extras = [n for n in table.columns if str(n) not in known and n != id_column][:6]
    advantage = next((n for n in ("advantage", "advantages") if n in table.columns), None)
    values = _values(table, rewards)
    rows = []
    for position, (_, row) in enumerate(table.iterrows()):
        a = number(row[advantage]) if advantage else None
        pairs = [(str(name), message_text(row[name])[:200]) for name in extras]
        rows.append(
            {
                "s": int(row["step"]),
                "i": ids(str(row[id_column])) if id_column else None,
                "p": prompts(message_text(row["prompt"])) if "prompt" in table.columns else None,
                "c": message_text(row["completion"]),
                "r": [None if v is None else round(v, 4) for v in values[position]],
                "a": None if a is None else round(a, 4),
                "v": verdicts[position],
                "x": [pair for pair in pairs if pair[1] not in ("", "None", "nan")],
            }
        )
    return rows

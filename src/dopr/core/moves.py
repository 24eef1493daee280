"""A run goes on with other rows: what is known of a prompt follows it to its new row.

Rows may have been reordered, added or taken away since a checkpoint was written. Prompts are told
apart by their ids, of which the checkpoint holds a key each.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError

Ids = NDArray[np.int64]

_KIND = "prompts"  # in the metadata of a strategy's field


def per_prompt(fill: float) -> dict[str, Any]:
    """Metadata of a strategy's field that holds an array with a row for each prompt of the pool.

    Args:
        fill: of prompts that are new.
    """
    return {_KIND: ("row", fill)}


def prompt_ids(*aligned: str) -> dict[str, Any]:
    """Metadata of a field that holds an array of prompt ids, or a list of groups.

    Args:
        aligned: names of fields with an entry for each of them, which go with them.
    """
    return {_KIND: ("ids", aligned)}


def no_prompts() -> dict[str, Any]:
    """Metadata of a field whose arrays or lists are not about single prompts, or go with others."""
    return {_KIND: ("none", ())}


def prompt_keys(names: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each prompt id, shape (size,), equal for equal ids at their first, second, ...
    place; 8 bytes a prompt, where the ids of a million prompts take tens of megabytes.
    """
    keys = np.empty(len(names), dtype=np.uint64)
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        count = seen[name] = seen.get(name, 0) + 1
        text = name if count == 1 else f"{name}\0{count}"
        keys[i] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return keys


@dataclass(frozen=True, eq=False)
class Moves:
    """Where the prompts of a saved pool are in the pool of now.

    Attributes:
        row: shape (saved size,), each saved prompt's row now, -1 where it is gone.
        size: of the pool now.
        categories: the kind of each saved prompt and of each prompt now.
    """

    row: Ids
    size: int
    categories: tuple[Ids, Ids] | None = None

    @classmethod
    def between(
        cls,
        saved: NDArray[np.uint64],
        now: NDArray[np.uint64],
        categories: tuple[Ids, Ids] | None = None,
    ) -> "Moves | None":
        """The moves from one pool to another by `prompt_keys`; None where nothing has moved.

        Raises:
            UserError: not one of the prompts is in both.
        """
        if np.array_equal(saved, now):
            return None
        order = np.argsort(now, kind="stable")
        place = np.searchsorted(now, saved, sorter=order).clip(max=len(now) - 1)
        row = np.where(now[order[place]] == saved, order[place], -1)
        if (row < 0).all():
            raise UserError(
                f"none of the {len(now)} prompts is among the {len(saved)} of the checkpoint: "
                "their ids differ; resume with the dataset of the run, or start a new run in "
                "another output_dir"
            )
        return cls(row.astype(np.int64), len(now), categories)

    @property
    def new(self) -> Ids:
        """Rows of the prompts that were not in the saved pool."""
        is_new = np.ones(self.size, dtype=bool)
        is_new[self.row[self.row >= 0]] = False
        return np.flatnonzero(is_new)

    @property
    def gone(self) -> int:
        """How many prompts of the saved pool are not there any more."""
        return int((self.row < 0).sum())

    @property
    def told(self) -> str:
        """The moves in one sentence."""
        kept = len(self.row) - self.gone
        return (
            f"the dataset has changed since the checkpoint: {kept} prompts keep what is known of "
            f"them, {len(self.new)} are new, {self.gone} are gone"
        )

    def rows(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """An array with a row a prompt, shape (saved size, ...), in the order of now."""
        moved = np.full((self.size, *values.shape[1:]), fill, dtype=values.dtype)
        there = self.row >= 0
        moved[self.row[there]] = values[there]
        return moved

    def ids(self, ids: Ids) -> tuple[Ids, NDArray[np.bool_]]:
        """Prompt ids of now for saved ones that are still there, and which of them are, (k,)."""
        moved = self.row[ids]
        return moved[moved >= 0], moved >= 0


def move_fields(strategy: Any, moves: Moves) -> None:
    """Move a strategy's state, as the metadata of its fields says.

    Numbers, texts and empty containers stay, groups and dicts of groups by prompt id move. A field
    that holds anything else and says nothing is refused: nobody knows what its entries stand for.

    Args:
        strategy: with its state as it was saved.

    Raises:
        UserError: such a field.
    """
    own = [f for f in fields(strategy) if not f.init and f.name != "_last"]
    kinds = {f.name: f.metadata.get(_KIND) for f in own}
    aligned = {n for kind in kinds.values() if kind and kind[0] == "ids" for n in kind[1]}
    for name, kind in kinds.items():
        value = getattr(strategy, name)
        if name in aligned or _is_empty(value):
            continue
        if kind is None:
            setattr(strategy, name, _moved_groups(value, moves, strategy.name, name))
        elif kind[0] == "row":
            setattr(strategy, name, moves.rows(value, kind[1]))
        elif kind[0] == "ids":
            moved, there = _moved_ids(value, moves)
            setattr(strategy, name, moved)
            for other in kind[1]:
                setattr(strategy, other, getattr(strategy, other)[there])


def _is_empty(value: Any) -> bool:
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return True
    return hasattr(value, "__len__") and len(value) == 0


def _moved_ids(value: Any, moves: Moves) -> tuple[Any, NDArray[np.bool_]]:
    if isinstance(value, np.ndarray):
        return moves.ids(value)
    _, there = moves.ids(np.array([group.prompt_id for group in value], dtype=np.int64))
    return [moved for group in value if (moved := _moved_group(group, moves))], there


def _moved_groups(value: Any, moves: Moves, strategy: str, name: str) -> Any:
    """A list of groups, or a dict of them by prompt id, without those that are gone."""
    if isinstance(value, list) and all(map(_is_group, value)):
        return _moved_ids(value, moves)[0]
    if isinstance(value, Mapping) and all(
        _is_group(group) and key == str(group.prompt_id) for key, group in value.items()
    ):
        kept = [moved for group in value.values() if (moved := _moved_group(group, moves))]
        return {str(group.prompt_id): group for group in kept}
    raise UserError(
        f"strategy {strategy!r} keeps {name.lstrip('_')!r} by the rows of its dataset, which has "
        "changed since the checkpoint; resume with the same rows in the same order"
    )


def _is_group(value: Any) -> bool:
    return is_dataclass(value) and hasattr(value, "prompt_id")


def _moved_group(group: Any, moves: Moves) -> Any:
    row = int(moves.row[group.prompt_id])
    return replace(group, prompt_id=row) if row >= 0 else None

"""Groups as plain values and back, for checkpoints."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from dopr.core.strategy import Group

Handles = Callable[[Any], Any]

_GROUP = "__group__"


def pack_groups(value: Any, pack: Handles) -> Any:
    """The value with every group in its dicts and lists as a dict; tuples become lists.

    Args:
        pack: makes plain values of a group's handle.
    """
    if isinstance(value, Group):
        plain = {f.name: getattr(value, f.name) for f in fields(value)}
        return {_GROUP: plain | {"handle": pack(value.handle)}}
    if isinstance(value, dict):
        return {key: pack_groups(inner, pack) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack_groups(inner, pack) for inner in value]
    return value


def unpack_groups(value: Any, unpack: Handles) -> Any:
    """What `pack_groups` packed; `unpack` makes handles of what `pack` gave."""
    if isinstance(value, dict):
        if set(value) == {_GROUP}:
            plain = value[_GROUP]
            return Group(**(plain | {"handle": unpack(plain["handle"])}))
        return {key: unpack_groups(inner, unpack) for key, inner in value.items()}
    if isinstance(value, list):
        return [unpack_groups(inner, unpack) for inner in value]
    return value

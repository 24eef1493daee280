"""`KIND:NAME?key=value&...`: a source's options as a dataclass."""

import typing
from typing import Any, TypeVar
from urllib.parse import unquote

from dopr.core.configuration import build, read_value
from dopr.core.errors import UserError, unknown_name

T = TypeVar("T")


def parse_source(source: str, cls: type[T]) -> tuple[str, T]:
    """The name and the options of a source.

    Args:
        source: `KIND:NAME?key=value&...`; values may be percent-encoded.
        cls: a dataclass with a default for every option.

    Raises:
        UserError: no name, an unknown option, or a value of the wrong type.
    """
    kind, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    if not name:
        raise UserError(f"{source!r} names no file; write {kind}:path/to/file")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if key not in hints:
            raise unknown_name(f"option of {kind}:", key, hints)
        if not equals:
            raise UserError(f"{source!r}: the option {key!r} has no value; write {key}=...")
        text = unquote(text)
        values[key] = text if hints[key] is str else read_value(text)
    return name, build(cls, values, f"{kind}:")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a word that is not among those an option takes.

    Raises:
        UserError: naming the nearest one.
    """
    if value not in known:
        raise unknown_name(name, value, known)

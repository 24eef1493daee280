"""From a YAML file and dotted overrides to a dataclass.

`build` refuses unknown keys (the nearest known one is offered) and values of the wrong type.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

from dopr.core.errors import UserError, unknown_name

T = TypeVar("T")


def at_least(settings: Any, lowest: int, *names: str) -> None:
    """Refuse settings below `lowest`; null passes.

    Raises:
        UserError: naming the first one that is too small.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise UserError(f"{name} is {value}; it must be at least {lowest}")


def check_choices(settings: Any, cls: type) -> None:
    """Refuse words that a setting does not know: each field's `choices` stand in its metadata.

    Args:
        settings: the object.
        cls: whose fields are looked at, the object's class or a base of it.

    Raises:
        UserError: naming the setting and the nearest word it knows.
    """
    for spec in dataclasses.fields(cls):
        value, known = getattr(settings, spec.name), spec.metadata.get("choices")
        if known is not None and isinstance(value, str) and value not in known:
            raise unknown_name(spec.name, value, known)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: missing, unreadable, or something else than a mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no configuration file {str(path)!r}; check --config")
    import yaml  # here: what builds settings from plain values alone needs no YAML

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} must hold `key: value` lines")
    return content


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--a.b", "1", "--c=x"]` as `{"a.b": 1, "c": "x"}`; values are read as YAML.

    Raises:
        UserError: a value is missing or something does not begin with `--`.
    """
    import yaml

    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise UserError(f"cannot read {word!r}; settings are given as `--name value`")
        name, separator, text = word[2:].partition("=")
        if not separator:
            if not rest:
                raise UserError(f"--{name} needs a value")
            text = rest.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        # `gym:NAME` and the like must stay text even where YAML could read more into them.
        found[name.replace("-", "_")] = (
            text if isinstance(value, dict) and text[:1] != "{" else value
        )
    return found


def parse_named_options(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["dopr.candidates=8"]` as `{"dopr": {"candidates": 8}}`; values are read as YAML.

    Raises:
        UserError: a word has another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        target, equals, text = word.partition("=")
        name, _, option = target.rpartition(".")
        if not (name and option and equals):
            raise UserError(f"cannot read {word!r}; options are given as NAME.option=value")
        value = parse_overrides([f"--value={text}"])["value"]
        found.setdefault(name, {})[option.replace("-", "_")] = value
    return found


def apply_overrides(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with dotted keys set.

    Raises:
        UserError: a key leads into something that is not a mapping.
    """
    result = _copy(mapping)
    for dotted, value in overrides.items():
        *folders, last = dotted.split(".")
        place = result
        for folder in folders:
            if place.get(folder) is None:
                place[folder] = {}
            place = place[folder]
            if not isinstance(place, dict):
                raise UserError(f"--{dotted} cannot be set: {folder!r} is not a mapping")
        place[last] = value
    return result


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it; mappings are merged key by key."""
    result = _copy(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else _copy(value)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def to_mapping(settings: Any) -> dict[str, Any]:
    """A settings object as plain values, ready for YAML or JSON."""
    return dataclasses.asdict(settings)


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Plain values as YAML, in the order given."""
    import yaml

    return yaml.safe_dump(_copy(mapping), sort_keys=False, allow_unicode=True, width=100)


# -- typed building --------------------------------------------------------------------------


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Make a dataclass of settings from a mapping.

    Args:
        cls: a dataclass; fields that are dataclasses themselves take nested mappings.
        where: the path of the mapping in the file, for messages.

    Raises:
        UserError: an unknown key, a value of the wrong type, or a field that is missing.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, value in mapping.items():
        path = f"{where}{key}"
        if key not in known:
            raise unknown_name("setting", path, [f"{where}{name}" for name in known])
        values[key] = _convert(value, hints[key], path)
    for name, spec in known.items():
        required = spec.default is dataclasses.MISSING
        if required and spec.default_factory is dataclasses.MISSING and name not in values:
            raise UserError(f"the setting `{where}{name}` is missing")
    return cls(**values)


def _convert(value: Any, kind: Any, path: str) -> Any:
    """The value as the annotated type; only an exact reading of it is accepted."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, choices, kind, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, _mapping(value, path), f"{path}.")
    if origin is dict:
        return {
            str(k): _convert(v, choices[1], f"{path}.{k}") for k, v in _mapping(value, path).items()
        }
    if origin in (list, Sequence):
        if not isinstance(value, list):
            raise _wrong_type(value, kind, path)
        return [_convert(item, choices[0], f"{path}[{i}]") for i, item in enumerate(value)]
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            raise _wrong_type(value, kind, path) from None
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, kind, path)
    return value


def _convert_union(value: Any, choices: Iterable[Any], kind: Any, path: str) -> Any:
    if value is None and type(None) in choices:
        return None
    real = [choice for choice in choices if choice is not type(None)]
    exact = [c for c in real if type(value) is (typing.get_origin(c) or c)]
    if not exact and len(real) > 1:
        raise _wrong_type(value, kind, path)
    return _convert(value, (exact or real)[0], path)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"`{path}` must be a mapping of settings, not {value!r}")
    return value


def _wrong_type(value: Any, kind: Any, path: str) -> UserError:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    parts = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else [kind]
    words = []
    for part in parts:
        if part is not type(None):
            words.append(
                "a list" if typing.get_origin(part) is list else names.get(part, str(part))
            )
    return UserError(f"`{path}` must be {' or '.join(words)}, not {value!r}")

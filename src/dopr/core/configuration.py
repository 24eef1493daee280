"""From a YAML file and dotted overrides to a dataclass.

`build` refuses unknown keys (the nearest known one is offered) and values of the wrong type.
"""

import dataclasses
import functools
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

from dopr.core.errors import UserError, unknown_name

T = TypeVar("T")


_MOST_SEED = 2**32 - 1  # what NumPy takes
MOST_THREADS = 1024  # torch crashes somewhere above


def at_least(settings: Any, lowest: float, *names: str, where: str = "") -> None:
    """Refuse settings below `lowest` or not finite; null passes.

    Args:
        settings: the object.
        lowest: the least that is allowed.
        names: its fields.
        where: what stands before their names in messages, such as `eval.`.

    Raises:
        UserError: naming the first one that is too small.
    """
    _within(settings, names, where, lambda value: value >= lowest, f"be at least {lowest}")


def above_zero(settings: Any, *names: str, where: str = "") -> None:
    """Refuse settings that are not above 0, or not finite; null passes; see `at_least`.

    Raises:
        UserError: naming the first one.
    """
    _within(settings, names, where, lambda value: value > 0, "be above 0")


def at_most(settings: Any, highest: float, *names: str, where: str = "") -> None:
    """Refuse settings above `highest`, or not finite; null passes; see `at_least`.

    Raises:
        UserError: naming the first one.
    """
    _within(settings, names, where, lambda value: value <= highest, f"be at most {highest}")


def check_seeds(seeds: Mapping[str, int | None]) -> None:
    """Refuse seeds that NumPy or torch cannot take; null passes.

    Args:
        seeds: what each is called in messages, and its value.

    Raises:
        UserError: naming the first one.
    """
    for name, seed in seeds.items():
        if seed is not None and not 0 <= seed <= _MOST_SEED:
            raise UserError(f"{name} is {seed}; it must lie between 0 and {_MOST_SEED}")


def _within(
    settings: Any, names: Iterable[str], where: str, fits: Callable[[Any], bool], said: str
) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not isinstance(value, numbers.Real):
            raise UserError(f"{where}{name} is {value!r}; it must be a number")
        if value is not None and not (math.isfinite(value) and fits(value)):
            raise UserError(f"{where}{name} is {value}; it must {said}")


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
        content = read_yaml(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} must hold `key: value` lines")
    return content


@functools.cache
def _dialect() -> tuple[Any, Any]:
    """YAML that knows 1e-4 for a number, as YAML 1.2 does, and no dates: no setting is one.

    Returns a loader and a dumper.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, form) for tag, form in known if tag != "tag:yaml.org,2002:timestamp"]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    class Dumper(yaml.SafeDumper):
        pass

    number = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    for cls in (Loader, Dumper):
        cls.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader, Dumper


def read_yaml(text: str) -> Any:
    """A YAML document as plain values.

    Raises:
        yaml.YAMLError: it is none.
    """
    import yaml

    return yaml.load(text, Loader=_dialect()[0])


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--a.b", "1", "--c=x"]` as `{"a.b": 1, "c": "x"}`; values are read as YAML.

    Raises:
        UserError: a value is missing or something does not begin with `--`.
    """
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
        found[name.replace("-", "_")] = read_value(text)
    return found


def read_value(text: str) -> Any:
    """What is written for an option, read as YAML.

    Text stays as it is, whatever YAML could read into it: `gym:NAME`, a `#`, the ends of lines.
    """
    import yaml

    try:
        value = read_yaml(text)
    except (yaml.YAMLError, RecursionError):
        return text
    quoted = text[:1] in ("'", '"', "|", ">")
    as_it_is = isinstance(value, str) and not quoted
    return text if as_it_is or (isinstance(value, dict) and text[:1] != "{") else value


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
        found.setdefault(name, {})[option.replace("-", "_")] = read_value(text)
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

    form: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 100}
    return str(yaml.dump(_copy(mapping), Dumper=_dialect()[1], **form))


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
            number = float(value)
        except (ValueError, OverflowError):
            raise _wrong_type(value, kind, path) from None
        if not math.isfinite(number):
            raise _wrong_type(value, kind, path)
        return number
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, kind, path)
    return value


def check_value(value: Any, kind: Any, path: str) -> None:
    """Refuse a value that a library's field of plain numbers, or true and false, cannot hold.

    Args:
        value: what is given.
        kind: the field's annotation; one of another sort is the library's own business.
        path: the setting's name, for messages.

    Raises:
        UserError: naming the setting and its kind.
    """
    union = typing.get_origin(kind) in (Union, types.UnionType)
    kinds = set(typing.get_args(kind)) if union else {kind}
    if kinds <= {bool, int, float, type(None)} and not (value is None and type(None) in kinds):
        whole = isinstance(value, float) and value.is_integer()
        if not (int in kinds and float not in kinds and whole):  # peft calls a factor an int
            _convert(value, kind, path)


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

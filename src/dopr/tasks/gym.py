"""`gym:NAME?key=value&...`: rows from reasoning-gym's procedural families."""

import ast
import dataclasses
import datetime
import enum
import types
import typing
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from dopr.core.errors import UserError, unknown_name
from dopr.rewards.gym import CONFIG_KEY, families
from dopr.tasks.columns import Row, to_json

# reasoning-gym draws item i with Random(seed + i), so neighbouring seeds share nearly every item.
# Seeds this far apart share none, for fewer items than this.
_SEED_STRIDE = 1_000_003


def gym_rows(source: str, *, split: str, seed: int, limit: int | None) -> list[Row]:
    """The rows of a family, with the generator's metadata as `extra_info`.

    Args:
        source: `gym:NAME?key=value&...`; the keys are the family's options, `size` and `seed`.
        split: "train" or another name; another split draws other items than "train".
        seed: used where the source names none; different seeds draw different items.
        limit: generate at most so many.

    Raises:
        UserError: unknown family or option, a value that does not fit, or a family that refuses its
            options.
    """
    name, _, query = source.removeprefix("gym:").partition("?")
    if name not in families():
        raise unknown_name("reasoning-gym family", name, families())
    options = parse_options(name, query)
    given = {
        key: value
        for key, value in options.items()
        if key not in ("size", "seed") and _is_json(value)  # what the scorer is made with again
    }
    if limit is not None:
        options["size"] = min(limit, options.get("size", _default_size(name)))
    options.setdefault("seed", ((2 * seed + (split != "train")) * _SEED_STRIDE) % 2**31)
    import reasoning_gym

    try:
        dataset = reasoning_gym.create_dataset(name, **options)
        items = [dataset[i] for i in range(len(dataset))]
    except Exception as error:  # a family's own check of its options, or a generator that gave up
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source!r}: reasoning-gym refuses these options ({reason})") from error
    extra = {CONFIG_KEY: given} if given else {}
    return [
        {
            "id": None,
            "prompt": item["question"],
            "answer": "" if item["answer"] is None else str(item["answer"]),
            "data_source": f"gym:{name}",
            "extra_info": {**item["metadata"], **extra},
        }
        for item in items
    ]


def parse_options(name: str, query: str) -> dict[str, Any]:
    """`key=value&...` as keyword arguments for a family's configuration.

    Raises:
        UserError: an unknown key, or a value that does not fit the option's type.
    """
    fields = config_fields(name)
    types_ = typing.get_type_hints(_config_class(name))
    options = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if key not in fields:
            raise unknown_name(f"option of gym:{name}", key, fields)
        if not equals:
            raise UserError(f"gym:{name}: option {key!r} has no value; write {key}=VALUE")
        try:
            options[key] = _convert(unquote(text), types_[key], fields[key])
        except (ValueError, SyntaxError, KeyError):
            wanted = getattr(types_[key], "__name__", str(types_[key])).replace("typing.", "")
            raise UserError(
                f"gym:{name}: option {key!r} is {wanted}, not {unquote(text)!r}"
            ) from None
    return options


def config_fields(name: str) -> dict[str, Any]:
    """A family's options and their defaults."""
    defaults = {}
    for field in dataclasses.fields(_config_class(name)):
        if field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
        else:
            defaults[field.name] = None if field.default is dataclasses.MISSING else field.default
    return defaults


def list_families() -> list[dict[str, Any]]:
    """Every family as `{"name", "summary", "options": {option: default}}`."""
    from reasoning_gym.factory import DATASETS

    listed = []
    for name in families():
        dataset, config = DATASETS[name]
        options = {key: _plain(value) for key, value in config_fields(name).items()}
        listed.append(
            {"name": f"gym:{name}", "summary": _summary(name, dataset, config), "options": options}
        )
    return listed


def _is_json(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_json(item) for item in value)
    return isinstance(value, str | int | float | None) and not isinstance(value, enum.Enum)


def _config_class(name: str) -> Any:
    from reasoning_gym.factory import DATASETS

    return DATASETS[name][1]


def _default_size(name: str) -> int:
    return int(config_fields(name).get("size") or 500)


def _summary(name: str, *classes: type) -> str:
    for cls in classes:
        first = (cls.__doc__ or "").strip().split("\n")[0].strip().rstrip(":.")
        if first and not first.startswith(f"{cls.__name__}("):
            return first
    return name.replace("_", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, enum.Enum) else to_json(str(value)).strip('"')


def _convert(text: str, wanted: Any, default: Any) -> Any:
    """A value of the type an option declares, without evaluating anything."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in arguments:
            return None
        return _convert(text, next(a for a in arguments if a is not type(None)), default)
    if origin is typing.Literal:
        return {str(choice): choice for choice in arguments}[text]
    if wanted is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if wanted in (int, float, str):
        return wanted(text)
    if wanted in (datetime.date, datetime.time):
        return wanted.fromisoformat(text)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return wanted[text]
    container = origin or wanted
    if container in (list, tuple) or (origin and issubclass(origin, Sequence)):
        items = _items(text, arguments, default)
        return tuple(items) if container is tuple else items
    raise ValueError(text)


def _items(text: str, arguments: tuple[Any, ...], default: Any) -> list[Any]:
    """A list written `a,b,c`, or as a Python literal where its items are lists themselves."""
    if text.startswith(("[", "(")):
        return list(ast.literal_eval(text))
    kind = arguments[0] if arguments else (type(default[0]) if default else str)
    return [_convert(item.strip(), kind, None) for item in text.split(",") if item.strip()]

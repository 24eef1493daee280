"""Runs in the child: a user's reward function. Imports nothing from `dopr` (see worker.py)."""

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_MOST = 3.4028235e38  # of float32, in which TRL holds rewards


def load(options: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that calls the user's reward, of the file named in `options`."""
    path, name = Path(options["path"]), options["name"]
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"dopr_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if function is None:
        raise LookupError(f"{path.name} has no {name!r}")
    if not callable(function):
        raise TypeError(f"{name!r} in {path.name} is not callable")

    def score(request: dict[str, Any]) -> dict[str, Any]:
        metrics: list[tuple[str, float]] = []
        extras: list[tuple[str, list[Any]]] = []
        loggers = {
            "log_metric": lambda key, value: metrics.append((key, float(value))),
            "log_extra": lambda key, values: extras.append((key, [str(v) for v in values])),
        }
        asked = {key: loggers[key] for key in request["loggers"]}
        rewards = function(**request["arguments"], **asked)
        if inspect.iscoroutine(rewards):
            rewards = asyncio.run(rewards)
        return {"rewards": _plain_list(rewards), "metrics": metrics, "extras": extras}

    return score


def _plain_list(rewards: Any) -> Any:
    """The rewards as JSON, or {"bad": type name} where they are no sequence of them."""
    # What a text or a mapping yields is no reward, however much it looks like one.
    if isinstance(rewards, (str, bytes, Mapping)):
        return {"bad": type(rewards).__name__}
    try:
        each = iter(rewards)
    except TypeError:
        return {"bad": type(rewards).__name__}
    return [_plain(reward) for reward in each]


def _plain(reward: Any) -> Any:
    """A reward as JSON: a number, "nan" (not finite as float32), None, or {"bad": type name}."""
    if reward is None:
        return None
    if isinstance(reward, str):
        return {"bad": "str"}
    try:
        number = float(reward)
    except (TypeError, ValueError):
        return {"bad": type(reward).__name__}
    return number if abs(number) <= _MOST else "nan"

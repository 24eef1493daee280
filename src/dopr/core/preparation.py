"""From a strategy as its user made it to a copy that is ready to run."""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dopr.core.strategy import Strategy, require

S = TypeVar("S", bound=Strategy)


@dataclass(frozen=True)
class Sizes:
    """What an engine has for a strategy that leaves its sizes open.

    Attributes:
        num_generations: rollouts in its ordinary group; None leaves the strategy's.
        prompts_per_step: prompts that its batch holds; None where there is no batch.
    """

    num_generations: int | None = None
    prompts_per_step: int | None = None


def leaves_prompts_open(strategy: Strategy) -> bool:
    """Whether it has an option `prompts_per_step` that nobody has set."""
    return getattr(strategy, "prompts_per_step", 1) is None


def prepare(strategy: S, sizes: Sizes) -> S:
    """A copy with every size filled in; the object itself, and its state, stay as they are.

    Args:
        strategy: as its user made it.
        sizes: what stands for the sizes that nobody has set.

    Raises:
        UserError: an option of the wrong kind.
    """
    options = {f.name: getattr(strategy, f.name) for f in fields(strategy) if f.init}
    check_options(type(strategy), options)
    filled: dict[str, Any] = {}
    if sizes.num_generations is not None and _leaves_group_open(strategy):
        filled["num_generations"] = sizes.num_generations
    if leaves_prompts_open(strategy):
        filled["prompts_per_step"] = _prompts(strategy, sizes.prompts_per_step)
    ready = copy(strategy)
    for name, value in filled.items():
        setattr(ready, name, value)
    ready.load_state_dict(strategy.state_dict())
    return ready


def _prompts(strategy: Strategy, room: int | None) -> int:
    """What a `prompts_per_step` of None stands for."""
    if strategy.fills_batch:
        return room or 1
    return strategy.usual_prompts if room is None else min(strategy.usual_prompts, room)


def _leaves_group_open(strategy: Strategy) -> bool:
    own = type(strategy).__dataclass_fields__["num_generations"]
    usual = Strategy.__dataclass_fields__["num_generations"]
    named = "num_generations" in strategy._named or strategy.num_generations != usual.default
    return own is usual and not named  # a class may have a default of its own


def check_options(cls: type[Strategy], options: Mapping[str, Any]) -> None:
    """Refuse an option of the wrong kind, such as 1.5 prompts, before it fails in a step.

    Args:
        cls: whose options they are.
        options: by name; names that `cls` does not know are passed over.

    Raises:
        UserError: names the first such option.
    """
    try:
        hints = get_type_hints(cls)
    except NameError:  # a strategy of the user's own whose annotations are for type checkers alone
        return
    for name, value in options.items():
        hint = hints.get(name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and NoneType in kinds:
            continue
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if float in kinds:
            require(number, f"{name} is {value!r}; it must be a number")
        elif int in kinds:
            require(whole, f"{name} is {value!r}; it must be a whole number")
        elif bool in kinds:
            require(isinstance(value, bool), f"{name} is {value!r}; it must be true or false")
        if name == "num_generations":
            require(value >= 1, f"num_generations is {value}; it must be at least 1")

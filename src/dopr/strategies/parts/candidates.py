"""What several strategies do with candidates: draw new ones, take the nearest, split a group."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dopr.core.strategy import Group, Request, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.turns import draw_by_weight

_SORTED_UP_TO = 4096  # scores; beyond that only the best are sorted


def draw_new(prompts: PromptStream, count: int, excluded: Iterable[int] = ()) -> list[int]:
    """The next `count` distinct prompts that are not excluded.

    Fewer, perhaps none, where a whole pass over the pool has no more of them.

    Args:
        prompts: the stream to draw from.
        count: prompts wanted.
        excluded: prompts that will not do, such as those already in the step.
    """
    taken = set(excluded)
    chosen: list[int] = []
    left = 2 * prompts.size  # draws that start in the middle of an epoch still see every prompt
    while len(chosen) < count and left > 0:
        drawn = prompts.draw(min(count - len(chosen), left))
        left -= max(len(drawn), 1)
        for i in map(int, drawn):
            if i not in taken:
                taken.add(i)
                chosen.append(i)
    return chosen


def withheld_ids(prompts: PromptStream, count: int) -> NDArray[np.int64]:
    """What a choice over the whole pool is to leave out: prompts whose rollouts are on their way.

    None where fewer than `count` others are left.

    Args:
        prompts: the stream, which would not offer them.
        count: prompts wanted.
    """
    if prompts.size - len(prompts.withheld) < count:
        return np.empty(0, dtype=np.int64)
    return np.fromiter(prompts.withheld, dtype=np.int64)


def nearest(
    values: NDArray[np.float64],
    target: float,
    count: int,
    rng: np.random.Generator,
    tau: float = 0.0,
) -> NDArray[np.int64]:
    """Positions of the `count` values nearest to a target, nearest first; ties fall by `rng`.

    With a temperature they are drawn instead, without replacement, by
    softmax(-|value - target| / tau).

    Args:
        values: shape (k,).
        target: what to be near to, in the same unit.
        count: positions wanted; all k where there are fewer.
        rng: the stream's generator.
        tau: the temperature, in the values' unit; 0 takes the nearest.
    """
    distances = np.abs(values - target)
    if tau > 0:
        return draw_by_weight(-distances / tau, count, rng)
    return np.lexsort((rng.random(len(values)), distances))[:count]


def best(scores: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the `count` highest scores, highest first; ties fall by `rng`.

    Args:
        scores: shape (k,).
        count: positions wanted; all k where there are fewer.
        rng: the stream's generator.
    """
    if count == 1:
        tied = (scores == scores.max()).nonzero()[0]
        # NumPy draws nothing for a single one either, but takes its time.
        return tied[rng.integers(len(tied), size=1)] if len(tied) > 1 else tied
    if len(scores) <= _SORTED_UP_TO:
        return np.lexsort((rng.random(len(scores)), -scores))[:count]
    count = min(count, len(scores))
    # Sorting a million would take longer than scoring them.
    edge = np.partition(scores, len(scores) - count)[len(scores) - count]
    above, level = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
    drawn = rng.choice(level, size=count - len(above), replace=False)
    chosen = np.concatenate([above, drawn])
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def split_group(
    num_generations: int, share: float, pilots: int | None, continuation: int | None
) -> tuple[int, int]:
    """Rollouts of a prompt's pilot and of its continuation.

    Args:
        num_generations: rollouts of the whole group where the options do not say otherwise.
        share: part of the group that is the pilot by default; at least 2 rollouts, since one alone
            is never mixed.
        pilots: option of the strategy, or None for the default.
        continuation: option of the strategy, or None for what is left of the group.

    Returns:
        (pilots, continuation); the continuation is 0 where the pilot is the whole group.
    """
    first = max(2, round(num_generations * share)) if pilots is None else pilots
    rest = max(0, num_generations - first) if continuation is None else continuation
    return first, rest


def check_pilots(pilots: int | None, continuation: int | None, max_rounds: int) -> None:
    """Refuse options of a pilot and its continuation that make no sense.

    Raises:
        UserError: a pilot of fewer than 2 rollouts, a negative continuation, or too few rounds.
    """
    require(
        max_rounds >= 2,
        f"max_rounds is {max_rounds}; it must be at least 2, since a pilot and its continuation "
        "are two rounds",
    )
    require(
        pilots is None or pilots >= 2,
        f"pilots is {pilots}; it must be at least 2, since a single rollout is never mixed",
    )
    require(
        continuation is None or continuation >= 0,
        f"continuation is {continuation}; it must not be negative",
    )


def at_least_one(**options: int) -> None:
    """Refuse options below 1.

    Raises:
        UserError: names the first such option.
    """
    for name, value in options.items():
        require(value >= 1, f"{name} is {value}; it must be at least 1")


def in_unit_interval(**options: float) -> None:
    """Refuse options outside [0, 1].

    Raises:
        UserError: names the first such option.
    """
    for name, value in options.items():
        require(0 <= value <= 1, f"{name} is {value}; it must lie in [0, 1]")


def requests_for(prompt_ids: Iterable[int], num_rollouts: int) -> list[Request]:
    """The same number of rollouts for each prompt; nothing at all where that number is 0."""
    return [Request(int(i), num_rollouts) for i in prompt_ids] if num_rollouts else []


def continued(pilots: list[Group], further: list[Group]) -> list[Group]:
    """Each pilot joined with its further rollouts, or as it is where none were asked for."""
    if not further:
        return pilots
    return [pilot.join(more) for pilot, more in zip(pilots, further, strict=True)]


def informative_first(groups: list[Group], count: int) -> list[Group]:
    """At most `count` of the groups, those with reward variance first, else in their order."""
    return sorted(groups, key=lambda group: not group.informative)[:count]

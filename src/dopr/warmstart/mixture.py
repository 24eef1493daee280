"""The supervised mixture: reasoning-gym problems, each answered in one of the habits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

import reasoning_gym

from dopr.warmstart.families import Entry, get_family
from dopr.warmstart.habits import Habit, complete

SEED_BASE = 2**40
"""First reasoning-gym seed of the warm start. An item is drawn from `seed + index`, so training and
evaluation pools, whose seeds are below 2**31, share no draw with it."""

SEED_STRIDE = 10_000_000
"""Distance between the seeds of two sources: no source is larger."""

Source = tuple[float, dict[str, Any]]

SOURCES: dict[str, list[Source]] = {
    "chain_sum": [
        (0.13, {"min_terms": 1, "max_terms": 1, "min_digits": 1, "max_digits": 3}),
        (0.13, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}),
        (0.64, {"min_terms": 3, "max_terms": 7, "min_digits": 1, "max_digits": 1}),
        (0.10, {"min_terms": 5, "max_terms": 6, "min_digits": 4, "max_digits": 4}),
    ],
    "leg_counting": [
        (0.26, {"min_animals": 1, "max_animals": 1, "max_instances": 9}),
        (0.64, {"min_animals": 2, "max_animals": 5, "max_instances": 3}),
        (0.10, {"min_animals": 7, "max_animals": 8, "min_instances": 10}),
    ],
    "ab": [
        (0.08, {"length": 2}),
        (0.12, {"length": 3}),
        (0.15, {"length": 5}),
        (0.20, {"length": 6}),
        (0.35, {"length": 7}),
        (0.10, {"length": 14}),
    ],
}
"""For each family, shares of the mixture and the reasoning-gym settings they are drawn with: easy
problems, problems within reach, and problems beyond reach."""


def problems(name: str, count: int, seed: int) -> list[Entry]:
    """Draw the warm start's problems of one family.

    Args:
        name: the family's reasoning-gym name.
        count: how many, before rounding shares to whole numbers.
        seed: which of the disjoint draws.
    """
    entries: list[Entry] = []
    for index, (share, settings) in enumerate(SOURCES[name]):
        base = SEED_BASE + SEED_STRIDE * (100 * seed + index)
        size = max(1, round(share * count))
        entries += list(reasoning_gym.create_dataset(name, size=size, seed=base, **settings))
    return entries


def choose_habit(regime: str, shares: Mapping[Habit, float], rng: Random) -> Habit:
    """Draw the habit for one problem: any of them, or the guess alone beyond reach."""
    if regime == "beyond":
        return "guess"
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def make_mixture(
    families: Iterable[str],
    rows: int,
    shares: Mapping[Habit, float],
    seed: int,
    slips: Mapping[str, float] | None = None,
) -> list[dict[str, str]]:
    """Build the shuffled supervised data set.

    Args:
        families: reasoning-gym names; each gets an equal part.
        rows: number of rows in all.
        shares: weight of each habit on problems that are not beyond reach.
        seed: seed of problems, habits, slips and order.
        slips: probability of a wrong sloppy step for each family; None means the families' own.

    Returns:
        Rows with `prompt` and `completion`.
    """
    names = list(families)
    per_family = -(-rows // len(names))
    rng = Random(seed)
    result = []
    for name in names:
        family = get_family(name)
        slip = None if slips is None else slips.get(name)
        for entry in problems(name, per_family, seed):
            habit = choose_habit(family.regime(entry), shares, rng)
            completion = complete(family, entry, habit, rng, slip)
            result.append({"prompt": entry["question"], "completion": completion})
    rng.shuffle(result)
    return result[:rows]

"""How far one update may move a success rate, and what that makes of rollouts.

An update that moves the policy by at most `kl` nats on a prompt moves the chance of a right answer
by no more than that divergence allows, since a verdict is a function of the rollout. Everything
here follows from that; docs/theory.md has the steps. Of these only the cap itself is from a paper.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from dopr.core.errors import UserError
from dopr.offline.bounds import Array, cheapest_rollouts, rollouts_per_informative_group

_TINY = 1e-12


def trust_region_cap(p: float, kl: float) -> float:
    """Most that the success rate can change in one small update, sqrt(2 kl p(1-p)).

    First order in sqrt(kl): a larger step upwards from a rate below 1/2 can gain more, see
    `highest_rate` for the exact limit.

    Args:
        p: success rate in [0, 1].
        kl: divergence of the update in nats.

    Source: CurES [2510.01037, V].
    """
    _check_kl(kl)
    return math.sqrt(2 * kl * p * (1 - p))


def trust_region_updates(p0: float, p1: float, kl: float) -> float:
    """Updates from p0 to p1 at the cap, sqrt(2/kl) (asin sqrt(p1) - asin sqrt(p0)).

    The integral of dp / sqrt(2 kl p(1-p)): the limit of many small updates.

    Source: ours, by integrating CurES' cap [2510.01037].
    """
    _check_kl(kl)
    return math.sqrt(2 / kl) * (angle(p1) - angle(p0))


def fewest_updates(p0: float, p1: float, kl: float) -> float:
    """Updates from p0 to p1 that no policy undercuts, (asin sqrt(p1) - asin sqrt(p0)) / a.

    a = arccos(exp(-kl/2)) <= sqrt(kl). Holds for steps of any size and for the divergence in either
    direction, because -2 ln of the Bhattacharyya coefficient, cos of the change of angle, is below
    both.

    Source: ours; Renyi's divergence of order 1/2 is at most KL (standard).
    """
    _check_kl(kl)
    return (angle(p1) - angle(p0)) / math.acos(math.exp(-kl / 2))


def angle(p: float) -> float:
    """asin sqrt(p), the coordinate in which equal divergences are equal steps."""
    return math.asin(math.sqrt(p))


def bernoulli_kl(p: float, q: float) -> float:
    """KL(Bernoulli(p) || Bernoulli(q)) in nats."""
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return total


def highest_rate(p: float, kl: float) -> float:
    """Highest success rate within KL(new || old) <= kl of p.

    Args:
        p: success rate in [0, 1].
        kl: in nats.

    Source: ours, the exact form of the cap.
    """
    _check_kl(kl)
    if p <= 0 or p >= 1:  # no update moves what never or always succeeds
        return p
    if bernoulli_kl(1 - _TINY, p) <= kl:
        return 1.0
    return float(brentq(lambda x: bernoulli_kl(x, p) - kl, p, 1 - _TINY, xtol=1e-14))


def rollouts_lower_bound(p0: float, p1: float, kl: float, group_size: int | None = None) -> float:
    """Expected rollouts that lifting one prompt from p0 to p1 costs at least.

    Assumes verdicts of independent rollouts, that only rollouts with both outcomes move the policy,
    by at most `kl` nats (new against old) for each such group, and no help from other prompts.

    Args:
        p0: success rate at the start, in (0, 1).
        p1: success rate to reach, above p0.
        kl: in nats.
        group_size: rollouts in a group; None bounds every way of grouping, sampling one at a time
            included.

    Source: ours, see docs/theory.md.
    """
    _check_kl(kl)
    if not 0 <= p0 < p1 <= 1:
        raise UserError(f"cannot lift {p0:g} to {p1:g}; the target must lie above, in (0, 1]")
    reached = 0.0
    for rate, cost in ladder(p0, kl, group_size):
        if rate >= p1:
            return cost
        reached = cost
    return math.inf if p0 <= 0 else reached


def ladder(p0: float, kl: float, group_size: int | None = None) -> list[tuple[float, float]]:
    """Rates that 0, 1, 2, ... updates can reach at most, and expected rollouts they cost at least.

    The first update is paid for at p0. Between two neighbours of the ladder lies at least one point
    at which a further update is made: it costs no less than the cheapest rate in between.
    """
    rungs = [(p0, 0.0)]
    rate, cost, below = p0, 0.0, p0
    while 0 < rate < 1 - 1e-9:
        cost += group_cost(p0, group_size) if rate == p0 else _cheapest(below, rate, group_size)
        below, rate = rate, highest_rate(rate, kl)
        rungs.append((rate, cost))
    return rungs


def group_cost(p: float, group_size: int | None = None) -> float:
    """Expected rollouts for both outcomes at rate p: in groups of G, or in the cheapest way."""
    if group_size is None:
        return cheapest_rollouts(p)
    return rollouts_per_informative_group(p, group_size)


def pool_lower_bound(
    rates: Array, target: float, kl: float, group_size: int | None = None
) -> float:
    """Expected rollouts to lift the mean of independent prompts to a target, at least.

    What each prompt costs is a staircase (`ladder`); the cheapest mixture of their convex hulls is
    a lower bound for every way of choosing prompts, adaptive ones included (weak duality).

    Args:
        rates: success rates at the start, shape (k,).
        target: mean success rate to reach.
        kl: in nats, for each informative group.
        group_size: as in `rollouts_lower_bound`.

    Returns:
        Rollouts; infinite where the target cannot be reached.

    Source: ours, see docs/theory.md.
    """
    missing = len(rates) * target - float(rates.sum())
    values, counts = np.unique(rates, return_counts=True)
    segments = [
        (cost / gain, gain * int(count))
        for rate, count in zip(values.tolist(), counts.tolist(), strict=True)
        for gain, cost in _hull(ladder(rate, kl, group_size))
    ]
    total = 0.0
    for slope, gain in sorted(segments):
        if missing <= _TINY:
            break
        total += slope * min(gain, missing)
        missing -= gain
    return total if missing <= 1e-9 * len(rates) else math.inf


def shared_lower_bound(
    p0: float, p1: float, kl: float, groups: int = 1, group_size: int | None = None
) -> float:
    """Expected rollouts to lift a pool's mean success where prompts help each other fully.

    Assumes that an update of b informative groups, b <= B, moves the policy by at most (b/B)^2 kl
    nats on average over the pool. Then each informative group turns the angle of the mean rate by
    at most sqrt(kl)/B, and costs no less than a group on a prompt with rate 1/2.

    Args:
        p0: mean success rate at the start.
        p1: mean success rate to reach.
        kl: divergence in nats of an update with B informative groups.
        groups: B.
        group_size: as in `rollouts_lower_bound`.

    Source: ours, see docs/theory.md.
    """
    _check_kl(kl)
    needed = max(0.0, angle(p1) - angle(p0)) * groups / math.sqrt(kl)
    return needed * group_cost(0.5, group_size)


def _cheapest(low: float, high: float, group_size: int | None) -> float:
    """Least `group_cost` in (low, high]: where the rate is nearest 1/2."""
    nearest = 0.5 if low < 0.5 <= high else high if high < 0.5 else low
    return group_cost(nearest, group_size)


def _hull(rungs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """(gain, cost) of the lower convex hull's segments of a staircase."""
    hull: list[tuple[float, float]] = []
    for x, y in rungs:
        while len(hull) > 1:
            (xa, ya), (xb, yb) = hull[-2:]
            if (yb - ya) * (x - xa) < (y - ya) * (xb - xa):
                break
            hull.pop()
        hull.append((x, y))
    return [(xb - xa, yb - ya) for (xa, ya), (xb, yb) in pairwise(hull) if xb - xa > _TINY]


def _check_kl(kl: float) -> None:
    if not kl > 0:
        raise UserError(f"the KL of an update is {kl:g}; it must be positive")

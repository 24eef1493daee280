"""A plan: bounds, group sizes, and what strategies would spend to reach a target."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dopr.core.statistics import finite
from dopr.offline.bound_registry import Situation, all_bounds, as_records
from dopr.offline.bounds import Array
from dopr.offline.plan_settings import PlanSettings
from dopr.offline.pool_rates import PoolRates
from dopr.offline.simulation import Simulated, SimulatedPolicy, run_to_target
from dopr.offline.trust_region import shared_lower_bound
from dopr.strategies import Strategy, make_strategy

NOTE = (
    "costs are of a simulated policy whose prompts help each other fully and that learns as fast "
    "as the KL allows; compare strategies by them, and expect a real run to cost more"
)
_GROUP_SIZES = range(2, 65)
_TOLERATED = 1.1
_CANDIDATES = 64
_FIRST = 4  # pools after which a strategy that has missed on all of them is given up

Progress = Callable[[str], None]


def make_plan(pool: PoolRates, options: PlanSettings, progress: Progress = lambda _: None) -> Any:
    """Everything `dopr plan` prints, as plain values.

    Args:
        pool: success rates.
        options: see `PlanSettings`.
        progress: told what is being simulated.

    Raises:
        UserError: the target is not above the pool's rate, or the pool cannot fill an update.
    """
    options.check()
    target, size = options.resolved_target(pool), options.resolved_size(pool)
    situation = Situation(pool, pool.mean, target, size, options)
    low, high = pool.informative_interval(options.group_size, options.seed)
    costs = {
        "basis": pool.basis,
        "pass_rate": pool.mean,
        "target": target,
        "pool_size": size,
        "group_size": options.group_size,
        "groups_per_update": options.groups_per_update,
        "kl": options.kl,
        "rollouts_per_informative_group": _per_group(pool, options, low, high),
        "group_sizes": group_sizes(pool),
        "lower_bound": shared_lower_bound(
            pool.mean, target, options.kl, options.groups_per_update, options.group_size
        ),
        "strategies": simulated_costs(pool, target, size, options, progress),
        "simulations": options.simulations,
        "note": NOTE,
    }
    return {"bounds": as_records(all_bounds(situation)), "costs": costs}


def _per_group(
    pool: PoolRates, options: PlanSettings, low: float | None, high: float | None
) -> dict[str, float | None]:
    """G / P with its 95% bounds; the likelier a mixed group, the fewer rollouts."""
    size = options.group_size
    return {
        "value": size / float(pool.informative(size).mean()),
        "low": None if high is None else size / high,
        "high": None if low is None else finite(size / low if low > 0 else np.inf),
    }


def group_sizes(pool: PoolRates) -> dict[str, Any]:
    """Expected rollouts per informative group of a random prompt, for groups of 2 to 64.

    Of two that cost the same the larger is the cheapest. This is always 2 or 3 (docs/theory.md), so
    `largest_within_tenth` says how far a group may grow, and its gradient become steadier, for a
    tenth more.
    """
    prices = [size / float(pool.informative(size).mean()) for size in _GROUP_SIZES]
    least = min(prices)
    pairs = list(zip(_GROUP_SIZES, prices, strict=True))
    return {
        "cheapest": max(size for size, price in pairs if price <= least * (1 + 1e-9)),
        "cheapest_rollouts": least,
        "largest_within_tenth": max(size for size, price in pairs if price <= _TOLERATED * least),
        "rollouts": {str(size): price for size, price in pairs},
    }


# -- what strategies spend -------------------------------------------------------------------


def planned_strategies(options: PlanSettings, size: int) -> dict[str, Callable[[], Strategy]]:
    """Makers of the ways compared: no choice, choice after paying, before, and with rates known."""
    common = {
        "num_generations": options.group_size,
        "prompts_per_step": options.groups_per_update,
    }
    candidates = max(min(_CANDIDATES, size), options.groups_per_update)
    return {
        "uniform": lambda: make_strategy("uniform", **common),
        "filtered": lambda: make_strategy("dapo", **common),
        "dopr": lambda: make_strategy("dopr", candidates=candidates, **common),
        "oracle": lambda: make_strategy("oracle", refresh=1, **common),
    }


def simulated_costs(
    pool: PoolRates, target: float, size: int, options: PlanSettings, progress: Progress
) -> dict[str, Any]:
    """Rollouts to the target of each strategy, on the same simulated pools.

    Each pool is drawn from what is known of the rates, so the intervals hold this uncertainty and
    the luck of the run. A strategy that misses the target on the first few pools is given up; it
    counts as having missed on all.
    """
    spent: dict[str, Array] = {}
    shares: dict[str, float] = {}
    for name, make in planned_strategies(options, size).items():
        runs: list[Simulated] = []
        for number in range(options.simulations):
            progress(f"{name}, pool {number + 1} of {options.simulations}")
            runs.append(_simulate(make(), pool, target, size, options, options.seed + number))
            if len(runs) >= _FIRST and all(run.rollouts is None for run in runs):
                break
        found = [np.inf if run.rollouts is None else run.rollouts for run in runs]
        missed = [np.inf] * (options.simulations - len(runs))
        spent[name] = np.array(found + missed, dtype=np.float64)
        groups = sum(run.groups for run in runs)
        shares[name] = sum(run.informative_groups for run in runs) / groups
    return {
        name: {
            "rollouts": _middle(values) | {"reached": int(np.isfinite(values).sum())},
            "price": None if options.price is None else _middle(values * options.price / 1000),
            "informative_share": finite(shares[name]),
            "of_uniform": None if name == "uniform" else _ratio(values, spent["uniform"]),
        }
        for name, values in spent.items()
    }


def _simulate(
    strategy: Strategy, pool: PoolRates, target: float, size: int, options: PlanSettings, seed: int
) -> Simulated:
    rates = pool.draw(size, np.random.default_rng([seed, 5]))
    policy = SimulatedPolicy(
        rates, options.kl, shared=True, groups=options.groups_per_update, seed=seed
    )
    return run_to_target(strategy, policy, target, seed=seed)


def _middle(values: Array) -> dict[str, float | None]:
    """Median and the range of 95% of the runs; a run that missed counts as infinite."""
    ordered = np.sort(values)
    last = len(ordered) - 1
    return {
        "median": finite(float(np.median(ordered))),
        "low": finite(ordered[int(np.floor(0.025 * last))]),
        "high": finite(ordered[int(np.ceil(0.975 * last))]),
    }


def _ratio(values: Array, reference: Array) -> dict[str, float | None]:
    """Ratios pool by pool, those left out in which the reference missed or had nothing to do."""
    usable = np.isfinite(reference) & (reference > 0)
    if not usable.any():
        return {"median": None, "low": None, "high": None}
    return _middle(values[usable] / reference[usable])

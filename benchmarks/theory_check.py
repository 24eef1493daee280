"""Checks docs/theory.md by simulation: `python benchmarks/theory_check.py`.

Writes docs/results/theory-check.json. Strategies run under the real driver on a bandit of prompts:
a policy that is only its success rates and learns as fast as its trust region allows. No strategy
may spend less on average than the lower bound; the ratios say how close each comes. And `dopr` is
to do no harm where it cannot win: where prompts do not help each other, where they cannot be read,
and where what is read misleads.
"""

import json
import math
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dopr.offline import bounds, trust_region
from dopr.offline.best_arm import best_arm, best_arm_shares
from dopr.offline.simulation import SimulatedPolicy, run_to_target
from dopr.strategies import make_strategy

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "theory-check.json"
SEEDS = 16
GROUP_SIZE = 8
KL = 0.1  # of one informative group on its prompt
SHARED_KL, SHARED_GROUPS = 0.001, 8  # of one update of eight informative groups on the pool
STRATEGIES: dict[str, dict[str, Any]] = {
    "uniform-1": {},
    "dapo": {},
    "speed": {},
    "greso": {},
    "mopps": {"prompts_per_step": 1},
    "dopr-paper": {},
    "dopr": {"prompts_per_step": 1},
    "oracle": {"refresh": 1},
}
# `dopr` where it can read prompts too: what it reads tells of the success rates at the start, or
# belongs to another prompt.
READS = {"dopr, embeddings": False, "dopr, embeddings of other prompts": True}
# It is to need at most so much of the better of two others.
NO_HARM, OTHERS = 1.05, ("uniform-1", "dopr-paper")
# Where several sizes of group are rolled out, only the bound over all groupings applies.
JOINS_GROUPS = {"speed"}


def pools() -> dict[str, tuple[np.ndarray, float]]:
    """Success rates and the mean to reach, by name."""
    rng = np.random.default_rng(0)
    spread = rng.beta(0.5, 0.5, 64)
    return {
        "alike": (np.full(64, 0.05), 0.5),
        "spread": (np.clip(spread, 0.01, 0.99), 0.7),
        "half hopeless": (np.r_[np.full(32, 1e-3), rng.uniform(0.1, 0.6, 32)], 0.4),
    }


def embeddings(rates: np.ndarray, of_others: bool) -> np.ndarray:
    """One of seven directions tells of the success rates, the others of nothing, shape (k, 16)."""
    rng = np.random.default_rng(5)
    told = np.log(rates / (1 - rates))[:, None]
    found = np.hstack([told, rng.normal(size=(len(rates), 6))]) @ rng.normal(size=(7, 16))
    return rng.permutation(found) if of_others else found


# -- single formulas -------------------------------------------------------------------------


def check_groups(rng: np.random.Generator, trials: int = 20_000) -> list[dict[str, float]]:
    """Shares of mixed groups, and rollouts of sampling until both outcomes were seen."""
    rows = []
    for p in (0.01, 0.05, 0.1, 0.25, 0.5):
        solved = rng.binomial(GROUP_SIZE, p, trials)
        first = rng.random(trials) < p
        # After the first rollout one waits for the other outcome.
        waiting = rng.geometric(np.where(first, 1 - p, p))
        rows.append(
            {
                "p": p,
                "informative_group": float(bounds.informative_group(p, GROUP_SIZE)),
                "simulated_informative_group": float(np.mean((solved > 0) & (solved < GROUP_SIZE))),
                "rollouts_per_group": bounds.rollouts_per_informative_group(p, GROUP_SIZE),
                "fixed_size_at_least": 1 / (p * (1 - p)),
                "cheapest_rollouts": bounds.cheapest_rollouts(p),
                "simulated_cheapest_rollouts": float(np.mean(1 + waiting)),
            }
        )
    return rows


def check_first_success(rng: np.random.Generator, trials: int = 20_000) -> list[dict[str, float]]:
    """How often the whole rollouts below the bound, and above it, see no success."""
    rows = []
    for p in (0.01, 0.05, 0.2):
        needed = bounds.first_success(p, 0.1)
        firsts = rng.geometric(p, trials)
        rows.append(
            {
                "p": p,
                "delta": 0.1,
                "first_success": needed,
                "failed_below": float(np.mean(firsts > math.floor(needed))),
                "failed_above": float(np.mean(firsts > math.ceil(needed))),
            }
        )
    return rows


def check_trust_region() -> list[dict[str, float]]:
    """Exact largest steps from 0.05 to 0.9 against the two closed forms."""
    rows = []
    for kl in (0.001, 0.01, 0.1):
        rate, updates = 0.05, 0
        while rate < 0.9:
            rate, updates = trust_region.highest_rate(rate, kl), updates + 1
        rows.append(
            {
                "kl": kl,
                "exact_updates": updates,
                "fewest_updates": trust_region.fewest_updates(0.05, 0.9, kl),
                "trust_region_updates": trust_region.trust_region_updates(0.05, 0.9, kl),
                "cap_at_0.05": trust_region.trust_region_cap(0.05, kl),
                "exact_at_0.05": trust_region.highest_rate(0.05, kl) - 0.05,
            }
        )
    return rows


def check_improvement() -> list[dict[str, float]]:
    """The second-order term and the exact divergence to the optimum."""
    return [
        {
            "p": p,
            "beta": beta,
            "improvement_bound": bounds.improvement_bound(p, beta),
            "divergence_to_optimum": bounds.divergence_to_optimum(p, beta),
        }
        for p in (0.1, 0.5, 0.9)
        for beta in (0.04, 0.5, 4.0)
    ]


def check_best_arm(rng: np.random.Generator, runs: int = 200) -> dict[str, Any]:
    """Rollouts of sampling by the best shares until a likelihood ratio says stop."""
    rates, delta = np.array([0.4, 0.2, 0.1, 0.05]), 0.1
    shares = best_arm_shares(rates)
    spent, wrong = [], 0
    for _ in range(runs):
        right = tried = np.zeros(len(rates))
        while True:
            more = rng.multinomial(8, shares)
            tried, right = tried + more, right + rng.binomial(more, rates)
            if _surely_best(right, tried, delta):
                break
        spent.append(float(tried.sum()))
        wrong += int(np.argmax(right / tried) != 0)
    return {
        "rates": rates.tolist(),
        "delta": delta,
        "best_arm": best_arm(rates, delta),
        "simulated_rollouts": float(np.mean(spent)),
        "wrong": wrong / runs,
        "one_of_512": {str(p): best_arm([p] + [0.0] * 511, delta) for p in (0.5, 0.01)},
        "rule": "sampling by the best shares; stop at log((1 + log t)/delta)",
    }


def _surely_best(right: np.ndarray, tried: np.ndarray, delta: float) -> bool:
    """Whether the leading arm's likelihood ratio against every other passes the threshold."""
    if tried.min() < 1:
        return False
    means = right / tried
    best = int(np.argmax(means))
    threshold = math.log((1 + math.log(tried.sum())) / delta)
    for other in range(len(means)):
        if other == best:
            continue
        pair = [best, other]
        middle = float(right[pair].sum() / tried[pair].sum())
        evidence = sum(tried[a] * trust_region.bernoulli_kl(float(means[a]), middle) for a in pair)
        if means[other] >= means[best] or evidence < threshold:
            return False
    return True


# -- strategies against the bound ------------------------------------------------------------


def check_strategies(
    rates: np.ndarray, target: float, make_policy: Callable[..., SimulatedPolicy]
) -> dict[str, Any]:
    """Mean rollouts to the target over seeds, with standard errors."""
    result = {}
    for label in (*STRATEGIES, *READS):
        strategy = label.partition(",")[0]
        read = embeddings(rates, READS[label]) if label in READS else None
        runs = [
            run_to_target(
                make_strategy(strategy, num_generations=GROUP_SIZE, **STRATEGIES[strategy]),
                make_policy(rates, seed=seed, embeddings=read),
                target,
                max_groups=10_000,
                seed=seed,
            )
            for seed in range(SEEDS)
        ]
        spent = np.array([run.generated for run in runs], dtype=float)
        result[label] = {
            "rollouts": float(spent.mean()),
            "standard_error": float(spent.std(ddof=1) / math.sqrt(SEEDS)),
            "reached": sum(run.rollouts is not None for run in runs),
            "informative_share": float(
                sum(run.informative_groups for run in runs) / sum(run.groups for run in runs)
            ),
        }
    return result


def compare(
    strategies: dict[str, Any], of_size: float, of_any: float
) -> tuple[dict[str, Any], list[str]]:
    """Adds the ratio to the bound that applies; names the strategies that fell below it."""
    below = []
    for name, entry in strategies.items():
        bound = of_any if name in JOINS_GROUPS else of_size
        entry["bound"], entry["ratio"] = bound, entry["rollouts"] / bound
        if entry["rollouts"] + 2 * entry["standard_error"] < bound:
            below.append(name)
    return strategies, below


def check_pools() -> tuple[dict[str, Any], list[str]]:
    """Independent prompts and fully shared ones, each pool against its bound."""
    result: dict[str, Any] = {}
    violations = []
    for name, (rates, target) in pools().items():
        independent = check_strategies(rates, target, partial(SimulatedPolicy, kl=KL))
        sized = trust_region.pool_lower_bound(rates, target, KL, GROUP_SIZE)
        free = trust_region.pool_lower_bound(rates, target, KL)
        independent, below = compare(independent, sized, free)
        violations += [f"{name}, independent: {s}" for s in below]
        together = partial(SimulatedPolicy, kl=SHARED_KL, shared=True, groups=SHARED_GROUPS)
        shared = check_strategies(rates, target, together)
        mean = float(rates.mean())
        ends = (mean, target, SHARED_KL, SHARED_GROUPS)
        shared_sized = trust_region.shared_lower_bound(*ends, GROUP_SIZE)
        shared, below = compare(shared, shared_sized, trust_region.shared_lower_bound(*ends))
        violations += [f"{name}, shared: {s}" for s in below]
        result[name] = {
            "prompts": len(rates),
            "mean": mean,
            "target": target,
            "independent": {"kl": KL, "bound": sized, "bound_any": free, "strategies": independent},
            "shared": {
                "kl": SHARED_KL,
                "groups": SHARED_GROUPS,
                "bound": shared_sized,
                "strategies": shared,
            },
        }
    return result, violations


def harm(pools: dict[str, Any]) -> dict[str, float]:
    """What `dopr` needs, of what the better of the two others needs, in each pool and way."""
    return {
        f"{name}, {kind}, {label}": entry["rollouts"]
        / min(pool[kind]["strategies"][other]["rollouts"] for other in OTHERS)
        for name, pool in pools.items()
        for kind in ("independent", "shared")
        for label, entry in pool[kind]["strategies"].items()
        if label.startswith("dopr") and label not in OTHERS
    }


def main() -> None:
    began = time.perf_counter()
    rng = np.random.default_rng(7)
    result: dict[str, Any] = {
        "groups": check_groups(rng),
        "first_success": check_first_success(rng),
        "trust_region": check_trust_region(),
        "improvement": check_improvement(),
        "best_arm": check_best_arm(rng),
    }
    result["pools"], result["below_the_bound"] = check_pools()
    result["harm"] = harm(result["pools"])
    result |= {
        "group_size": GROUP_SIZE,
        "seeds": SEEDS,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "command": "python benchmarks/theory_check.py",
    }
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    for name, pool in result["pools"].items():
        for kind in ("independent", "shared"):
            print(f"{name}, {kind}: bound {pool[kind]['bound']:,.0f}")
            for strategy, entry in pool[kind]["strategies"].items():
                print(
                    f"  {strategy:33} {entry['rollouts']:>10,.0f} ({entry['ratio']:.2f} x), "
                    f"{entry['reached']}/{SEEDS}, informative {entry['informative_share']:.2f}"
                )
    worst = max(result["harm"], key=result["harm"].__getitem__)
    print(f"dopr at most {result['harm'][worst]:.3f} of {' and '.join(OTHERS)} ({worst})")
    assert result["harm"][worst] <= NO_HARM
    print(f"below the bound: {result['below_the_bound'] or 'none'}; {result['seconds']} s")


if __name__ == "__main__":
    main()

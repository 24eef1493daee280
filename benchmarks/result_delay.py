"""What late rewards cost: each strategy's rollouts against uniform choice, by how late they come.

Pairs of runs with the same seed, all families of a pool together. Uniform choice rests on no
reward, so that one run of it stands for all delays.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from publish_comparison import COLOURS, spread
from result_blocks import RESULTS, block, table

from dopr.core.statistics import median_with_interval, ratios

REFERENCE = "uniform-tuned"
# Each has a second part; the latter is of the group's mean as the baseline, and steps of that time.
STUDIES = ("delay", "delay-group")
DELAYS = (0, 1, 2, 4, 8, 16)

Costs = dict[str, tuple[list[float | None], list[float]]]


def pools(study: str = "delay") -> list[str]:
    """Those that a study was kept of."""
    return sorted({file.parents[1].name for file in (RESULTS / study).glob("*/*/comparison.json")})


def read(pool: str, study: str = "delay") -> dict[str, Costs]:
    """Family -> strategy -> rollouts to the target (None: missed) and in all, by seed."""
    found: dict[str, Costs] = {}
    for part in (study, f"{study}-rest"):
        for file in sorted((RESULTS / part / pool).glob("*/comparison.json")):
            strategies = json.loads(file.read_text())["strategies"]
            found.setdefault(file.parent.name, {}).update(
                (name, (entry["rollouts_to_target"]["per_seed"], entry["total"]["rollouts"]))
                for name, entry in strategies.items()
            )
    return found


def saving(found: dict[str, Costs], name: str) -> dict[str, Any] | None:
    """Rollouts of a strategy over those of uniform choice; None where it was not run."""
    values: list[float | None] = []
    bounded = 0
    for costs in found.values():
        if name not in costs or REFERENCE not in costs:
            continue
        theirs, totals = costs[REFERENCE]
        of_family, upper = ratios(costs[name][0], theirs, totals)
        values, bounded = values + of_family, bounded + upper
    if not values:
        return None
    return median_with_interval(values) | {"pairs": len(values), "bounded": bounded}


def strategies(found: dict[str, Costs]) -> list[str]:
    """Names without their delay, in the order in which they were listed."""
    names = (name for costs in found.values() for name in costs)
    stems = (name.rpartition("-")[0] for name in names if name.rpartition("-")[2].isdigit())
    return list(dict.fromkeys(stems))


def savings(pool: str, study: str = "delay") -> dict[str, dict[int, dict[str, Any]]]:
    """Strategy -> delay -> its rollouts over those of uniform choice."""
    found = read(pool, study)
    all_of = {name: {k: saving(found, f"{name}-{k}") for k in DELAYS} for name in strategies(found)}
    return {name: {k: s for k, s in by_k.items() if s} for name, by_k in all_of.items()}


@block
def delay_saving(pool: str, study: str = "delay") -> str:
    """A column a strategy, a row a delay."""
    by_name = savings(pool, study)
    rows = [
        [str(k), *(spread(s[k], ".2f") if k in s else "" for s in by_name.values())] for k in DELAYS
    ]
    pairs = [max(s["pairs"] for s in by_k.values()) for by_k in by_name.values()]
    heads = [f"`{name}` ({n} pairs)" for name, n in zip(by_name, pairs, strict=True)]
    return table(["k", *heads], rows)


def draw(output: Path) -> None:
    """A panel a pool: the ratio against the delay, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "dopr"  # the same figure, the same file
    figure, panels = plt.subplots(
        1, len(pools()), figsize=(4.2 * len(pools()), 3.4), sharey=True, squeeze=False
    )
    for axes, pool in zip(panels[0], pools(), strict=True):
        for number, (name, by_k) in enumerate(savings(pool).items()):
            known = {k: s for k, s in by_k.items() if s["median"] is not None}
            places = np.array([DELAYS.index(k) for k in known]) + 0.06 * number
            colour = COLOURS[number]
            axes.plot(places, [s["median"] for s in known.values()], "o-", color=colour, label=name)
            for place, s in zip(places, known.values(), strict=True):
                high = s["median"] if s["high"] is None else s["high"]
                axes.plot([place, place], [s["low"], high], color=colour, linewidth=1)
        axes.axhline(1.0, color="#777777", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(DELAYS)), [str(k) for k in DELAYS])
        axes.set(title=f"{pool} pools", xlabel="k, batches of rollouts", yscale="log")
        ticks = (0.1, 0.2, 0.5, 1, 2)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("rollouts / uniform choice's")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(output / "saving.svg", metadata={"Date": None})
    plt.close(figure)

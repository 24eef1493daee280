"""A table and the figures of the strategy study, over families and seeds.

    python benchmarks/publish_comparison.py runs/studies/half/ab docs/results/strategies/half/ab
    python benchmarks/strategy_study.py docs/results/strategies

The first keeps one finished comparison (for each pool and family); the second reads all that are
kept and writes summary.json, table.md, accuracy-POOL.svg and saving.svg (rollouts as a share of
uniform-tuned's, against the pool's signal rate) beside them. Comparisons in which a rival had a
larger budget are kept under longer/POOL/FAMILY. Nothing is trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from picture import pyplot, save
from publish_comparison import spread

from dopr.core.statistics import median_with_interval, ratios

COLOURS = {
    "grpo": "#999999",
    "uniform-tuned": "#e69f00",
    "uniform-1": "#f0c97a",
    "dopr": "#0072b2",
    "dopr-paper": "#56b4e9",
    "oracle": "#000000",
    "mopps": "#cc79a7",
    "greso": "#009e73",
    "pilot-commit": "#d55e00",
}
COSTS = ("rollouts", "tokens", "wall_s")
TARGET_SHARES = (0.8, 0.9, 1.0)
SAVERS = ("dopr", "mopps", "greso", "pilot-commit", "oracle")
MARKERS = "osD^v<>"
TICKS = (0.1, 0.2, 0.5, 1, 2)
MISSED = 4.0  # where the figure of savings puts those whose median run missed the target


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Comparisons by pool and family."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*/*/comparison.json")):
        found.setdefault(file.parent.parent.name, {})[file.parent.name] = json.loads(
            file.read_text()
        )
    return found


def pooled(families: dict[str, Any], name: str) -> dict[str, Any]:
    """`dopr` against one strategy, pairs of all families and seeds together."""
    pairs = [c["ratios"][f"dopr/{name}"] for c in families.values() if name in c["strategies"]]
    finals = [value for pair in pairs for value in pair["final_difference"]["per_seed"]]
    costs = {
        cost: median_with_interval([value for pair in pairs for value in pair[cost]["per_seed"]])
        | {"bounded": sum(pair[cost]["bounded"] for pair in pairs)}
        for cost in COSTS
    }
    return {"pairs": len(finals), **costs, "final_difference": median_with_interval(finals)}


def summarise(folder: Path, pools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for pool, families in pools.items():
        names = list(dict.fromkeys(n for c in families.values() for n in c["strategies"]))
        summary[pool] = {
            "families": {
                family: {
                    "target": c["target"]["value"],
                    "seeds": c["seeds"],
                    "signal_rate": (c.get("pool") or {}).get("signal_rate"),
                    "strategies": {
                        name: {
                            "rollouts": entry["rollouts_to_target"],
                            "final": entry["final"],
                            "learning_rate": entry["learning_rate"],
                        }
                        for name, entry in c["strategies"].items()
                    },
                }
                for family, c in families.items()
            },
            "dopr_against_at_share_of_target": at_other_targets(folder, pool, families),
            "of_uniform_tuned": {
                family: savings(c)
                for family, c in families.items()
                if {"uniform-tuned", *SAVERS} <= set(c["strategies"])
            },
            "dopr_against": {n: pooled(families, n) for n in names if n != "dopr"},
            "longer": with_longer_budgets(families, read(folder / "longer").get(pool, {})),
        }
    return summary


def with_longer_budgets(families: dict[str, Any], longer: dict[str, Any]) -> dict[str, Any]:
    """`dopr` against rivals that had a larger budget; their other families as they were."""
    names = dict.fromkeys(n for c in longer.values() for n in c["strategies"] if n != "dopr")
    return {
        name: {
            "families": {
                family: {
                    "budget": max(c["strategies"][name]["total"]["rollouts"]),
                    "rollouts": c["strategies"][name]["rollouts_to_target"],
                    "final": c["strategies"][name]["final"],
                    "dopr_against": pooled({family: c}, name),
                }
                for family, c in longer.items()
                if name in c["strategies"]
            },
            "dopr_against": pooled(families | longer, name)
            if any(name in c["strategies"] for c in families.values())
            else None,
        }
        for name in names
    }


def first_at(rows: list[dict[str, Any]], target: float) -> float | None:
    """Rollouts at the first evaluation at or above the target."""
    return next((r["rollouts_total"] for r in rows if r["avg@k"] >= target), None)


def at_other_targets(folder: Path, pool: str, families: dict[str, Any]) -> dict[str, Any]:
    """`dopr` over each strategy in rollouts, to shares of the targets; families together.

    The targets were set before the runs; how much hangs on them is seen here.
    """
    found: dict[str, Any] = {}
    for share in TARGET_SHARES:
        by_name: dict[str, list[tuple[list[float | None], int]]] = {}
        for family, comparison in families.items():
            curves = json.loads((folder / pool / family / "curves.json").read_text())
            target = comparison["target"]["value"] * share
            costs = {
                name: [first_at(curves[name][str(seed)], target) for seed in comparison["seeds"]]
                for name in comparison["strategies"]
            }
            for name, entry in comparison["strategies"].items():
                pair = ratios(costs["dopr"], costs[name], entry["total"]["rollouts"])
                by_name.setdefault(name, []).append(pair)
        found[f"{share:g}"] = {
            name: median_with_interval([value for values, _ in pairs for value in values])
            | {"bounded": sum(bounded for _, bounded in pairs)}
            for name, pairs in by_name.items()
            if name != "dopr"
        }
    return found


def savings(comparison: dict[str, Any]) -> dict[str, Any]:
    """Rollouts to the target over those of uniform-tuned, paired by seed, and the signal rate."""
    strategies = comparison["strategies"]
    base = strategies["uniform-tuned"]
    found: dict[str, Any] = {"signal_rate": comparison["pool"]["signal_rate"]}
    for name in SAVERS:
        shares, bounded = ratios(
            strategies[name]["rollouts_to_target"]["per_seed"],
            base["rollouts_to_target"]["per_seed"],
            base["total"]["rollouts"],
        )
        found[name] = median_with_interval(shares) | {"bounded": bounded}
    return found


def table(summary: dict[str, Any]) -> str:
    """Markdown: rollouts to the target by family, and dopr's ratio to each strategy."""
    lines: list[str] = []
    for pool, entry in summary.items():
        families = entry["families"]
        rates = ", ".join(
            f"`{f}` {v['signal_rate']:.2f}" for f, v in families.items() if v["signal_rate"]
        )
        lines += [f"### Pool `{pool}`", "", f"Signal rate at the start: {rates}.", ""]
        heads = [f"{f}, to {v['target']:g}" for f, v in families.items()]
        lines += [
            f"| strategy | {' | '.join(heads)} | `dopr` / it, rollouts | tokens | seconds "
            "| final, `dopr` minus it |",
            "| --- |" + " --- |" * (len(heads) + 4),
        ]
        for name in _by_cost(families):
            cells = [_cost(v["strategies"].get(name)) for v in families.values()]
            against = entry["dopr_against"].get(name)
            cells += [_spread(against[cost], ".2f") if against else "" for cost in COSTS]
            final = _spread(against["final_difference"], "+.3f") if against else ""
            lines.append(f"| `{name}` | " + " | ".join(cells) + f" | {final} |")
        lines += ["", *_targets_table(entry["dopr_against_at_share_of_target"]), ""]
        lines += _longer_table(entry["longer"])
    return "\n".join(lines)


def _targets_table(shares: dict[str, Any]) -> list[str]:
    heads = [f"to {float(share):.0%} of the target" for share in shares]
    lines = ["| `dopr` / | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name in next(iter(shares.values())):
        cells = [_spread(found[name], ".2f") for found in shares.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _longer_table(longer: dict[str, Any]) -> list[str]:
    if not longer:
        return []
    lines = [
        "| with a larger budget | it needs; final | `dopr` / it | final, `dopr` minus it |",
        "| --- | --- | --- | --- |",
    ]
    for name, entry in longer.items():
        for family, found in entry["families"].items():
            label = f"`{name}`, {family}, {found['budget']:,.0f}"
            lines.append(f"| {label} | {_cost(found)} | {_both(found['dopr_against'])} |")
        if entry["dopr_against"]:
            lines.append(f"| `{name}`, all families | | {_both(entry['dopr_against'])} |")
    return [*lines, ""]


def _both(against: dict[str, Any]) -> str:
    final = _spread(against["final_difference"], "+.3f")
    return f"{_spread(against['rollouts'], '.2f')} | {final}"


def _by_cost(families: dict[str, Any]) -> list[str]:
    """Strategies, cheapest first by the geometric mean of their medians; a miss counts as 1e6."""
    names = list(dict.fromkeys(n for v in families.values() for n in v["strategies"]))

    def cost(name: str) -> float:
        medians = [
            v["strategies"][name]["rollouts"]["median"] or 1e6
            for v in families.values()
            if name in v["strategies"]
        ]
        return float(np.mean(np.log(medians)))

    return sorted(names, key=cost)


def _cost(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    rollouts = entry["rollouts"]
    reached = f"{rollouts['reached']}/{len(rollouts['per_seed'])}"
    median = "missed" if rollouts["median"] is None else f"{rollouts['median']:,.0f}"
    return f"{median} ({reached}); {entry['final']['median']:.3f}"


def _spread(entry: dict[str, Any], form: str) -> str:
    return spread(entry, form, missed="`dopr` missed")


def draw(folder: Path, families: dict[str, Any], output: Path) -> None:
    """Median accuracy against rollouts, a panel for each family."""
    figure, panels = pyplot().subplots(
        1, len(families), figsize=(4.6 * len(families), 3.9), sharey=True
    )
    for axes, (family, comparison) in zip(np.atleast_1d(panels), families.items(), strict=True):
        curves = json.loads((folder / family / "curves.json").read_text())
        for name in comparison["strategies"]:
            runs = list(curves[name].values())
            grid = np.unique(np.concatenate([[r["rollouts_total"] for r in run] for run in runs]))
            values = [
                np.array([r["avg@k"] for r in run])[
                    np.searchsorted([r["rollouts_total"] for r in run], grid, side="right") - 1
                ]
                for run in runs
            ]
            known = name in COLOURS
            axes.plot(
                np.maximum(grid, 48),
                np.median(values, axis=0),
                label=name,
                color=COLOURS.get(name),
                linewidth=2.2 if known else 1.0,
                alpha=1.0 if known else 0.8,
                linestyle="--" if name == "oracle" else "-",
            )
        axes.axhline(comparison["target"]["value"], color="#777777", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_title(f"{family}, {len(comparison['seeds'])} seeds", fontsize=10)
        axes.set_xlabel("rollouts generated (log scale)")
        axes.grid(alpha=0.25)
    np.atleast_1d(panels)[0].set_ylabel("accuracy, median over seeds")
    np.atleast_1d(panels)[-1].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    save(figure, output)


def draw_savings(output: Path, summary: dict[str, Any]) -> None:
    """Each strategy's share of uniform-tuned's rollouts against the pool's signal rate."""
    points = [
        (pool, family, entry)
        for pool, found in summary.items()
        for family, entry in found["of_uniform_tuned"].items()
    ]
    families = list(dict.fromkeys(family for _, family, _ in points))
    figure, axes = pyplot().subplots(figsize=(6.4, 4.4))
    for place, name in enumerate(SAVERS):
        for _, family, entry in points:
            share, marker = entry[name], MARKERS[families.index(family)]
            x = entry["signal_rate"] * (1 + 0.018 * (place - 2))
            if share["median"] is None:
                axes.plot(x, MISSED, marker=marker, color=COLOURS[name], fillstyle="none")
                continue
            low, high = share["low"] or share["median"], share["high"] or MISSED
            axes.errorbar(
                x,
                share["median"],
                [[share["median"] - low], [high - share["median"]]],
                color=COLOURS[name],
                marker=marker,
                fillstyle="none" if share["bounded"] else "full",
                elinewidth=1,
                linestyle="",
            )
    axes.axhline(MISSED, color="#777777", linestyle=":", linewidth=1)
    axes.annotate(
        "missed the target", (0.02, MISSED), xycoords=("axes fraction", "data"), va="bottom"
    )
    axes.set_title("hollow: an upper bound, as uniform-tuned missed on some seeds", fontsize=9)
    axes.axhline(1.0, color=COLOURS["uniform-tuned"], linewidth=1.5)
    axes.set_yscale("log")
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("signal rate of the pool at the start")
    axes.set_ylabel("rollouts to the target / uniform-tuned's")
    handles = [pyplot().Line2D([], [], color=COLOURS[n], marker="o", linestyle="") for n in SAVERS]
    handles += [
        pyplot().Line2D([], [], color="#777777", marker=m, linestyle="")
        for m in MARKERS[: len(families)]
    ]
    axes.legend(handles, [*SAVERS, *families], frameon=False, fontsize=7, ncols=2)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    save(figure, output)


def texts(folder: Path) -> dict[str, str]:
    """What is made of the kept comparisons, by the file's name."""
    summary = summarise(folder, read(folder))
    return {"summary.json": json.dumps(summary, indent=1), "table.md": table(summary)}


def pictures(folder: Path, output: Path) -> None:
    """Draws the figures of the kept comparisons into a folder."""
    pools = read(folder)
    for pool, families in pools.items():
        draw(folder / pool, families, output / f"accuracy-{pool}.svg")
    draw_savings(output / "saving.svg", summarise(folder, pools))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    made = texts(folder)
    for name, text in made.items():
        (folder / name).write_text(text)
    pictures(folder, folder)
    print(made["table.md"])


if __name__ == "__main__":
    main()

"""Generated tables of docs/theory.md and docs/tiny-reasoner.md."""

import json

from result_blocks import RESULTS, block, data, table

from dopr.warmstart.card import figures_table

POOLS = ("alike", "spread", "half hopeless")
SETTINGS = ("independent", "shared")
REACHED = (
    "oracle",
    "dopr",
    "dopr, embeddings",
    "dopr, embeddings of other prompts",
    "dopr-paper",
    "mopps",
    "greso",
    "uniform-1",
    "dapo",
    "speed",
)
IMPROVED = ((0.1, 0.5), (0.5, 0.5), (0.1, 0.04), (0.9, 0.04))


@block
def informative_groups() -> str:
    """What one informative group costs, by formula and simulated."""
    rows = [
        [
            f"{g['p']:g}",
            f"{g['informative_group']:.3f}",
            f"{g['simulated_informative_group']:.3f}",
            f"{g['rollouts_per_group']:.1f}",
            f"{g['cheapest_rollouts']:.1f}",
            f"{g['simulated_cheapest_rollouts']:.1f}",
        ]
        for g in data("theory-check.json")["groups"]
    ]
    heads = ("p", "P for G = 8", "simulated", "G/P", "1/(pq) - 1", "simulated")
    return table(heads, rows)


@block
def updates_needed() -> str:
    """Updates from 0.05 to 0.9, by largest steps and by both formulas."""
    rows = [
        [
            f"{t['kl']:g}",
            str(t["exact_updates"]),
            f"{t['fewest_updates']:.1f}",
            f"{t['trust_region_updates']:.1f}",
        ]
        for t in data("theory-check.json")["trust_region"]
    ]
    return table(["δ", "exact, largest steps", "any size (bound)", "small steps"], rows)


@block
def reached() -> str:
    """Rollouts of strategies on six simulated pools, as multiples of the bound."""
    pools = data("theory-check.json")["pools"]
    cells = [pools[pool][setting] for setting in SETTINGS for pool in POOLS]
    kl, groups = cells[0]["kl"], cells[-1]["groups"]
    rows = [
        ["", f"*independent, δ = {kl:g} a group*", "", "", *_shared(cells[-1]["kl"], groups)],
        ["bound (rollouts)", *(f"{cell['bound']:,.0f}" for cell in cells)],
    ]
    for name in REACHED:
        label = f"`{name.partition(',')[0]}`" + "".join(name.partition(",")[1:])
        label += ", one prompt" if name == "mopps" else ""
        rows.append([label, *(f"{cell['strategies'][name]['ratio']:.2f}" for cell in cells)])
    return table(["", *POOLS, *POOLS], rows)


def _shared(kl: float, groups: int) -> tuple[str, str, str]:
    return f"*shared, δ = {kl:g}, B = {groups}*", "", ""


@block
def on_tiny() -> str:
    """Training of the tiny model held against the bound."""
    runs = data("theory-tiny.json")["runs"]
    rows = [
        [
            f"`{run['strategy']}`, {run['seed']}",
            f"{run['rate_before']:.3f} to {run['rate_after']:.3f}",
            f"{run['turn']:.3f}",
            f"{run['reach']:.3f}",
            f"{run['bound']:.0f}",
            f"{run['rollouts']:,}",
            f"{run['rollouts_over_bound']:.0f}",
        ]
        for run in sorted(runs, key=lambda run: (run["strategy"], run["seed"]))
    ]
    heads = ("strategy, seed", "rate", "turn of arcsin √p̄", "what the divergences allow", "bound")
    return table([*heads, "rollouts", "multiple"], rows)


@block
def improvement() -> str:
    """A bound from the literature beside the exact divergence."""
    found = {(i["p"], i["beta"]): i for i in data("theory-check.json")["improvement"]}

    def digits(value: float) -> str:
        return f"{value:.3f}" if value < 1 else f"{value:#.3g}"

    rows = [
        [
            f"{p:g}",
            f"{beta:g}",
            digits(found[p, beta]["improvement_bound"]),
            digits(found[p, beta]["divergence_to_optimum"]),
        ]
        for p, beta in IMPROVED
    ]
    return table(["p", "β", "p(1-p)/(2β²)", "exact"], rows)


@block
def tiny_reasoner() -> str:
    """What the shipped model is like on every pool, as measured when it was made."""
    folder = RESULTS.parents[1] / "src" / "dopr" / "assets" / "tiny-reasoner"
    return figures_table(json.loads((folder / "warmstart.json").read_text())["figures"]) + "\n"

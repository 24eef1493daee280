"""A plan on the terminal and as a figure."""

from pathlib import Path
from typing import Any

from rich.console import Console

from dopr.cli.shared import print_table
from dopr.core.errors import UserError


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """The bounds, the group sizes and the costs."""
    names = ["name", "value", "meaning", "source", "mark"]
    bounds = [[b[n] if n != "value" else short(b[n]) for n in names] for b in plan["bounds"]]
    print_table(names, bounds, title="bounds", right=["value"], console=console)
    costs = plan["costs"]
    console.print(f"\n{_title(costs)}", markup=False, highlight=False)
    priced = costs["strategies"]["uniform"]["price"] is not None
    prices = ["price (95%)"] if priced else []
    figures = ["rollouts (95%)", "of uniform (95%)", "informative groups", *prices]
    rows = []
    for name, entry in costs["strategies"].items():
        cells = [name, _spread(entry["rollouts"]), _spread(entry["of_uniform"])]
        cells.append(short(entry["informative_share"]))
        rows.append([*cells, *([_spread(entry["price"])] if priced else [])])
    rows.append(["lower bound", short(costs["lower_bound"]), "", "", *([""] if priced else [])])
    print_table(["strategy", *figures], rows, right=figures, console=console)
    for line in _notes(costs):
        console.print(line, markup=False, highlight=False)


def _title(costs: dict[str, Any]) -> str:
    return (
        f"cost of lifting the mean success rate from {costs['pass_rate']:.3g} to "
        f"{costs['target']:.3g}: {costs['pool_size']} prompts, groups of {costs['group_size']}, "
        f"{costs['groups_per_update']} an update of {costs['kl']:g} nats"
    )


def _notes(costs: dict[str, Any]) -> list[str]:
    sizes, per_group = costs["group_sizes"], costs["rollouts_per_informative_group"]
    missed = [
        f"{name}: {costs['simulations'] - entry['rollouts']['reached']} of "
        f"{costs['simulations']} simulated runs did not reach the target"
        for name, entry in costs["strategies"].items()
        if 0 < entry["rollouts"]["reached"] < costs["simulations"]
    ]
    missed += [
        f"{name}: no simulated run reached the target; given up after the first few"
        for name, entry in costs["strategies"].items()
        if not entry["rollouts"]["reached"]
    ]
    alike = (
        ["every prompt was taken to have the same rate, so choosing cannot help; give --history"]
        if costs["basis"].startswith("every prompt")
        else []
    )
    interval = "" if per_group["low"] is None else f", 95% {_bounds(per_group)}"
    return [
        f"rates: {costs['basis']}",
        f"rollouts per informative group of {costs['group_size']}: "
        f"{short(per_group['value'])}{interval}; cheapest in groups of {sizes['cheapest']} "
        f"({short(sizes['cheapest_rollouts'])}), at most a tenth dearer up to "
        f"{sizes['largest_within_tenth']}",
        *missed,
        *alike,
        costs["note"],
        "assumptions of each bound: --json; none of them is DoPR's own theorem, see docs/theory.md",
    ]


def short(value: float | None) -> str:
    """Three digits behind the point for small numbers, none for large ones."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}" if value >= 0.001 else f"{value:.2g}"


def _bounds(entry: dict[str, float | None]) -> str:
    return f"{short(entry['low'])} to {short(entry['high'])}"


def _spread(entry: dict[str, float | None] | None) -> str:
    return "" if entry is None else f"{short(entry['median'])} ({_bounds(entry)})"


def write_plot(plan: dict[str, Any], path: Path) -> None:
    """Rollouts per informative group against group size, and the costs, as one SVG.

    Raises:
        UserError: another ending than .svg, or matplotlib is missing.
    """
    check_plot(path)
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    costs = plan["costs"]
    sizes = {int(size): price for size, price in costs["group_sizes"]["rollouts"].items()}
    left.plot(list(sizes), list(sizes.values()), color="#2a6f97")
    left.axvline(costs["group_size"], color="#777777", linestyle=":", linewidth=1)
    left.set(xlabel="rollouts in a group", ylabel="rollouts per informative group", ylim=(0, None))
    shown = {
        name: entry["rollouts"]
        for name, entry in costs["strategies"].items()
        if entry["rollouts"]["median"] is not None
    }
    for row, entry in enumerate(shown.values()):
        middle = entry["median"]
        high = middle if entry["high"] is None else entry["high"]
        right.barh(row, middle, color="#2a6f97", alpha=0.75)
        right.errorbar(
            middle, row, xerr=[[middle - entry["low"]], [high - middle]], color="black", capsize=3
        )
    right.set_yticks(range(len(shown)), list(shown))
    right.axvline(costs["lower_bound"], color="#c1121f", linestyle="--", linewidth=1)
    right.set(xlabel=f"rollouts to {costs['target']:.3g}; dashed: lower bound", xlim=(0, None))
    right.invert_yaxis()
    for axes in (left, right):
        axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Date": None})


def check_plot(path: Path) -> None:
    """Refuse a figure that could not be written, before anything is computed.

    Raises:
        UserError: another ending than .svg, no such folder, or matplotlib is missing.
    """
    if path.suffix != ".svg":
        raise UserError(f"the plot {str(path)!r} must end in .svg")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {str(path.parent)!r} for the plot; make it first")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UserError("a plot needs matplotlib; install it, or dopr with its extra `plot`")

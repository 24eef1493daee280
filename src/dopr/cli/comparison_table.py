"""A comparison on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_COSTS = (("rollouts", "rollouts"), ("tokens", "tokens"), ("wall_s", "seconds"))


def print_comparison(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Tables of costs and of ratios, and one sentence of conclusion."""
    from dopr.report.data import read_source
    from dopr.report.summary import conclusion

    target = result["target"]
    metric = target["metric"].replace("k", str(target.get("k") or "k"))
    console.print(_costs(result, f"{metric} {target['value']:.3f}"))
    if result["ratios"]:
        console.print(_ratios(result))
    console.print(f"target: {target['rule']}", markup=False, highlight=False)
    pool = result.get("pool")
    if pool:
        console.print(
            f"pool: {pool['size']} prompts, of which {pool['signal_rate']:.0%} carry a signal at "
            f"the start (groups of {pool['group_size']})",
            highlight=False,
        )
    console.print(conclusion(read_source(folder)), markup=False, highlight=False)


def _costs(result: dict[str, Any], title: str) -> Table:
    table = Table(title=f"cost of reaching {title}: median (95% interval) over seeds", box=None)
    for head in ("strategy", "learning rate", "reached", *(word for _, word in _COSTS), "final"):
        table.add_column(head, justify="left" if head == "strategy" else "right")
    for name, entry in result["strategies"].items():
        hits = entry["rollouts_to_target"]["reached"]
        table.add_row(
            name,
            f"{entry['learning_rate']:g}",
            f"{hits}/{len(entry['seeds'])}",
            *(_spread(entry[f"{cost}_to_target"], ",.0f") for cost, _ in _COSTS),
            _spread(entry["final"], ".3f"),
        )
    return table


def _ratios(result: dict[str, Any]) -> Table:
    table = Table(title="ratios, paired by seed", box=None)
    for head in ("pair", *(word for _, word in _COSTS), "final difference"):
        table.add_column(head, justify="left" if head == "pair" else "right")
    for pair, entry in result["ratios"].items():
        cells = [_spread(entry[cost], ".3f", entry[cost]["bounded"]) for cost, _ in _COSTS]
        table.add_row(pair, *cells, _spread(entry["final_difference"], "+.3f"))
    return table


def _spread(entry: dict[str, Any], form: str, bounded: int = 0) -> str:
    """`0.12 (0.10 to 0.20)`; an upper bound has a sign before it, a miss is said."""
    if entry["median"] is None:
        return "missed"
    low, high = (
        "missed" if entry[end] is None else format(entry[end], form) for end in ("low", "high")
    )
    return f"{'≤' if bounded else ''}{format(entry['median'], form)} ({low} to {high})"

"""A comparison on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from dopr.cli.shared import print_table

_COSTS = (("rollouts", "rollouts"), ("tokens", "tokens"), ("wall_s", "seconds"))


def print_comparison(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Tables of costs and of ratios, and one sentence of conclusion."""
    from dopr.report.data import read_source
    from dopr.report.summary import conclusion

    target = result["target"]
    metric = target["metric"].replace("k", str(target.get("k") or "k"))
    _print_costs(result, f"{metric} {target['value']:.3f}", console)
    if result["ratios"]:
        _print_ratios(result, console)
    console.print(f"target: {target['rule']}", markup=False, highlight=False)
    pool = result.get("pool")
    if pool:
        console.print(
            f"pool: {pool['size']} prompts, of which {pool['signal_rate']:.0%} carry a signal at "
            f"the start (groups of {pool['group_size']})",
            highlight=False,
        )
    console.print(conclusion(read_source(folder)), markup=False, highlight=False)


def _print_costs(result: dict[str, Any], title: str, console: Console) -> None:
    figures = ["learning rate", "reached", *(word for _, word in _COSTS), "final"]
    rows = [
        [
            name,
            f"{entry['learning_rate']:g}",
            f"{entry['rollouts_to_target']['reached']}/{len(entry['seeds'])}",
            *(_spread(entry[f"{cost}_to_target"], ",.0f") for cost, _ in _COSTS),
            _spread(entry["final"], ".3f"),
        ]
        for name, entry in result["strategies"].items()
    ]
    title = f"cost of reaching {title}: median (95% interval) over seeds"
    print_table(["strategy", *figures], rows, title=title, right=figures, console=console)


def _print_ratios(result: dict[str, Any], console: Console) -> None:
    figures = [*(word for _, word in _COSTS), "final difference"]
    rows = [
        [
            pair,
            *(_spread(entry[cost], ".3f", entry[cost]["bounded"]) for cost, _ in _COSTS),
            _spread(entry["final_difference"], "+.3f"),
        ]
        for pair, entry in result["ratios"].items()
    ]
    title = "ratios, paired by seed"
    print_table(["pair", *figures], rows, title=title, right=figures, console=console)


def _spread(entry: dict[str, Any], form: str, bounded: int = 0) -> str:
    """`0.12 (0.10 to 0.20)`; an upper bound has a sign before it, a miss is said."""
    if entry["median"] is None:
        return "missed"
    low, high = (
        "missed" if entry[end] is None else format(entry[end], form) for end in ("low", "high")
    )
    return f"{'≤' if bounded else ''}{format(entry['median'], form)} ({low} to {high})"

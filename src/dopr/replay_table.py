"""A replay on the terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_COLUMNS = (
    ("informative", "informative_share", ".3f"),
    ("p(1-p)", "mean_p1p", ".3f"),
    ("regret", "regret", ".3f"),
    ("coverage", "coverage", ".2f"),
    ("kept", "kept_share", ".2f"),
)


def print_replay(result: dict[str, Any], console: Console) -> None:
    """A table of strategies, the facts of the record, and what the table cannot tell."""
    settings, history = result["settings"], result["history"]
    visits = settings["visits"]
    seen = "rollouts to see learnable" + (f" {visits} times" if visits > 1 else "")
    runs = "1 seed" if settings["seeds"] == 1 else f"{settings['seeds']} seeds"
    table = Table(title=f"means over {runs} (95% interval)", box=None)
    table.add_column("strategy")
    for head in (*(title for title, _, _ in _COLUMNS), seen, "rollouts"):
        table.add_column(head, justify="right")
    for name, entry in result["strategies"].items():
        cells = [_spread(entry[measure], form) for _, measure, form in _COLUMNS]
        table.add_row(escape(name), *cells, _arrival(entry, settings), f"{entry['rollouts']:,}")
    console.print(table)
    lines = [
        f"history: {history['prompts']} prompts ({history['learnable']} learnable), "
        f"{history['epochs']} epochs, groups of {history['group_size']} "
        f"({history['group_size_from']}), {history['signal_rate']:.0%} of the recorded groups "
        "informative",
        *history["notes"],
        *(
            f"{name}: stopped in {entry['abandoned_steps']} of {entry['steps']} steps for asking "
            "too often"
            for name, entry in result["strategies"].items()
            if entry["abandoned_steps"]
        ),
        *(f"not replayed, {name}: {why}" for name, why in result["skipped"].items()),
        result["note"],
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _spread(entry: dict[str, Any], form: str) -> str:
    """`0.98 (0.97 to 0.99)`."""
    if entry["mean"] is None:
        return "-"
    low, high = ("-" if entry[end] is None else format(entry[end], form) for end in ("low", "high"))
    return f"{format(entry['mean'], form)} ({low} to {high})"


def _arrival(entry: dict[str, Any], settings: dict[str, Any]) -> str:
    arrival = entry["rollouts_to_see_learnable"]
    if arrival["mean"] is None:
        return f"never ({arrival['reached']}/{settings['seeds']})"
    return f"{arrival['mean']:,.0f}"

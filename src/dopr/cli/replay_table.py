"""A replay on the terminal."""

from typing import Any

from rich.console import Console

from dopr.cli.shared import print_table

_MEANS = (
    ("p(1-p)", "mean_p1p"),
    ("regret", "regret"),
    ("coverage", "coverage"),
    ("kept", "kept_share"),
)


def print_replay(result: dict[str, Any], console: Console) -> None:
    """A table of strategies, the facts of the record, and what the table cannot tell."""
    settings, history = result["settings"], result["history"]
    visits = settings["visits"]
    seen = "learnable seen at" + (f" ({visits} visits)" if visits > 1 else "")
    runs = "1 seed" if settings["seeds"] == 1 else f"{settings['seeds']} seeds"
    spread, *figures = "informative (95%)", *(title for title, _ in _MEANS), seen, "rollouts"
    rows = [
        [
            name,
            _spread(entry["informative_share"]),
            *(_number(entry[measure]["mean"]) for _, measure in _MEANS),
            _arrival(entry, settings),
            f"{entry['rollouts']:,}",
        ]
        for name, entry in result["strategies"].items()
    ]
    print_table(
        ["strategy", spread, *figures],
        rows,
        title=f"means over {runs}; --json has all 95% intervals",
        right=[spread, *figures],
        unbroken=[spread],
        console=console,
    )
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread(entry: dict[str, Any]) -> str:
    """`0.980 (0.970 to 0.990)`."""
    if entry["mean"] is None:
        return "-"
    return f"{_number(entry['mean'])} ({_number(entry['low'])} to {_number(entry['high'])})"


def _arrival(entry: dict[str, Any], settings: dict[str, Any]) -> str:
    arrival = entry["rollouts_to_see_learnable"]
    if arrival["mean"] is not None:
        return f"{arrival['mean']:,.0f}"
    reached = arrival["reached"]
    return f"in {reached} of {settings['seeds']} runs" if reached else "never"

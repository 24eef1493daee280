"""What several commands share: settings from the command line, and how things are printed."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

OVERRIDES = "Any setting can be given as --name value or --group.name value."
AddCommand = Callable[..., argparse.ArgumentParser]


def add_settings_arguments(command: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options of a command whose settings come from a file and from `--name value`.

    Args:
        command: the command; that it takes settings is kept as its default `takes_settings`.
        required: whether there must be a file.
    """
    command.set_defaults(takes_settings=True)
    command.add_argument("--config", metavar="FILE", required=required, help="YAML file")
    command.add_argument("--print-config", action="store_true", help="print the settings and stop")


def read_settings(arguments: argparse.Namespace, overrides: list[str], cls: Any) -> Any:
    """The dataclass `cls` from `--config` and the overrides on the command line."""
    from dopr.core.configuration import apply_overrides, build, load_yaml, parse_overrides

    mapping = load_yaml(arguments.config) if arguments.config else {}
    return build(cls, apply_overrides(mapping, parse_overrides(overrides)))


def print_config(settings: Any) -> int:
    """Print every setting as YAML; returns the exit status."""
    from dopr.core.configuration import to_mapping, to_yaml

    print(to_yaml(to_mapping(settings)), end="")
    return 0


def number(value: float | None) -> str:
    """A figure for a table, `-` where there is none."""
    return "-" if value is None else f"{value:.4f}"


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    right: Collection[str] = (),
    unbroken: Collection[str] = (),
    console: "Console | None" = None,
) -> None:
    """A plain table on the terminal.

    Args:
        head: names of the columns.
        rows: cells of each row, shown as they are: rich reads no markup in them.
        title: a line above the table.
        right: columns of figures, whose cells end alike.
        unbroken: columns whose cells stay on one line however narrow the terminal is.
        console: where to print; None: standard output.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0)
    )
    for name in head:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name in unbroken, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    (console or terminal()).print(table)


def terminal() -> "Console":
    """A terminal of rich; wide where the output goes into a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def hide_loading_bars() -> None:
    """No bars of transformers while weights are read."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

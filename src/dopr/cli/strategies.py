"""`dopr strategies`: the ways of choosing prompts."""

import argparse
import json

from dopr.cli.shared import AddCommand, print_table


def add_command(add: AddCommand) -> None:
    """Put `strategies` among the commands."""
    command = add("strategies", "List the ways of choosing prompts.", run)
    command.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.strategies import describe_strategies

    rows = describe_strategies()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    names = ["name", "summary", "source", "mark", "pays"]
    print_table(names, [[row[name] for name in names] for row in rows])
    return 0

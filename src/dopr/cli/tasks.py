"""`dopr tasks`: what can be trained on."""

import argparse
import json

from dopr.cli.shared import AddCommand, print_table

_EPILOG = "A task is named by --dataset; options follow the name: gym:chain_sum?max_terms=3."


def add_command(add: AddCommand) -> None:
    """Put `tasks` among the commands."""
    command = add("tasks", "List the tasks that can be trained on.", run)
    command.add_argument("filter", nargs="?", default="", help="only names that contain this")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.tasks import list_tasks

    tasks = [task for task in list_tasks() if arguments.filter in task["name"]]
    if arguments.json:
        print(json.dumps(tasks, indent=2, default=str))
        return 0
    rows = [
        [task["name"], task["summary"], " ".join(f"{k}={v}" for k, v in task["options"].items())]
        for task in tasks
    ]
    print_table(["task", "what it is", "options"], rows)
    return 0

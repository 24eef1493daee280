"""`dopr compare`: strategies over seeds on equal terms."""

import argparse
import json
from pathlib import Path

from dopr.cli.shared import (
    OVERRIDES,
    AddCommand,
    add_settings_arguments,
    hide_loading_bars,
    print_config,
    read_settings,
    terminal,
)

_EPILOG = f"{OVERRIDES} Example: dopr compare --config configs/demo.yaml --output_dir runs/x"


def add_command(add: AddCommand) -> None:
    """Put `compare` among the commands."""
    command = add("compare", "Compare strategies over seeds on equal terms.", run)
    add_settings_arguments(command, required=True)
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--json", action="store_true", help="print comparison.json")
    command.add_argument("--list-runs", action="store_true", help="print what is left to run")
    command.add_argument("--run", dest="one_run", metavar="NAME", help="make one of these runs")
    command.add_argument("--jobs", type=int, help="make so many runs at a time, side by side")
    command.add_argument("--worker", help=argparse.SUPPRESS)
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.compare.comparison import Comparison

    comparison = read_settings(arguments, overrides, Comparison)
    comparison.check()
    if arguments.print_config:
        return print_config(comparison)
    from dopr.cli.comparison_table import print_comparison
    from dopr.compare import missing_runs, run_comparison, run_one_of, run_side_by_side, work

    if arguments.list_runs:
        print("".join(f"{name}\n" for name in missing_runs(comparison)), end="")
        return 0
    hide_loading_bars()
    if arguments.one_run:
        return 0 if run_one_of(comparison, arguments.one_run, arguments.quiet) else 130
    if arguments.worker:
        number, jobs = map(int, arguments.worker.split("/"))
        return 0 if work(comparison, number, jobs, arguments.quiet) else 130
    if arguments.jobs is not None:
        same = ["compare", "--config", arguments.config, *overrides]
        same += ["--quiet"] if arguments.quiet else []
        if not run_side_by_side(comparison, arguments.jobs, same):
            print("stopped; the same command continues where this one was")
            return 130
    result = run_comparison(comparison, quiet=arguments.quiet)
    if result is None:
        print("stopped; the same command continues where this one was")
        return 130
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print_comparison(result, Path(comparison.output_dir), terminal())
    print(f"report: {Path(comparison.output_dir) / 'report.html'}")
    return 0

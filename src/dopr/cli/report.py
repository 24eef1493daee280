"""`dopr report`: the page about a run or a comparison."""

import argparse
import sys
from pathlib import Path

from dopr.cli.shared import AddCommand


def add_command(add: AddCommand) -> None:
    """Put `report` among the commands."""
    command = add("report", "Write the HTML page about a run or a comparison.", run)
    command.add_argument("run_dir", metavar="RUN_DIR")
    command.add_argument("--output", metavar="FILE", help="default: report.html in RUN_DIR")
    command.add_argument(
        "--watch",
        type=int,
        metavar="SECONDS",
        help="write the page every so often until the run is finished",
    )


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.report import write_report

    run_dir, output = Path(arguments.run_dir), Path(arguments.output) if arguments.output else None
    if arguments.watch is None:
        print(write_report(run_dir, output))
        return 0
    from dopr.report.watch import watch_report

    if arguments.watch >= 1:  # else it is refused
        where = output or run_dir / "report.html"
        print(f"writing {where} every {arguments.watch} s", file=sys.stderr)
    print(watch_report(run_dir, output, arguments.watch))
    return 0

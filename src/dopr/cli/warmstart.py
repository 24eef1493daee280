"""`dopr warmstart`: a small model with latent capability."""

import argparse
import contextlib
import json
import sys

from dopr.cli.shared import (
    OVERRIDES,
    AddCommand,
    add_settings_arguments,
    print_config,
    read_settings,
)

_EPILOG = (
    f"{OVERRIDES} Example: dopr warmstart --base MODEL --curate.data solutions.jsonl "
    "--curate.size 256 --learning_rate 1e-5 --measure_prompts 0 --output_dir runs/warm"
)


def add_command(add: AddCommand) -> None:
    """Put `warmstart` among the commands."""
    command = add("warmstart", "Make a small model with latent capability.", run)
    add_settings_arguments(command)
    command.add_argument(
        "--resume", action="store_true", help="go on with what was interrupted in output_dir"
    )
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.warmstart.finetune import WarmstartSettings, run_warmstart

    settings = read_settings(arguments, overrides, WarmstartSettings)
    if arguments.print_config:
        return print_config(settings)
    with contextlib.redirect_stdout(sys.stderr):  # where transformers prints its losses
        result = run_warmstart(settings, resume=arguments.resume)
    print(json.dumps(result, indent=2, default=str))
    return 0

"""`dopr train`: one run."""

import argparse

from dopr.cli.shared import (
    OVERRIDES,
    AddCommand,
    add_settings_arguments,
    hide_loading_bars,
    print_config,
    read_settings,
)

_EPILOG = (
    f"{OVERRIDES} Example: dopr train --dataset gym:chain_sum?size=500 --reward gym "
    "--max_rollouts 2000 --max_completion_length 64 --learning_rate 3e-5"
)


def add_command(add: AddCommand) -> None:
    """Put `train` among the commands."""
    command = add("train", "Train a model.", run)
    add_settings_arguments(command)
    command.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.runs.settings import TrainSettings

    settings = read_settings(arguments, overrides, TrainSettings)
    settings.check()
    if arguments.print_config:
        print("".join(f"# {departure}\n" for departure in settings.objective_departures), end="")
        return print_config(settings)
    from dopr.engines.trl.processes import is_first_process, leave_process_group
    from dopr.runs.train import train

    hide_loading_bars()
    result = train(settings, resume=arguments.resume, quiet=arguments.quiet)
    leave_process_group()
    where = f"{result.run_dir}: {result.steps} steps, {result.rollouts:,} rollouts"
    if result.signal is not None and not result.finished:
        again = f"--config {result.run_dir}/config.yaml --resume"
        if is_first_process():
            print(f"stopped, {where}; continue with: dopr train {again}")
        return 128 + result.signal
    last = result.evals[-1] if result.evals else {}
    score = f", avg@{last['k']} {last['avg@k']:.3f}" if last.get("avg@k") is not None else ""
    if is_first_process():
        early = ", early since no evaluation was better any more" if result.stopped_early else ""
        print(f"finished{early}, {where}, {result.training_seconds:.1f} s of training{score}")
        from dopr.report import write_report

        print(f"report: {write_report(result.run_dir)}")
    return 0

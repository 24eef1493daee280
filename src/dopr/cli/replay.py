"""`dopr replay`: strategies on recorded histories, without a model."""

import argparse
import json
import os

from dopr.cli.shared import AddCommand, terminal

_EPILOG = (
    "Counterfactual: the recorded policy learns what it learned, whatever is chosen. "
    "Example: dopr replay history.json --strategies dopr uniform-1 --strategy-args "
    "dopr.candidates=32 dopr.exploration=0"
)


def add_command(add: AddCommand) -> None:
    """Put `replay` among the commands."""
    command = add("replay", "Replay strategies on recorded histories, without a model.", run)
    command.add_argument(
        "history",
        metavar="HISTORY",
        nargs="+",
        help="JSON file of per-epoch accuracies, ledger.parquet, or run directory",
    )
    command.add_argument("--strategies", nargs="+", metavar="NAME", help="default: all of them")
    command.add_argument(
        "--strategy-args",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME.OPTION=VALUE",
        help="options of single strategies",
    )
    command.add_argument("--rollouts", type=int, help="budget (default: what the record took)")
    command.add_argument("--group-size", type=int, help="rollouts in a group (default: recorded)")
    command.add_argument(
        "--recorded-group-size", type=int, help="rollouts behind each rate (default: inferred)"
    )
    command.add_argument("--prompts-per-step", type=int, help="where a strategy has this option")
    command.add_argument("--seeds", type=int, default=4, help="runs of each (default: 4)")
    command.add_argument(
        "--visits", type=int, default=1, help="for a learnable prompt to count as seen (default: 1)"
    )
    command.add_argument(
        "--recorded-once",
        action="store_true",
        help="give each recorded rollout once an epoch, then coin flips of the recorded rate",
    )
    command.add_argument(
        "--feedback-delay",
        type=int,
        default=0,
        metavar="STEPS",
        help="after which a step's groups are known (default: 0)",
    )
    command.add_argument(
        "--offer-in-flight",
        action="store_true",
        help="with a delay, also offer prompts whose rewards are not in",
    )
    command.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that share the work (default: one a core)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from rich.console import Console

    from dopr.cli.replay_table import print_replay
    from dopr.core.configuration import parse_named_options
    from dopr.offline.histories import read_histories
    from dopr.offline.replay import ReplaySettings, replay

    settings = ReplaySettings(
        rollouts=arguments.rollouts,
        group_size=arguments.group_size,
        prompts_per_step=arguments.prompts_per_step,
        seeds=arguments.seeds,
        visits=arguments.visits,
        recorded_once=arguments.recorded_once,
        feedback_delay=arguments.feedback_delay,
        withhold_in_flight=not arguments.offer_in_flight,
        jobs=arguments.jobs,
    )
    settings.check()
    options = parse_named_options(arguments.strategy_args)
    history = read_histories(arguments.history, arguments.recorded_group_size)
    with Console(stderr=True).status("replaying") as status:
        result = replay(
            history,
            arguments.strategies,
            options,
            settings,
            lambda name: status.update(f"replayed {name}"),
        )
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return 0
    print_replay(result, terminal())
    return 0

"""The command `dopr`: its arguments; `dopr.commands` does what they ask for.

A user's mistake prints one line to standard error and exits with 2. Heavy packages are imported
by the subcommand that needs them, so that help is instant.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from dopr import commands
from dopr.cli_rewards import add_rewards
from dopr.errors import UserError

_OVERRIDES = "Any setting can be given as --name value or --group.name value."
_EPILOG = {
    "train": f"{_OVERRIDES} Example: dopr train --dataset gym:chain_sum?size=500 --reward gym "
    "--max_rollouts 2000 --learning_rate 3e-5",
    "compare": f"{_OVERRIDES} Example: dopr compare --config configs/demo.yaml --output_dir runs/x",
    "eval": "Example: dopr eval runs/train/model --dataset gym:chain_sum?size=200 --k 4",
    "replay": "Counterfactual: the recorded policy learns what it learned, whatever is chosen. "
    "Example: dopr replay history.json --strategies dopr uniform-1 --strategy-args "
    "dopr.candidates=32 dopr.exploration=0",
    "warmstart": f"{_OVERRIDES} Example: dopr warmstart --base MODEL --curate.data solutions.jsonl "
    "--curate.size 256 --learning_rate 1e-5 --measure_prompts 0 --output_dir runs/warm",
    "tasks": "A task is named by --dataset; options follow the name: gym:chain_sum?max_terms=3.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    arguments, overrides = _parse(list(sys.argv[1:] if argv is None else argv))
    _quiet_libraries()
    try:
        return int(arguments.run(arguments, overrides) or 0)
    except UserError as error:
        return _complain(str(error), 2)
    except OSError as error:
        from dopr.train import is_disk_error

        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if error.errno is not None and not is_disk_error(error):
            raise
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain("stopped at once; the last checkpoint stands", 130)


def _complain(text: str, status: int) -> int:
    print(f"dopr: error: {' '.join(text.split())}", file=sys.stderr)
    return status


# -- the command line ------------------------------------------------------------------------


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser, known = _parser()
    name = next((word for word in argv if word in known.choices), None)
    overrides: list[str] = []
    if name in ("train", "compare", "warmstart") and not {"-h", "--help"} & set(argv):
        argv, overrides = _split(argv, known.choices[name])
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        raise SystemExit(2)
    return arguments, overrides


def _split(argv: list[str], command: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The words argparse knows, and the settings `--name value` that it does not."""
    known = {o: a.nargs != 0 for a in command._actions for o in a.option_strings}
    ours: list[str] = []
    settings: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        target = ours if name in known or not word.startswith("--") else settings
        target.append(word)
        takes_value = known.get(name, True) if word.startswith("-") else False
        if takes_value and not equals:
            target.extend(value for value in [next(words, None)] if value is not None)
    return ours, settings


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    parser = argparse.ArgumentParser(
        prog="dopr",
        description="Reinforcement learning for reasoning models with few rollouts: the prompt is "
        "chosen before its rollouts are paid for.",
        allow_abbrev=False,
    )
    from dopr import __version__

    parser.add_argument("--version", action="version", version=f"dopr {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, text: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name, help=text, description=text, epilog=_EPILOG.get(name), allow_abbrev=False
        )
        command.set_defaults(run=run)
        return command

    _add_training(add)
    _add_replay(add)
    _add_plan(add)
    _add_rest(add)
    add_rewards(add)
    return parser, subparsers


def _add_training(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("train", "Train a model.", commands.train)
    command.add_argument("--config", metavar="FILE", help="YAML file with settings")
    command.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--print-config", action="store_true", help="print the settings and stop")
    command = add("compare", "Compare strategies over seeds on equal terms.", commands.compare)
    command.add_argument("--config", metavar="FILE", required=True, help="YAML file with the plan")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--json", action="store_true", help="print comparison.json")
    command.add_argument("--list-runs", action="store_true", help="print what is left to run")
    command.add_argument("--run", dest="one_run", metavar="NAME", help="make one of these runs")
    command.add_argument("--jobs", type=int, help="make so many runs at a time, side by side")
    command.add_argument("--worker", help=argparse.SUPPRESS)
    command.add_argument("--print-config", action="store_true", help="print the plan and stop")
    command = add("eval", "Measure avg@k and pass@k of a model.", commands.eval)
    command.add_argument("model", metavar="MODEL", help="local folder, Hub id, or tiny-reasoner")
    command.add_argument(
        "--dataset", action="append", required=True, help="a task; may be repeated"
    )
    command.add_argument("--reward", action="append", help="a reward (default: math)")
    command.add_argument("--k", type=int, default=1, help="samples a prompt (default: 1)")
    command.add_argument("--limit", type=int, help="at most so many prompts")
    command.add_argument("--split", default="test", help="split of the task (default: test)")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--top-p", type=float, default=1.0)
    command.add_argument("--max-completion-length", type=int, default=256, help="tokens")
    command.add_argument("--batch-size", type=int, default=256, help="sequences at once")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--chat", action="store_true", help="present prompts as chats")
    command.add_argument("--system-prompt", help="put before each prompt")
    command.add_argument("--trust-remote-code", action="store_true", help="run the model's code")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_replay(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add(
        "replay", "Replay strategies on recorded histories, without a model.", commands.replay
    )
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
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that share the work (default: one a core)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_plan(add: Callable[..., argparse.ArgumentParser]) -> None:
    from dopr.planning.command import EPILOG, add_arguments

    command = add(
        "plan", "Say what training will cost at least, and what strategies spend.", commands.plan
    )
    command.epilog = EPILOG
    add_arguments(command)


def _add_rest(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("report", "Write the HTML page about a run or a comparison.", commands.report)
    command.add_argument("run_dir", metavar="RUN_DIR")
    command.add_argument("--output", metavar="FILE", help="default: report.html in RUN_DIR")
    command.add_argument(
        "--watch",
        type=int,
        metavar="SECONDS",
        help="write the page every so often until the run is finished",
    )
    command = add("tasks", "List the tasks that can be trained on.", commands.tasks)
    command.add_argument("filter", nargs="?", default="", help="only names that contain this")
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add("strategies", "List the ways of choosing prompts.", commands.strategies)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add("warmstart", "Make a small model with latent capability.", commands.warmstart)
    command.add_argument("--config", metavar="FILE", help="YAML file with settings")
    command.add_argument("--print-config", action="store_true", help="print the settings and stop")


def _quiet_libraries() -> None:
    """Keep the libraries' chatter off the screen; warnings of dopr itself stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
    logging.basicConfig(format="dopr: %(message)s", level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("dopr").setLevel(logging.WARNING)
    logging.getLogger("trl").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

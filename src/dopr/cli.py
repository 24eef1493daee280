"""The command `dopr`: one thin function a subcommand.

A user's mistake prints one line to standard error and exits with 2. Heavy packages are imported
by the subcommand that needs them, so that help is instant.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    parser, commands = _parser()
    name = next((word for word in argv if word in commands.choices), None)
    overrides: list[str] = []
    if name in ("train", "compare", "warmstart") and not {"-h", "--help"} & set(argv):
        argv, overrides = _split(argv, commands.choices[name])
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, text: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, epilog=_EPILOG.get(name), allow_abbrev=False
        )
        command.set_defaults(run=run)
        return command

    _add_training(add)
    _add_replay(add)
    _add_plan(add)
    _add_rest(add)
    add_rewards(add)
    return parser, commands


def _add_training(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("train", "Train a model.", _train)
    command.add_argument("--config", metavar="FILE", help="YAML file with settings")
    command.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--print-config", action="store_true", help="print the settings and stop")
    command = add("compare", "Compare strategies over seeds on equal terms.", _compare)
    command.add_argument("--config", metavar="FILE", required=True, help="YAML file with the plan")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--json", action="store_true", help="print comparison.json")
    command.add_argument("--list-runs", action="store_true", help="print what is left to run")
    command.add_argument("--run", dest="one_run", metavar="NAME", help="make one of these runs")
    command.add_argument("--jobs", type=int, help="make so many runs at a time, side by side")
    command.add_argument("--worker", help=argparse.SUPPRESS)
    command.add_argument("--print-config", action="store_true", help="print the plan and stop")
    command = add("eval", "Measure avg@k and pass@k of a model.", _eval)
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
    command = add("replay", "Replay strategies on recorded histories, without a model.", _replay)
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
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_plan(add: Callable[..., argparse.ArgumentParser]) -> None:
    from dopr.planning.command import EPILOG, add_arguments

    command = add("plan", "Say what training will cost at least, and what strategies spend.", _plan)
    command.epilog = EPILOG
    add_arguments(command)


def _add_rest(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("report", "Write the HTML page about a run or a comparison.", _report)
    command.add_argument("run_dir", metavar="RUN_DIR")
    command.add_argument("--output", metavar="FILE", help="default: report.html in RUN_DIR")
    command = add("tasks", "List the tasks that can be trained on.", _tasks)
    command.add_argument("filter", nargs="?", default="", help="only names that contain this")
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add("strategies", "List the ways of choosing prompts.", _strategies)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = add("warmstart", "Make a small model with latent capability.", _warmstart)
    command.add_argument("--config", metavar="FILE", help="YAML file with settings")
    command.add_argument("--print-config", action="store_true", help="print the settings and stop")


# -- commands --------------------------------------------------------------------------------


def _settings(arguments: argparse.Namespace, overrides: list[str], cls: Any) -> Any:
    from dopr.mapping import apply_overrides, build, load_yaml, parse_overrides

    mapping = load_yaml(arguments.config) if arguments.config else {}
    return build(cls, apply_overrides(mapping, parse_overrides(overrides)))


def _print_config(settings: Any) -> int:
    from dopr.mapping import to_mapping, to_yaml

    print(to_yaml(to_mapping(settings)), end="")
    return 0


def _train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.settings import TrainSettings

    settings = _settings(arguments, overrides, TrainSettings)
    settings.check()
    if arguments.print_config:
        print("".join(f"# {departure}\n" for departure in settings.objective_departures), end="")
        return _print_config(settings)
    from dopr.train import train

    _hide_loading_bars()
    result = train(settings, resume=arguments.resume, quiet=arguments.quiet)
    where = f"{result.run_dir}: {result.steps} steps, {result.rollouts:,} rollouts"
    if result.signal is not None and not result.finished:
        again = f"--config {result.run_dir}/config.yaml --resume"
        print(f"stopped, {where}; continue with: dopr train {again}")
        return 128 + result.signal
    last = result.evals[-1] if result.evals else {}
    score = f", avg@{last['k']} {last['avg@k']:.3f}" if last.get("avg@k") is not None else ""
    print(f"finished, {where}, {result.training_seconds:.1f} s of training{score}")
    if (result.run_dir / "report.html").exists():
        print(f"report: {result.run_dir / 'report.html'}")
    return 0


def _compare(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.compare.plan import ComparePlan

    plan = _settings(arguments, overrides, ComparePlan)
    plan.check()
    if arguments.print_config:
        return _print_config(plan)
    from dopr.compare import missing_runs, run_comparison, run_one_of, run_side_by_side, work
    from dopr.compare.table import print_comparison

    if arguments.list_runs:
        print("".join(f"{name}\n" for name in missing_runs(plan)), end="")
        return 0
    _hide_loading_bars()
    if arguments.one_run:
        return 0 if run_one_of(plan, arguments.one_run, arguments.quiet) else 130
    if arguments.worker:
        number, jobs = map(int, arguments.worker.split("/"))
        return 0 if work(plan, number, jobs, arguments.quiet) else 130
    if arguments.jobs is not None:
        same = ["compare", "--config", arguments.config, *overrides]
        same += ["--quiet"] if arguments.quiet else []
        if not run_side_by_side(plan, arguments.jobs, same):
            print("stopped; the same command continues where this one was")
            return 130
    result = run_comparison(plan, quiet=arguments.quiet)
    if result is None:
        print("stopped; the same command continues where this one was")
        return 130
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print_comparison(result, Path(plan.output_dir), _console())
    print(f"report: {Path(plan.output_dir) / 'report.html'}")
    return 0


def _eval(arguments: argparse.Namespace, overrides: list[str]) -> int:
    for name, lowest in (("k", 1), ("batch_size", 1), ("max_completion_length", 1)):
        if getattr(arguments, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}")
    from dopr.evaluation import evaluate
    from dopr.models import best_device, fit_prompts, load_model
    from dopr.rewards import load_reward
    from dopr.tasks import load_task

    _hide_loading_bars()
    rewards = [load_reward(name) for name in arguments.reward or ["math"]]
    dataset = load_task(
        arguments.dataset,
        split=arguments.split,
        limit=arguments.limit,
        chat=arguments.chat,
        system_prompt=arguments.system_prompt,
    )
    model, tokenizer = load_model(arguments.model, trust_remote_code=arguments.trust_remote_code)
    dataset = fit_prompts(dataset, model, tokenizer, arguments.max_completion_length)
    result = evaluate(
        model.to(best_device()),
        tokenizer,
        dataset,
        rewards,
        k=arguments.k,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_new_tokens=arguments.max_completion_length,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    if arguments.json:
        totals = {"step": 0, "rollouts_total": 0, "generated_tokens_total": 0, "wall_s": 0.0}
        print(json.dumps(totals | result.summary, indent=2))
        return 0
    rows = []
    for name in ("avg@k", "pass@k"):
        value, low, high = (result.summary[f"{name}{end}"] for end in ("", "_low", "_high"))
        rows.append(
            [name.replace("@k", f"@{arguments.k}"), *(_number(v) for v in (value, low, high))]
        )
    _table(["", "value", "95% low", "high"], rows)
    unscored = result.summary["unscored"]
    note = f", {unscored} completions could not be scored" if unscored else ""
    print(f"{len(dataset)} prompts, {result.seconds:.1f} s{note}")
    return 0


def _replay(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from dopr.histories import read_histories
    from dopr.mapping import parse_named_options
    from dopr.replay import ReplaySettings, replay
    from dopr.replay_table import print_replay

    settings = ReplaySettings(
        rollouts=arguments.rollouts,
        group_size=arguments.group_size,
        prompts_per_step=arguments.prompts_per_step,
        seeds=arguments.seeds,
        visits=arguments.visits,
        recorded_once=arguments.recorded_once,
    )
    settings.check()
    options = parse_named_options(arguments.strategy_args)
    history = read_histories(arguments.history, arguments.recorded_group_size)
    with Console(stderr=True).status("reading") as status:
        result = replay(
            history,
            arguments.strategies,
            options,
            settings,
            lambda name, seed: status.update(f"{name}, seed {seed}"),
        )
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return 0
    print_replay(result, _console())
    return 0


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.planning.command import run

    if arguments.pilot:
        _hide_loading_bars()
    return run(arguments, _console())


def _report(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.report import write_report

    output = Path(arguments.output) if arguments.output else None
    print(write_report(Path(arguments.run_dir), output))
    return 0


def _tasks(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.tasks import list_tasks

    tasks = [task for task in list_tasks() if arguments.filter in task["name"]]
    if arguments.json:
        print(json.dumps(tasks, indent=2, default=str))
        return 0
    rows = [
        [task["name"], task["summary"], " ".join(f"{k}={v}" for k, v in task["options"].items())]
        for task in tasks
    ]
    _table(["task", "what it is", "options"], rows)
    return 0


def _strategies(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.strategies import describe_strategies

    rows = describe_strategies()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    names = ["name", "summary", "source", "mark", "pays"]
    _table(names, [[row[name] for name in names] for row in rows])
    return 0


def _warmstart(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.warmstart.train import WarmstartConfig, run_warmstart

    settings = _settings(arguments, overrides, WarmstartConfig)
    if arguments.print_config:
        return _print_config(settings)
    with contextlib.redirect_stdout(sys.stderr):  # where transformers prints its losses
        result = run_warmstart(settings)
    print(json.dumps(result, indent=2, default=str))
    return 0


# -- showing ---------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


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


def _hide_loading_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())

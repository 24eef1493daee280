"""What each command does, one thin function a command; `dopr.cli` reads the command line.

Heavy packages are imported by the command that needs them, so that help is instant.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from dopr.errors import UserError


def _settings(arguments: argparse.Namespace, overrides: list[str], cls: Any) -> Any:
    from dopr.mapping import apply_overrides, build, load_yaml, parse_overrides

    mapping = load_yaml(arguments.config) if arguments.config else {}
    return build(cls, apply_overrides(mapping, parse_overrides(overrides)))


def _print_config(settings: Any) -> int:
    from dopr.mapping import to_mapping, to_yaml

    print(to_yaml(to_mapping(settings)), end="")
    return 0


def train(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.settings import TrainSettings

    settings = _settings(arguments, overrides, TrainSettings)
    settings.check()
    if arguments.print_config:
        print("".join(f"# {departure}\n" for departure in settings.objective_departures), end="")
        return _print_config(settings)
    from dopr.processes import is_first_process, leave_process_group
    from dopr.train import train

    _hide_loading_bars()
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
        print(f"finished, {where}, {result.training_seconds:.1f} s of training{score}")
        if (result.run_dir / "report.html").exists():
            print(f"report: {result.run_dir / 'report.html'}")
    return 0


def compare(arguments: argparse.Namespace, overrides: list[str]) -> int:
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


def eval(arguments: argparse.Namespace, overrides: list[str]) -> int:
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


def replay(arguments: argparse.Namespace, overrides: list[str]) -> int:
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
    print_replay(result, _console())
    return 0


def plan(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.planning.command import run

    if arguments.pilot:
        _hide_loading_bars()
    return run(arguments, _console())


def report(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.report import write_report

    run_dir, output = Path(arguments.run_dir), Path(arguments.output) if arguments.output else None
    if arguments.watch is None:
        print(write_report(run_dir, output))
        return 0
    from dopr.report.watch import watch_report

    print(f"writing {output or run_dir / 'report.html'} every {arguments.watch} s", file=sys.stderr)
    print(watch_report(run_dir, output, arguments.watch))
    return 0


def tasks(arguments: argparse.Namespace, overrides: list[str]) -> int:
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


def strategies(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from dopr.strategies import describe_strategies

    rows = describe_strategies()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    names = ["name", "summary", "source", "mark", "pays"]
    _table(names, [[row[name] for name in names] for row in rows])
    return 0


def warmstart(arguments: argparse.Namespace, overrides: list[str]) -> int:
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


def _hide_loading_bars() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

"""`dopr plan`: its options, and what they set off. Light, since every help text loads it."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopr.cli.plan_memory import add_memory_arguments, run_memory
from dopr.cli.shared import AddCommand, hide_loading_bars, terminal
from dopr.core.errors import UserError

if TYPE_CHECKING:
    from dopr.offline.pool_rates import PoolRates

_EPILOG = (
    "Example: dopr plan --pass-rate 0.01 --group-size 8. A pilot: dopr plan --pilot tiny-reasoner "
    "--dataset tiny:leg_counting/half --reward gym --max-tokens 64 --price 0.5. Memory: dopr plan "
    "--memory --model Qwen/Qwen2.5-1.5B --dtype bfloat16 --gradient-checkpointing --device-gib 24"
)


def add_command(add: AddCommand) -> None:
    """Put `plan` among the commands."""
    command = add("plan", "Say what training will cost at least, and what strategies spend.", run)
    command.epilog = _EPILOG
    _add_arguments(command)


def _add_arguments(command: argparse.ArgumentParser) -> None:
    rates = command.add_argument_group("success rates, one of")
    rates.add_argument("--pass-rate", type=float, help="the same for every prompt, in (0, 1)")
    rates.add_argument(
        "--history", nargs="+", metavar="FILE", help="recorded accuracies, see dopr replay"
    )
    rates.add_argument("--pilot", metavar="MODEL", help="roll this model out a little first")
    pilot = command.add_argument_group("pilot")
    pilot.add_argument("--dataset", action="append", help="a task; may be repeated")
    pilot.add_argument("--reward", action="append", help="a reward (default: math)")
    pilot.add_argument("--pilot-rollouts", type=int, default=8, help="of each prompt (default: 8)")
    pilot.add_argument(
        "--pilot-prompts", type=int, default=64, help="a seeded sample (default: 64)"
    )
    pilot.add_argument("--temperature", type=float, default=1.0)
    pilot.add_argument("--trust-remote-code", action="store_true", help="run the model's code")
    plan = command.add_argument_group("plan")
    add = plan.add_argument
    add("--target", type=float, help="mean success rate to reach (default: halfway to 1)")
    add("--group-size", type=int, default=8, help="rollouts in a group (default: 8)")
    add("--groups-per-update", type=int, default=8, help="of a full update (default: 8)")
    add("--pool-size", type=int, help="prompts (default: all of the history or task, or 512)")
    add("--price", type=float, help="of 1000 rollouts")
    add("--delta", type=float, default=0.1, help="chance of failing (default: 0.1)")
    add("--kl", type=float, default=0.02, help="nats of a full update (default: 0.02)")
    add("--beta", type=float, default=0.04, help="weight of a KL penalty (default: 0.04)")
    add("--margin", type=float, default=1.0, help="of the base-model barrier (default: 1)")
    add("--max-tokens", type=int, help="tokens a completion may have (pilot: 256)")
    add("--solution-tokens", type=float, help="expected to the first right solution")
    add("--coverability", type=float, help="of the outcome-based bound")
    add("--horizon", type=float, help="decisions in a trajectory, of the outcome-based bound")
    add("--simulations", type=int, default=32, help="simulated pools (default: 32)")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print JSON")
    add("--plot", metavar="FILE.svg", help="draw the plan")
    add_memory_arguments(command)


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Make the plan and print it; returns the exit status.

    Raises:
        UserError: a mistake in the options or in what they name.
    """
    if arguments.pilot:
        hide_loading_bars()
    if arguments.memory:
        return run_memory(arguments, terminal())
    from rich.console import Console

    from dopr.cli.plan_tables import check_plot, print_plan, write_plot
    from dopr.offline.plan import make_plan
    from dopr.offline.plan_settings import PlanSettings

    plot = Path(arguments.plot) if arguments.plot else None
    if plot is not None:
        check_plot(plot)
    names = [f.name for f in fields(PlanSettings) if hasattr(arguments, f.name)]
    options = PlanSettings(**{name: getattr(arguments, name) for name in names})
    options.check()
    with Console(stderr=True).status("reading") as status:
        pool = _pool(arguments, options)
        plan = make_plan(pool, options, status.update)
    if plot is not None:
        write_plot(plan, plot)
    if arguments.json:
        print(json.dumps(plan, indent=2, allow_nan=False))
        return 0
    print_plan(plan, terminal())
    return 0


def _pool(arguments: argparse.Namespace, options: Any) -> "PoolRates":
    given = [
        name
        for name in ("pass_rate", "history", "pilot")
        if getattr(arguments, name) not in (None, [])
    ]
    if len(given) != 1:
        raise UserError("give success rates by one of --pass-rate, --history and --pilot")
    from dopr.offline.pool_rates import PoolRates

    if arguments.pass_rate is not None:
        return PoolRates.of_rate(arguments.pass_rate)
    if arguments.history:
        from dopr.offline.histories import read_histories

        return PoolRates.of_history(read_histories(arguments.history))
    from dopr.offline.pilot import PilotSettings, run_pilot
    from dopr.runs.settings import completion_length_for

    settings = PilotSettings(
        model=arguments.pilot,
        dataset=arguments.dataset or [],
        reward=arguments.reward or ["math"],
        rollouts=arguments.pilot_rollouts,
        prompts=arguments.pilot_prompts,
        max_tokens=options.max_tokens or completion_length_for(arguments.pilot),
        temperature=arguments.temperature,
        seed=arguments.seed,
        trust_remote_code=arguments.trust_remote_code,
    )
    options.max_tokens = settings.max_tokens
    return run_pilot(settings)

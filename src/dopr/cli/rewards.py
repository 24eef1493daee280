"""The command `dopr rewards`: its arguments, and what it prints."""

import argparse
import json
from typing import Any

from dopr.cli.shared import AddCommand, print_table
from dopr.core.errors import UserError


def add_command(add: AddCommand) -> None:
    """Put `rewards` among the commands."""
    command = add("rewards", "Fit reward models on frozen embeddings.", _no_action)
    actions = command.add_subparsers(title="actions", metavar="ACTION")
    text = "Embed scored responses once, fit a small head on them, and measure it."
    fit = actions.add_parser(
        "fit",
        help=text,
        description=text,
        epilog="Example: dopr rewards fit --data runs/train --embedder tiny-reasoner --head "
        "classify --output runs/reward; then dopr train --reward embedding:runs/reward ...",
        allow_abbrev=False,
    )
    fit.set_defaults(run=_fit)
    fit.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="rows of prompt, response and reward, or prompt, chosen and rejected "
        "(.jsonl, .parquet), or a run directory",
    )
    fit.add_argument("--output", required=True, metavar="DIR", help="folder for the head")
    fit.add_argument(
        "--embedder",
        metavar="MODEL",
        help="local folder, Hub id, tiny-reasoner (default), or sentence-transformers:NAME",
    )
    fit.add_argument("--head", help="bt (default), classify, boost or ensemble")
    fit.add_argument("--member", help="what an ensemble is made of (default: bt)")
    fit.add_argument("--members", type=int, help="heads of an ensemble (default: 5)")
    fit.add_argument("--aggregate", help="mean (default) or lowest of an ensemble's members")
    fit.add_argument("--reads", help="response (default), or prompt: predict success rates")
    fit.add_argument("--noise", help="shares of labels to flip, such as 0,0.1,0.3")
    fit.add_argument("--reward-column", metavar="NAME", help="where the reward stands")
    fit.add_argument("--hidden", type=int, help="width of a hidden layer (default: 0, linear)")
    fit.add_argument("--l2", type=float, help="weight of its squared norm (default: 1e-3)")
    fit.add_argument("--pairs-per-prompt", type=int, help="at most (default: 10)")
    fit.add_argument("--held-out", type=float, help="share of the prompts (default: 0.25)")
    fit.add_argument("--seed", type=int)
    fit.add_argument("--cache", metavar="DIR", help="of embeddings (default: in the output)")
    fit.add_argument("--batch-size", type=int, help="sequences at once (default: 32)")
    fit.add_argument("--dtype", help="of the embedder's weights (default: float32)")
    fit.add_argument("--trust-remote-code", action="store_true", help="run the embedder's code")
    fit.add_argument("--json", action="store_true", help="print report.json")


def _no_action(arguments: argparse.Namespace, overrides: list[str]) -> int:
    raise UserError("say what to do, as in `dopr rewards fit --data FILE --output DIR`")


def parse_shares(text: str) -> list[float]:
    """`"0,0.1"` as `[0.0, 0.1]`.

    Raises:
        UserError: something between the commas is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"cannot read --noise {text!r}; give numbers such as 0,0.1,0.3") from None


def _fit(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from transformers.utils.logging import disable_progress_bar

    from dopr.runs.reward_model.fit import FitSettings, fit_rewards

    disable_progress_bar()
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in FitSettings.__dataclass_fields__ and value is not None
    }
    if "noise" in given:
        given["noise"] = parse_shares(given["noise"])
    report = fit_rewards(FitSettings(**given))
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    _print_report(report)
    return 0


def _print_report(report: dict[str, Any]) -> None:
    settings, held_out, seconds = report["settings"], report["held_out"], report["seconds"]
    figures = report["noise"]
    names = [name for name in (figures[0] if figures else {}) if name != "best_of_n"]
    head = [name.replace("_", " ") for name in names]
    chosen = [_telling(row.get("best_of_n", [])) for row in figures]
    if chosen and chosen[0]:
        head += [f"best of {chosen[0]['n']:g}", "random", "oracle"]
    rows = []
    for row, best in zip(figures, chosen, strict=True):
        cells = [_number(row[name]) for name in names]
        cells += [_number(best[name]) for name in ("reward", "random", "oracle") if best]
        rows.append(cells + [""] * (len(head) - len(cells)))
    print_table(head, rows)
    print(
        f"{held_out['responses']} responses to {held_out['prompts']} held-out prompts; "
        f"{report['embedded']} embedded in {seconds['embed']:.1f} s, fitted in "
        f"{seconds['fit']:.1f} s"
    )
    if settings["reads"] == "response":
        print(f"use it with: --reward embedding:{settings['output']}")


def _telling(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of a best-of-n table, the largest n that at least half of the prompts have responses for."""
    enough = [row for row in rows if 2 * row["prompts"] >= rows[0]["prompts"]]
    return enough[-1] if enough else {}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

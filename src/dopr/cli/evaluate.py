"""`dopr eval`: what one model, or several, can do."""

import argparse
import gc
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopr.cli.shared import AddCommand, hide_loading_bars, number, print_table
from dopr.core.errors import UserError

if TYPE_CHECKING:
    from dopr.runs.evaluation import EvalResult

_EPILOG = (
    "Several models are put side by side in one table. Example: dopr eval tiny-reasoner "
    "runs/train/model --dataset gym:chain_sum?size=200 --k 4 --max-completion-length 64 "
    "--save answers.jsonl"
)
_SUFFIXES = (".jsonl", ".parquet")
_OVERLONG = ("drop", "error", "truncate")


def add_command(add: AddCommand) -> None:
    """Put `eval` among the commands."""
    command = add("eval", "Measure avg@k and pass@k of models.", run)
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs="+",
        help="folder, Hub id, GGUF file, or tiny-reasoner",
    )
    command.add_argument(
        "--dataset", action="append", required=True, help="a task; may be repeated"
    )
    command.add_argument(
        "--columns",
        metavar="MAPPING",
        help="where the names are not recognised: '{prompt: NAME, answer: NAME}'",
    )
    command.add_argument("--reward", action="append", help="a reward (default: math)")
    command.add_argument("--k", type=int, default=1, help="samples a prompt (default: 1)")
    command.add_argument("--limit", type=int, help="at most so many prompts")
    command.add_argument("--split", default="test", help="split of the task (default: test)")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument("--top-p", type=float, default=1.0)
    command.add_argument(
        "--max-completion-length",
        type=int,
        help="tokens (default: 256; 128 where the tiny model is among the models)",
    )
    command.add_argument("--max-prompt-length", type=int, help="tokens (default: as fits)")
    command.add_argument(
        "--overlong-prompts", default="error", help="error, drop or truncate (default: error)"
    )
    command.add_argument("--batch-size", type=int, default=256, help="sequences at once")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--chat", action="store_true", help="present prompts as chats")
    command.add_argument("--system-prompt", help="put before each prompt")
    command.add_argument(
        "--chat-template-kwargs",
        metavar="MAPPING",
        help="what else the chat template reads, such as '{enable_thinking: false}'",
    )
    command.add_argument("--stop", action="append", help="a text that ends a completion")
    command.add_argument(
        "--dtype", default="float32", help="of the weights: float32, bfloat16 or float16"
    )
    command.add_argument("--trust-remote-code", action="store_true", help="run the model's code")
    command.add_argument("--save", metavar="FILE", help="write the completions: .jsonl or .parquet")
    command.add_argument("--quiet", action="store_true", help="show no progress")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    from dopr.runs.settings import completion_length_for

    if arguments.max_completion_length is None:
        arguments.max_completion_length = completion_length_for(*arguments.model)
    _check(arguments)
    template_options = _mapping(arguments, "chat_template_kwargs")
    columns = _mapping(arguments, "columns")
    from dopr.policy.embedder import embedding_reward
    from dopr.rewards import load_reward
    from dopr.tasks import load_task

    hide_loading_bars()
    rewards = [
        load_reward(
            name,
            embedding=embedding_reward,
            max_completion_length=arguments.max_completion_length,
        )
        for name in arguments.reward or ["math"]
    ]
    dataset = load_task(
        arguments.dataset,
        split=arguments.split,
        limit=arguments.limit,
        columns=columns,
        chat=arguments.chat,
        system_prompt=arguments.system_prompt,
        name_sources=len(arguments.dataset) > 1,
    )
    found: list[dict[str, Any]] = []
    completions: list[dict[str, Any]] = []
    for name in arguments.model:
        try:
            summary, rows = _evaluate(name, dataset, rewards, template_options, arguments)
        except UserError:
            if found:  # what is paid for is told
                _print_all(found, arguments)
            raise
        found.append({"model": name} | summary)
        if arguments.save:
            completions += rows
            _write(Path(arguments.save), completions)  # what is paid for is kept
        gc.collect()
    _print_all(found, arguments)
    return 0


def _print_all(found: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        spent = ("step", "rollouts_total", "generated_tokens_total", "tokens_total")
        totals = dict.fromkeys(spent, 0) | {"wall_s": 0.0}
        lines = [totals | summary for summary in found]
        print(json.dumps(lines if len(lines) > 1 else lines[0], indent=2))
    elif len(found) > 1:
        _print_side_by_side(found, arguments.k)
    else:
        _print_one(found[0], arguments.k)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is loaded."""
    from dopr.core.configuration import above_zero, at_least, at_most, check_seeds
    from dopr.core.errors import unknown_name

    at_least(
        arguments,
        1,
        *("k", "batch_size", "max_completion_length", "max_prompt_length", "limit"),
    )
    at_least(arguments, 0, "temperature")
    above_zero(arguments, "top_p")
    at_most(arguments, 1, "top_p")
    check_seeds({"seed": arguments.seed})
    if arguments.overlong_prompts not in _OVERLONG:
        raise unknown_name("overlong_prompts", arguments.overlong_prompts, _OVERLONG)
    if arguments.save:
        file = Path(arguments.save)
        if file.suffix not in _SUFFIXES:
            raise UserError(f"--save {arguments.save!r} must end in {' or '.join(_SUFFIXES)}")
        if not file.parent.is_dir():
            raise UserError(f"there is no folder {str(file.parent)!r} for --save; make it first")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise UserError(f"--save {arguments.save!r} cannot be written; choose another")


def _mapping(arguments: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """An option that is a mapping, written as YAML.

    Raises:
        UserError: it is something else.
    """
    from dopr.core.configuration import read_value

    text = getattr(arguments, name)
    value = None if text is None else read_value(text)
    if text is not None and not isinstance(value, dict):
        raise UserError(
            f"--{name.replace('_', '-')} {text!r} is no mapping; write it as '{{name: value}}'"
        )
    return value


def _evaluate(
    name: str,
    dataset: Any,
    rewards: list[Any],
    template_options: dict[str, Any] | None,
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of one model, and its completions as rows of a table."""
    from dopr.policy.models import best_device, load_model
    from dopr.policy.prompts import within_context
    from dopr.policy.sampling import Sampling
    from dopr.runs.evaluation import evaluate
    from dopr.runs.progress import Goal, Progress

    model, tokenizer = load_model(
        name, dtype=arguments.dtype, trust_remote_code=arguments.trust_remote_code
    )
    dataset = within_context(
        dataset,
        model,
        tokenizer,
        arguments.max_completion_length,
        arguments.overlong_prompts,
        max_prompt_length=arguments.max_prompt_length,
        template_options=template_options,
    )
    sampling = Sampling(
        arguments.max_completion_length,
        arguments.temperature,
        arguments.top_p,
        arguments.batch_size,
        arguments.seed,
        template_options,
        generation_options={"stop_strings": arguments.stop} if arguments.stop else None,
    )
    progress = Progress(Goal(), name, arguments.quiet)
    try:
        result = evaluate(
            model.to(best_device()),
            tokenizer,
            dataset,
            rewards,
            sampling,
            k=arguments.k,
            on_progress=progress.counted,
        )
    finally:
        progress.close()
    texts = tokenizer.batch_decode(result.completion_ids, skip_special_tokens=True)
    return result.summary, _rows(name, dataset, texts, result)


def _rows(name: str, dataset: Any, texts: list[str], result: "EvalResult") -> list[dict[str, Any]]:
    """One row a completion, for --save."""
    k = result.rewards.shape[1]
    prompts = [row for row in dataset for _ in range(k)]
    values = zip(
        prompts, texts, result.completion_ids, result.rewards.ravel().tolist(), strict=True
    )
    return [
        {
            "model": name,
            "id": prompt["id"],
            "prompt": prompt["prompt"],
            "completion": text,
            "answer": prompt["answer"],
            "reward": None if math.isnan(reward) else reward,
            "tokens": len(ids),
        }
        for prompt, text, ids, reward in values
    ]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Completions as one JSON object a line, or as Parquet with chats and lists as JSON."""
    from dopr.core.files import replacing

    try:
        with replacing(file) as partial:
            if file.suffix == ".jsonl":
                lines = [json.dumps(row, ensure_ascii=False) for row in rows]
                partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
                return
            import pyarrow
            import pyarrow.parquet

            plain = [{key: _as_cell(value) for key, value in row.items()} for row in rows]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), partial)
    except OSError as error:
        raise UserError(f"--save {str(file)!r} cannot be written ({error.strerror})") from None


def _as_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _metrics(summary: dict[str, Any], k: int) -> list[tuple[str, list[str]]]:
    """avg@k and pass@k with the bounds of their intervals."""
    return [
        (
            name.replace("@k", f"@{k}"),
            [number(summary[f"{name}{e}"]) for e in ("", "_low", "_high")],
        )
        for name in ("avg@k", "pass@k")
    ]


def _print_one(summary: dict[str, Any], k: int) -> None:
    rows = [[name, *values] for name, values in _metrics(summary, k)]
    for title, part in summary.get("sets", {}).items():
        rows += [[f"{name} {title}", *values] for name, values in _metrics(part, k)]
    print_table(["", "value", "95% low", "high"], rows)
    unscored = summary["unscored"]
    note = f", {unscored} completions could not be scored" if unscored else ""
    signal = summary["signal_rate"]
    if signal is not None:
        note = f", signal rate {signal:.2f} in groups of {k}{note}"
    print(f"{summary['num_prompts']} prompts, {summary['eval_s']:.1f} s{note}")


def _print_side_by_side(found: list[dict[str, Any]], k: int) -> None:
    """One line a model, and one for each of its sets where there are several."""
    with_sets = any("sets" in summary for summary in found)
    rows = []
    for summary in found:
        for title, part in {"all": summary, **summary.get("sets", {})}.items():
            figures = [cell for _, values in _metrics(part, k) for cell in values]
            rest = [f"{part['mean_length']:.1f}", str(part["unscored"])]
            rows.append([summary["model"], *([title] if with_sets else []), *figures, *rest])
    head = ["model", *(["set"] if with_sets else [])]
    for name in (f"avg@{k}", f"pass@{k}"):
        head += [name, "95% low", "high"]
    print_table([*head, "tokens", "unscored"], rows)
    print(f"{found[0]['num_prompts']} prompts")

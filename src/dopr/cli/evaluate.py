"""`dopr eval`: what a model can do."""

import argparse
import json

from dopr.cli.shared import (
    AddCommand,
    hide_loading_bars,
    number,
    print_table,
)
from dopr.core.errors import UserError

_EPILOG = "Example: dopr eval runs/train/model --dataset gym:chain_sum?size=200 --k 4"


def add_command(add: AddCommand) -> None:
    """Put `eval` among the commands."""
    command = add("eval", "Measure avg@k and pass@k of a model.", run)
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
    command.epilog = _EPILOG


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Do what the command line asks for; returns the exit status."""
    for name, lowest in (("k", 1), ("batch_size", 1), ("max_completion_length", 1)):
        if getattr(arguments, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')} must be at least {lowest}")
    from dopr.policy.embedder import embedding_reward
    from dopr.policy.models import best_device, load_model, within_context
    from dopr.rewards import load_reward
    from dopr.runs.evaluation import evaluate
    from dopr.tasks import load_task

    hide_loading_bars()
    rewards = [
        load_reward(name, embedding=embedding_reward) for name in arguments.reward or ["math"]
    ]
    dataset = load_task(
        arguments.dataset,
        split=arguments.split,
        limit=arguments.limit,
        chat=arguments.chat,
        system_prompt=arguments.system_prompt,
    )
    model, tokenizer = load_model(arguments.model, trust_remote_code=arguments.trust_remote_code)
    dataset = within_context(dataset, model, tokenizer, arguments.max_completion_length)
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
            [name.replace("@k", f"@{arguments.k}"), *(number(v) for v in (value, low, high))]
        )
    print_table(["", "value", "95% low", "high"], rows)
    unscored = result.summary["unscored"]
    note = f", {unscored} completions could not be scored" if unscored else ""
    print(f"{len(dataset)} prompts, {result.seconds:.1f} s{note}")
    return 0

"""Adds to kept runs the tokens that were read to choose by.

    python benchmarks/count_reading.py docs/results/mixed/* docs/results/rivals/*/*   # and so on

Evaluations of today say `tokens_total`, generated and read. Those of runs from before say the
generated alone; what was read follows from the rule: `dopr` reads each prompt once, by one layer,
64 candidates of an epoch at a time; `gps` and `graph` read the whole pool before their first step,
by all layers. A prompt counts with the pool's mean length. Nothing is trained; evaluations that say
`tokens_total` stay as they are.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from dopr.policy.models import load_model
from dopr.policy.prompts import prompt_lengths
from dopr.runs.settings import TrainSettings
from dopr.tasks import load_task

CANDIDATES = 64
ALL_AT_FIRST = ("gps", "graph")


def pool_of(base: dict[str, Any], model_name: str) -> tuple[int, int, int]:
    """Prompts of a comparison's pool, their tokens, and the layers of its model."""
    chat = bool(base.get("chat", TrainSettings().chat))
    rows = load_task(base["dataset"], split="train", chat=chat)
    model, tokenizer = load_model(model_name)
    return len(rows), int(prompt_lengths(rows, tokenizer).sum()), model.config.num_hidden_layers


def settings_of(folder: Path, config: dict[str, Any], name: str) -> dict[str, Any]:
    """What a strategy was run with, its tuned settings included."""
    entry = dict(config["strategies"].get(name, {}))
    tuning = folder / "tuning.json"
    tuned = json.loads(tuning.read_text())["strategies"] if tuning.exists() else {}
    chosen = tuned.get(name, {}).get("chosen", {})
    arguments = entry.get("strategy_args", {}) | chosen.get("strategy_args", {})
    return config["base"] | entry | chosen | {"strategy_args": arguments}


def read_share(rollouts: float, settings: dict[str, Any], size: int, layers: int) -> float:
    """Of a pool's tokens, those read by then; part of the layers is that part of a token."""
    if settings.get("strategy") in ALL_AT_FIRST:
        return float(rollouts > 0)
    options = settings["strategy_args"]
    if settings.get("strategy") != "dopr" or options.get("prior", "predicted") != "predicted":
        return 0.0
    step = options.get("prompts_per_step", 4) * settings.get(
        "num_generations", TrainSettings().num_generations
    )
    candidates = min(options.get("candidates", CANDIDATES), size)
    return min(1.0, rollouts / step * candidates / size) / layers


def add_reading(folder: Path, model: str | None) -> int:
    """Renew one folder's runs; how many evaluations were added to."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    file = next(folder / name for name in ("runs.json", "curves.json") if (folder / name).exists())
    kept = json.loads(file.read_text())
    size, tokens, layers = pool_of(config["base"], model or config["base"]["model"])
    added = 0
    for name, by_seed in kept.items():
        settings = settings_of(folder, config, name)
        for run in by_seed.values():
            for row in run["evals"] if isinstance(run, dict) else run:
                if "tokens_total" not in row:
                    read = tokens * read_share(row["rollouts_total"], settings, size, layers)
                    row["tokens_total"] = row["generated_tokens_total"] + round(read)
                    added += 1
    file.write_text(json.dumps(kept) + "\n")
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", help="in place of one that is not kept, of the same shape")
    options = parser.parse_args()
    for folder in options.folders:
        print(f"{folder}: {add_reading(folder, options.model)} evaluations")


if __name__ == "__main__":
    main()

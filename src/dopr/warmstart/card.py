"""The model card of a model made by the warm start."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopr.warmstart.habits import HABITS

if TYPE_CHECKING:
    from dopr.warmstart.curate import CurateSettings
    from dopr.warmstart.finetune import WarmstartSettings

PACKAGES = ("torch", "transformers", "trl", "tokenizers", "reasoning-gym")

_EVAL_ONLY = ("greedy", "careful_forced")


def command(config: WarmstartSettings) -> str:
    """The command line that makes this model again: every setting that is not the default."""
    words = ["dopr", "warmstart"]
    default, config = type(config)(), public(config)
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        always = item.name in ("output_dir", "seed")
        if not always and value == getattr(default, item.name):
            continue
        if item.name == "curate":
            words += _curate_words(value)
            continue
        text = f"[{','.join(value)}]" if item.name == "families" else str(value)
        words += [f"--{item.name}", shlex.quote(text)]
    return " ".join(words)


def public(config: WarmstartSettings) -> WarmstartSettings:
    """The settings with names in place of this machine's paths."""
    if config.base is None and config.curate is None:
        return dataclasses.replace(config, output_dir="tiny-reasoner")
    base, curate = config.base, config.curate
    if base is not None and Path(base).expanduser().is_dir():
        base = Path(base).name
    if curate is not None:
        curate = dataclasses.replace(curate, data=Path(curate.data).name)
        if curate.embedder is not None and Path(curate.embedder).expanduser().is_dir():
            curate = dataclasses.replace(curate, embedder=Path(curate.embedder).name)
    name = Path(config.output_dir).name
    return dataclasses.replace(config, output_dir=name, base=base, curate=curate)


def _curate_words(curate: CurateSettings) -> list[str]:
    """The settings of the curation that are not the default."""
    default, words = type(curate)(curate.data), []
    for item in dataclasses.fields(curate):
        value = getattr(curate, item.name)
        if item.name == "data" or value != getattr(default, item.name):
            words += [f"--curate.{item.name}", shlex.quote(str(value))]
    return words


def figures_table(figures: dict[str, dict[str, Any]]) -> str:
    """Measured figures as a Markdown table, one line a family and pool."""
    lines = [
        "| family | pool | prompts | accuracy | signal rate | none / some / all right "
        "| careful | guess | sloppy | greedy | careful forced | tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, pools in figures.items():
        for pool, found in pools.items():
            split = " / ".join(f"{found[key]:.2f}" for key in ("hopeless", "mixed", "solved"))
            numbers = [f"{found[key]:.2f}" for key in ("accuracy", "signal_rate")]
            habits = [f"{found[f'{habit}_accuracy']:.2f}" for habit in HABITS]
            extra = [f"{found[key]:.2f}" if key in found else "" for key in _EVAL_ONLY]
            cells = [family, pool, f"{found['prompts']:.0f}", *numbers, split, *habits, *extra]
            lines.append(f"| {' | '.join([*cells, format(found['mean_tokens'], '.0f')])} |")
    return "\n".join(lines)


_CARD = """---
license: apache-2.0
library_name: transformers
tags: [reasoning-gym, rlvr, test-bed]
---
# tiny-reasoner

A language model of {parameters:,} parameters for trying reinforcement learning on a laptop. It was
trained from scratch on reasoning-gym problems ({families}) answered
in three habits: careful steps ({careful:.0%}), bare guesses ({guess:.0%}) and sloppy steps
({sloppy:.0%}). So it can do far more than it mostly does, which is what reinforcement learning
brings out. It is of no other use.

- Prompts: reasoning-gym's questions as they are. Answers: `<answer>...</answer>`.
- Weights: float32, safetensors. Tokenizer: one token a character or fixed phrase.

## How it was made

    {command}

{facts_steps} steps in which no step slips, so that the facts are learned, then {steps} steps on the
mixture; {batch_size} completions a step, peak learning rates {learning_rate} and {second_rate},
seed {seed}. It took {seconds:.0f} seconds on {threads} threads ({machine}).
Versions: {versions}.

## Figures

Temperature 1, at most 64 new tokens, {measure_rollouts} rollouts a prompt, reasoning-gym's score of
1.0 counted as right. Signal rate: share of groups of 8 with differing rewards. `careful`, `guess`,
`sloppy`: accuracy among the completions in that habit. `careful forced`: every completion made to
begin carefully. The pools are in `dopr.tasks.tiny_pools`; `eval` shares no prompt with the others.

{figures}
"""


_CURATED_CARD = """---
library_name: transformers
tags: [rlvr, warm-start]
---
# {name}

{origin}, finetuned for {steps} steps on {trained_on}.

    {command}

{batch_size} completions a step, peak learning rate {rate:.4g}, seed {seed}; it took {seconds:.0f}
seconds on {threads} threads. Versions: {versions}. Figures, if measured, are in `warmstart.json`.
"""


def _curated_card(
    config: WarmstartSettings, result: dict[str, Any], versions: dict[str, str]
) -> str:
    """The card of a model with a base of its own, or with curated solutions."""
    trained_on, rate = "the mixture of habits of dopr's warm start", config.learning_rate
    if config.curate is not None:
        found = result["curation"]
        trained_on = (
            f"{sum(found['chosen'])} of {found['correct']} correct solutions "
            f"({config.curate.keep}; of each cluster {found['chosen']}; `curated.jsonl`)"
        )
    if config.base is None:
        origin = f"A model of {result['parameters']:,} parameters"
        if config.facts_steps:
            origin += f", taught the families' facts in {config.facts_steps} steps"
            rate *= config.mixture_rate
    else:
        origin = f"The model `{public(config).base}`"
    return _CURATED_CARD.format(
        name=Path(config.output_dir).name,
        origin=origin,
        trained_on=trained_on,
        command=command(config),
        steps=config.steps,
        batch_size=config.batch_size,
        rate=rate,
        seed=config.seed,
        seconds=result["train_seconds"],
        threads=result["threads"],
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )


def write_card(folder: Path, config: WarmstartSettings, result: dict[str, Any]) -> None:
    """Write `README.md` and `warmstart.json` (settings and figures) into the model's folder.

    Args:
        folder: the model's folder.
        config: how it was made.
        result: what `run_warmstart` returns.
    """
    versions = {name: version(name) for name in PACKAGES}
    if config.base is None and config.curate is None:
        text = _habits_card(config, result, versions)
    else:
        text = _curated_card(config, result, versions)
    (folder / "README.md").write_text(text, encoding="utf-8")
    settings = dataclasses.asdict(public(config))
    record = {"settings": settings, "versions": versions}
    record |= {key: value for key, value in result.items() if key != "output_dir"}
    path = folder / "warmstart.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _habits_card(
    config: WarmstartSettings, result: dict[str, Any], versions: dict[str, str]
) -> str:
    total = sum(config.shares.values())
    return _CARD.format(
        parameters=result["parameters"],
        families=", ".join(config.families),
        careful=config.careful_share / total,
        guess=config.guess_share / total,
        sloppy=config.sloppy_share / total,
        command=command(config),
        facts_steps=config.facts_steps,
        steps=config.steps,
        second_rate=f"{config.learning_rate * config.mixture_rate:.4g}",
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        seconds=result["train_seconds"],
        threads=result["threads"],
        machine=f"Python {platform.python_version()}, {platform.machine()}",
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
        measure_rollouts=config.measure_rollouts,
        figures=figures_table(result["figures"]) if result["figures"] else "Not measured.",
    )

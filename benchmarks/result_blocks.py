"""Generated parts of the pages: tables between `<!-- made: NAME ... -->` and `<!-- end -->`.

A maker takes the words that follow its name in the marker and gives the lines between the markers.
Folders and files are below docs/results. A new study needs no line here: `made: kept FOLDER` puts
in the table that its own maker left there. Tables of other measurements are in
result_blocks_speed.py and result_blocks_theory.py.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import mixed_study
import numpy as np
import result_costs
import yaml
from matched import COSTS, OURS, area, final
from publish_comparison import on_the_way, spread

from dopr.core.statistics import median_with_interval, paired_difference

RESULTS = Path(__file__).parent.parent / "docs" / "results"
TIMES = {1: "", 2: ", used twice", 3: ", used three times"}
MAKERS: dict[str, Callable[..., str]] = {}


def block(function: Callable[..., str]) -> Callable[..., str]:
    """Offers a maker under its name, `made: delay-replay` for `delay_replay`."""
    MAKERS[function.__name__.replace("_", "-")] = function
    return function


def data(name: str) -> Any:
    """A JSON file below docs/results."""
    return json.loads((RESULTS / name).read_text())


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    lines = [_line(heads), _line(["---"] * len(heads)), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


@block
def kept(folder: str, *section: str) -> str:
    """A folder's table.md, or what stands in it under one heading, such as `pool half`."""
    text = (RESULTS / folder / "table.md").read_text()
    if not section:
        return text
    wanted = " ".join(section)
    parts = {}
    for part in text.split("### ")[1:]:
        heading, _, body = part.partition("\n")
        parts[heading.replace("`", "").lower()] = body.strip() + "\n"
    return parts[wanted.lower()]


@block
def costs() -> str:
    """Three costs of `dopr` against references in every arena."""
    return result_costs.table(result_costs.arenas())


def step(config: dict[str, Any], entry: dict[str, Any], name: str) -> str:
    """A strategy's step in words: `4 of 64 x 4, used three times`."""
    settings = config["base"] | config["strategies"][name]
    given = entry["strategy_args"]
    candidates = f" of {given.get('candidates', 64)}" if entry["strategy"] == "dopr" else ""
    size = f"{given['prompts_per_step']}{candidates} x {entry['num_generations']}"
    return size + TIMES[settings.get("num_iterations", 1)]


@block
def comparison(folder: str) -> str:
    """What each strategy of a comparison needed to the target, in three costs, and its end."""
    found = data(f"{folder}/comparison.json")
    config = yaml.safe_load((RESULTS / folder / "config.yaml").read_text())
    rows = []
    for name, entry in found["strategies"].items():
        cost, seconds = entry["rollouts_to_target"], entry["wall_s_to_target"]
        rows.append(
            [
                f"`{name}`",
                step(config, entry, name),
                f"{entry['learning_rate']:g}",
                f"{cost['reached']}/{len(cost['per_seed'])}",
                spread(cost, ",.0f"),
                spread(entry["tokens_to_target"], ",.0f"),
                "missed" if seconds["median"] is None else f"{seconds['median']:.0f}",
                spread(entry["final"], ".3f"),
            ]
        )
    heads = ("strategy", "step", "learning rate", "reached", "rollouts", "tokens", "seconds")
    return table([*heads, "final"], rows)


@block
def comparison_ratios(folder: str, ours: str) -> str:
    """A strategy's costs to the target over each other's, paired by seed."""
    found = data(f"{folder}/comparison.json")
    rows = [
        [
            f"`{ours}` / `{name.split('/')[1]}`",
            *(spread(pair[cost], ".3f") for cost in ("rollouts", "tokens", "wall_s")),
            spread(pair["final_difference"], "+.3f"),
        ]
        for name, pair in found["ratios"].items()
        if name.startswith(f"{ours}/")
    ]
    heads = ("ratio, paired by seed", "rollouts", "tokens", "seconds", "final difference")
    return table(heads, rows)


@block
def comparison_short(folder: str) -> str:
    """Rollouts to the target and final accuracy, a line a strategy."""
    found = data(f"{folder}/comparison.json")
    config = yaml.safe_load((RESULTS / folder / "config.yaml").read_text())
    rows = []
    for name, entry in found["strategies"].items():
        random = "" if entry["strategy"] == "dopr" else " random"
        words = step(config, entry, name).replace(" x ", f"{random} prompts x ", 1)
        rows.append(
            [
                f"`{name}`: {words}",
                spread(entry["rollouts_to_target"], ",.0f"),
                f"{entry['final']['median']:.3f}",
            ]
        )
    heads = ("", f"rollouts to {found['target']['value']:g}", "final accuracy")
    return table(heads, rows)


@block
def to_final(folder: str, *names: str) -> str:
    """Of a study by kinds: what `dopr` pays for what the named strategies end with."""
    return paid_for(folder, OURS, *names)


@block
def paid_for(folder: str, ours: str, *names: str) -> str:
    """Of a study by kinds: what one strategy pays for what the others end with."""
    runs = mixed_study.kept_runs(RESULTS / folder)
    rows = []
    for name in names:
        entry = mixed_study.against(runs, name, ours)
        ratios = [spread(entry[cost], ".2f") for cost in COSTS]
        rows.append([f"`{name}`", f"{entry['matched_final']:.3f}", *ratios])
    seeds = f"{len(runs[ours])} seeds" if len(runs[ours]) > 1 else "one seed"
    heads = (f"`{ours}` against, {seeds}", "its final", "rollouts", "tokens", "seconds")
    return table(heads, rows)


@block
def ends(folder: str) -> str:
    """Of a study by kinds: what its strategies come to, the median over seeds."""
    runs = mixed_study.kept_runs(RESULTS / folder)
    start = next(iter(runs[OURS].values()))["evals"][0]["avg@k"]
    rows = []
    for name, by_seed in runs.items():
        found = list(by_seed.values())
        middle, end = (median_with_interval(list(map(f, found))) for f in (area, final))
        groups = median_with_interval([run["informative"] for run in found])
        spent = int(found[0]["evals"][-1]["rollouts_total"])
        cells = (f"{spent:,}", *(spread(entry, ".3f") for entry in (middle, end)))
        seeds = f"{len(found)} seeds" if len(found) > 1 else "one seed"
        rows.append([f"`{name}`, {seeds}", *cells, f"{groups['median']:.2f}"])
    heads = (f"from {start:.3f}", "rollouts", "mean accuracy on the way", "at the end")
    return table([*heads, "informative groups"], rows)


@block
def tried(folder: str) -> str:
    """Of a study's tuning on one seed: every try's accuracy, and where the best one ends."""
    kept = RESULTS / folder
    runs = mixed_study.kept_runs(kept)
    rows = []
    for name, by_try in json.loads((kept / "tries.json").read_text()).items():
        (best,) = runs[name].values()
        on_way = [
            fmean(accuracies[1:]) for by_seed in by_try.values() for accuracies in by_seed.values()
        ]
        first, last = best["evals"][0], best["evals"][-1]
        tries = ", ".join(f"{mean:.3f}" for mean in sorted(on_way, reverse=True))
        cells = (f"{last['rollouts_total']:,.0f}", tries, f"{last['avg@k']:.3f}")
        rows.append([f"`{name}`", *cells, f"{best['informative']:.2f}"])
    heads = ("rollouts", "mean accuracy on the way, by try", "the best try at the end")
    return table([f"from {first['avg@k']:.3f}", *heads, "informative groups"], rows)


@block
def foretold(folder: str) -> str:
    """Of runs that say what they expect: success expected and found, and how these go together."""
    rows = []
    for name, by_seed in mixed_study.kept_runs(RESULTS / folder).items():
        pairs = [np.array(run["forecasts"]) for run in by_seed.values() if run.get("forecasts")]
        if not pairs:
            continue
        told = [
            median_with_interval([float(measure(one)) for one in pairs])
            for measure in (
                lambda one: one[:, 0].mean(),
                lambda one: one[:, 1].mean(),
                lambda one: np.corrcoef(one.T)[0, 1],
            )
        ]
        steps = f"{sum(map(len, pairs))} steps"
        rows.append([f"`{name}`, {steps}", *(spread(entry, ".2f") for entry in told)])
    heads = ("", "success expected", "found", "correlation, step by step")
    return table(heads, rows)


@block
def planned(folder: str) -> str:
    """Of a study by kinds: ends of runs planned shorter, against the reference's whole runs."""
    found = mixed_study.summarise(mixed_study.kept_runs(RESULTS / folder))["planned for half"]
    names = list(next(iter(found.values()))["kinds"])
    rows = [
        [
            f"`{name}`",
            *(spread(entry[cost], ".2f") for cost in mixed_study.PLANNED),
            f"{entry['final']:.3f}",
            *(mixed_study.difference(entry["kinds"][kind]) for kind in names),
        ]
        for name, entry in found.items()
    ]
    heads = ("planned for half", *mixed_study.PLANNED, "ends with")
    return table([*heads, *map(mixed_study.kind_of, names)], rows)


@block
def kinds(folder: str, name: str) -> str:
    """Of a study by kinds: accuracy of each, `dopr` minus one other, on the way."""
    entry = mixed_study.against(mixed_study.kept_runs(RESULTS / folder), name)
    names = list(entry["the end"])
    rows = [
        [part, *(mixed_study.difference(entry[part][kind]) for kind in names)]
        for part in mixed_study.PARTS
    ]
    return table([f"against `{name}`, after", *map(mixed_study.kind_of, names)], rows)


@block
def delay(folder: str) -> str:
    """Rollouts to the target; mean accuracy; final accuracy, a column a family that is kept."""
    families = {
        file.parent.name: (json.loads(file.read_text()), data(_curves(file)))
        for file in sorted((RESULTS / folder).glob("*/comparison.json"))
    }
    names = dict.fromkeys(n for found, _ in families.values() for n in found["strategies"])
    rows = [
        [f"`{name}`", *(_delayed(name, *family) for family in families.values())]
        for name in sorted(names, key=_by_delay)
    ]
    heads = [f"{family}, to {c['target']['value']:g}" for family, (c, _) in families.items()]
    return table(["", *heads], rows)


def _by_delay(name: str) -> tuple[str, int, str]:
    stem, _, number = name.removesuffix("-again").rpartition("-")
    return (stem, int(number), name) if number.isdigit() else (name, 0, name)


def _curves(comparison_file: Path) -> str:
    return str(comparison_file.with_name("curves.json").relative_to(RESULTS))


def _delayed(name: str, found: dict[str, Any], curves: dict[str, Any]) -> str:
    if name not in found["strategies"]:
        return ""
    entry = found["strategies"][name]
    mean = on_the_way(curves[name], found["target"]["metric"])
    cost = spread(entry["rollouts_to_target"], ",.0f")
    return f"{cost}; {mean:.3f}; {entry['final']['median']:.3f}"


@block
def answer_likelihood() -> str:
    """What likelihoods of reference answers tell, by model."""
    files = sorted((RESULTS / "answer-likelihood").glob("*.json"))
    found = [json.loads(file.read_text()) for file in files]
    heads = ["", *(file.stem for file in files)]
    parts = {
        "correlation": "correlation with the success rate",
        "informative": "informative groups of four",
    }
    rows = [
        [f"{text}: {name}", *(f"{one[part][name]:.2f}" for one in found)]
        for part, text in parts.items()
        for name in found[0][part]
    ]
    return table(heads, rows)


@block
def objectives(folder: str) -> str:
    """Objectives: rate, rollouts, final accuracy and its difference to the first one's."""
    found = data(f"{folder}/comparison.json")
    base = next(iter(found["strategies"]))
    target = f"rollouts to {found['target']['value']:.2f}"
    rows = []
    for name, entry in sorted(
        found["strategies"].items(),
        key=lambda item: (item[1]["rollouts_to_target"]["median"], item[0] != base),
    ):
        ends = (found["strategies"][one]["final"]["per_seed"] for one in (name, base))
        rows.append(
            [
                f"`{name}`",
                f"{entry['learning_rate']:.1e}".replace("e-0", "e-").replace(".0e", "e"),
                spread(entry["rollouts_to_target"], ",.0f"),
                spread(entry["final"], ".3f"),
                "" if name == base else spread(paired_difference(*ends), "+.3f"),
            ]
        )
    return table(["objective", "rate", target, "final accuracy", f"minus `{base}`, by seed"], rows)


@block
def tailor(name: str) -> str:
    """Curated warm starts: clusters chosen, accuracy at the start, rollouts, end."""
    found = data(f"related/{name}.json")
    rows = []
    for arm, entry in found["arms"].items():
        starts = sorted(entry["accuracy_at_start"])
        rows.append(
            [
                f"`{arm}`",
                ", ".join(map(str, entry["curation"]["chosen"])),
                f"{starts[len(starts) // 2]:.3f}",
                spread(entry["rollouts_to_target"], ",.0f", "missed by all"),
                f"{entry['final']['median']:.3f}",
            ]
        )
    heads = ("finetuned on", "clusters", "accuracy at the start")
    return table([*heads, f"rollouts to {found['target']:g}", "final"], rows)


@block
def arms(name: str) -> str:
    """A related study: accuracy of every arm, and the differences that it tells."""
    found = data(f"related/{name}.json")["final_accuracy"]
    rows = []
    for arm, entry in found["arms"].items():
        fixed = entry["low"] == entry["high"]
        rows.append([arm, f"{entry['median']:.3f}" if fixed else spread(entry, ".3f")])
    rows += [[pair, spread(entry, "+.3f")] for pair, entry in found["differences"].items()]
    return table(["", "accuracy, or difference by seed"], rows)

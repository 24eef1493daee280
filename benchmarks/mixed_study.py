"""What a finished comparison on a pool of several kinds says of each kind.

    python benchmarks/mixed_study.py runs/studies/mixed/half docs/results/mixed/half
    python benchmarks/mixed_study.py --tries runs/studies/smollm2/equations \\
        docs/results/smollm2/equations

Keeps config.yaml and tuning.json, and the evaluations of every run by kind and the sources of what
was chosen (runs.json; strategies that were not run again stay as they were kept); writes
summary.json, table.md and spread.svg. With `--tries` the runs are those of the tuning: of each
strategy the try that is best on average, with every try's accuracies beside it (tries.json). Given
the second folder alone it makes the three anew from what is kept, as `make results` does for every
such folder. Nothing is trained.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matched import (
    COSTS,
    OURS,
    REFERENCE,
    Run,
    Runs,
    area,
    cost_ratios,
    final,
    lines,
    matched_final,
)
from picture import COLOURS, pyplot, save
from publish_comparison import spread

from dopr.core.configuration import load_yaml
from dopr.core.statistics import median_with_interval, paired_difference

PARTS = {"a quarter": 0.25, "half": 0.5, "the end": 1.0}
PLANNED = ("rollouts", "tokens")  # seconds are told of runs of one length
BINS = 16
HALF = "-half"  # the name of a strategy that was planned for half of the budget ends so


def read_runs(folder: Path) -> Runs:
    """Strategy -> seed -> evaluations by kind, and how many prompts of each source were chosen."""
    found: Runs = {}
    for run in sorted(folder.glob("runs/*/seed-*")):
        if ended(run):
            name, seed = run.parent.name, run.name.removeprefix("seed-")
            found.setdefault(name, {})[seed] = read_run(run)
    return found


def read_tries(folder: Path) -> dict[str, dict[str, Runs]]:
    """Strategy -> try -> seed -> run, of a comparison's tuning."""
    found: dict[str, dict[str, Runs]] = {}
    for run in sorted(folder.glob("tuning/*/*/seed-*")):
        if ended(run):
            tries = found.setdefault(run.parent.parent.name, {})
            seed = run.name.removeprefix("seed-")
            tries.setdefault(run.parent.name, {})[seed] = read_run(run)
    return found


def best_tries(tries: dict[str, dict[str, Runs]]) -> Runs:
    """Strategy -> seed -> the run of the try that is best on average, over the seeds too."""

    def mean_area(by_seed: Runs) -> float:
        return float(np.mean([area(run) for run in by_seed.values()]))

    return {name: max(by_try.values(), key=mean_area) for name, by_try in tries.items()}


def scores(tries: dict[str, dict[str, Runs]]) -> dict[str, Any]:
    """Of every try and seed the accuracy of its evaluations."""
    return {
        name: {
            label: {seed: [row["avg@k"] for row in run["evals"]] for seed, run in by_seed.items()}
            for label, by_seed in by_try.items()
        }
        for name, by_try in tries.items()
    }


def ended(run: Path) -> bool:
    """Whether all its rollouts were made and evaluated; saving may have failed after that."""
    if (run / "done.json").exists():
        return bool(json.loads((run / "done.json").read_text())["finished"])
    settings, evals = run / "config.yaml", run / "eval.jsonl"
    if not (settings.exists() and evals.exists()):  # killed at once
        return False
    budget = float(load_yaml(settings)["max_rollouts"])
    return bool(lines(evals)[-1]["rollouts_total"] >= budget)


def read_run(run: Path) -> Run:
    """What is kept of a run; `forecasts` are the mean success of each step's prompts, expected and
    found.
    """
    metrics = lines(run / "metrics.jsonl")
    return {
        "evals": [
            {field: row[field] for field in (*COSTS.values(), "generated_tokens_total")}
            | {"avg@k": row["avg@k"]}
            | {"kinds": {name: one["avg@k"] for name, one in row.get("sets", {}).items()}}
            for row in lines(run / "eval.jsonl")
        ],
        "informative": informative_share(run),
        "sources": [
            [row["rollout/rollouts_total"], row["select/sources"]]
            for row in metrics
            if row.get("select/sources")
        ],
        "forecasts": [
            [row["select/forecast"], float(np.mean(row["select/success"]))]
            for row in metrics
            if "select/forecast" in row and None not in (row["select/success"] or [None])
        ],
    }


def informative_share(run: Path) -> float:
    """Of a run's groups, those whose rewards differ; of one that was not saved, by their means."""
    if (run / "done.json").exists():
        done = json.loads((run / "done.json").read_text())
        return float(done.get("informative_groups", 0) / max(done.get("groups", 0), 1))
    means = [mean for row in lines(run / "metrics.jsonl") for mean in row["select/success"]]
    return float(np.mean([mean is not None and 0 < mean < 1 for mean in means]))


def at(run: Run, rollouts: float) -> dict[str, Any]:
    """The last evaluation up to so many rollouts."""
    return [row for row in run["evals"] if row["rollouts_total"] <= rollouts][-1]


def against(runs: Runs, rival: str, ours: str = OURS) -> dict[str, Any]:
    """`dopr` against a rival: the cost of its median final accuracy, and kinds on the way."""
    seeds = sorted(set(runs[ours]) & set(runs[rival]), key=int)
    pairs = [(runs[ours][seed], runs[rival][seed]) for seed in seeds]
    target = matched_final({seed: runs[rival][seed] for seed in seeds})
    result: dict[str, Any] = {"matched_final": target}
    for cost, field in COSTS.items():
        values, bounded = cost_ratios(pairs, target, field)
        result[cost] = median_with_interval(values) | {"per_seed": values, "bounded": bounded}
    end = min(run["evals"][-1]["rollouts_total"] for pair in pairs for run in pair)
    for part, share in PARTS.items():
        rows = [(at(ours, share * end), at(theirs, share * end)) for ours, theirs in pairs]
        result[part] = {
            kind: paired_difference(
                [ours["kinds"][kind] for ours, _ in rows],
                [theirs["kinds"][kind] for _, theirs in rows],
            )
            for kind in rows[0][0]["kinds"]
        } | {
            "all": paired_difference(
                *zip(*[(a["avg@k"], b["avg@k"]) for a, b in rows], strict=True)
            )
        }
    return result


def summarise(runs: Runs) -> dict[str, Any]:
    return {
        "finals": {
            name: median_with_interval([final(run) for run in by_seed.values()])
            for name, by_seed in runs.items()
        },
        "seeds": len(runs[OURS]),
        "against": {name: against(runs, name) for name in whole(runs) if name != OURS},
        "planned for half": {name: planned(runs, name) for name in runs if name.endswith(HALF)},
    }


def whole(runs: Runs) -> list[str]:
    """Strategies that were run with the whole budget."""
    return [name for name in runs if not name.endswith(HALF)]


def planned(runs: Runs, name: str) -> dict[str, Any]:
    """The end of a run that was planned shorter, against the end of the reference's whole runs.

    Nothing depends on which evaluation happens to be the first above a value.
    """
    seeds = sorted(set(runs[name]) & set(runs[REFERENCE]), key=int)
    ends = [(runs[name][s]["evals"][-1], runs[REFERENCE][s]["evals"][-1]) for s in seeds]
    shares = {
        cost: median_with_interval([own[field] / other[field] for own, other in ends])
        for cost, field in COSTS.items()
        if cost in PLANNED
    }
    kinds = {
        kind: paired_difference(
            [own["kinds"][kind] for own, _ in ends], [other["kinds"][kind] for _, other in ends]
        )
        for kind in ends[0][0]["kinds"]
    }
    every = paired_difference([own["avg@k"] for own, _ in ends], [o["avg@k"] for _, o in ends])
    mean = float(np.mean([own["avg@k"] for own, _ in ends]))
    return shares | {"final": mean, "kinds": kinds | {"all": every}}


def kind_of(name: str) -> str:
    """`tiny:ab/eval` as `ab`."""
    return name.partition(":")[2].partition("/")[0] or name


def table(summary: dict[str, Any]) -> str:
    rows = [
        f"| `dopr` against, {summary['seeds']} seeds | its final | rollouts | tokens | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, entry in summary["against"].items():
        cells = [spread(entry[cost], ".2f") for cost in COSTS]
        rows.append(f"| `{name}` | {entry['matched_final']:.3f} | {' | '.join(cells)} |")
    kinds = list(next(iter(summary["against"].values()))["the end"])
    rows += ["", "Accuracy, `dopr` minus it (mean and 95% interval over seeds):", ""]
    rows += [
        "| against | after | " + " | ".join(map(kind_of, kinds)) + " |",
        "| --- | --- |" + " --- |" * len(kinds),
    ]
    for name, entry in summary["against"].items():
        for part in PARTS:
            cells = [difference(entry[part][kind]) for kind in kinds]
            rows.append(f"| `{name}` | {part} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def difference(entry: dict[str, Any]) -> str:
    """A mean difference and its interval."""
    return f"{entry['mean']:+.3f} ({entry['mean_low']:+.3f} to {entry['mean_high']:+.3f})"


def shares(by_seed: dict[str, Any], sources: Sequence[str], edges: np.ndarray) -> np.ndarray:
    """Share of each source among the prompts chosen between these rollouts, mean over seeds."""
    all_seeds = []
    for run in by_seed.values():
        counts = np.zeros((len(edges) - 1, len(sources)))
        for rollouts, chosen in run["sources"]:
            place = min(int(np.searchsorted(edges, rollouts, side="left")) - 1, len(counts) - 1)
            for number, source in enumerate(sources):
                counts[max(place, 0), number] += chosen.get(source, 0)
        all_seeds.append(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return np.mean(all_seeds, axis=0)


def draw(runs: Runs, output: Path) -> None:
    """What part of the choice went to each kind: a panel a strategy, the mean over seeds."""
    runs = {name: runs[name] for name in whole(runs)}
    sources = sorted({s for r in runs[OURS].values() for _, chosen in r["sources"] for s in chosen})
    end = max(run["sources"][-1][0] for by in runs.values() for run in by.values())
    edges = np.linspace(0, end, BINS + 1)
    figure, all_axes = pyplot().subplots(1, len(runs), figsize=(3.2 * len(runs), 3.0), sharey=True)
    for axes, (name, by_seed) in zip(np.atleast_1d(all_axes), runs.items(), strict=True):
        found = shares(by_seed, sources, edges)
        axes.stackplot(
            (edges[:-1] + edges[1:]) / 2, found.T, colors=COLOURS[: len(sources)], labels=sources
        )
        axes.set(title=name, xlabel="rollouts", ylim=(0, 1), xlim=(edges[0], edges[-1]))
    np.atleast_1d(all_axes)[0].set_ylabel("share of the prompts chosen")
    figure.legend(
        *np.atleast_1d(all_axes)[0].get_legend_handles_labels(),
        loc="upper center",
        ncols=len(sources),
    )
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    save(figure, output)


def kept_runs(folder: Path) -> Runs:
    found: Runs = json.loads((folder / "runs.json").read_text())
    return found


def texts(folder: Path) -> dict[str, str]:
    """What is made of kept runs, by the file's name."""
    summary = summarise(kept_runs(folder))
    return {"summary.json": json.dumps(summary, indent=1) + "\n", "table.md": table(summary)}


def draw_accuracy(runs: Runs, output: Path) -> None:
    """Accuracy over rollouts, the mean over seeds."""
    figure, axes = pyplot().subplots(figsize=(5.0, 3.2))
    for colour, (name, by_seed) in zip(cycle(COLOURS), runs.items(), strict=False):
        evals = [run["evals"] for run in by_seed.values()]
        means = np.mean([[row["avg@k"] for row in rows] for rows in evals], axis=0)
        axes.plot([row["rollouts_total"] for row in evals[0]], means, color=colour, label=name)
    axes.set(xlabel="rollouts", ylabel="accuracy")
    axes.legend(fontsize="small", frameon=False)
    figure.tight_layout()
    save(figure, output)


def pictures(folder: Path, output: Path) -> None:
    """Draws the figures of kept runs into a folder: of how few prompts suffice the accuracy, else
    the spread, if they chose from several sources.
    """
    runs = kept_runs(folder)
    if folder.name == "few":
        draw_accuracy(runs, output / "accuracy.svg")
        return
    if all(run["sources"] for by_seed in runs.values() for run in by_seed.values()):
        draw(runs, output / "spread.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="the runs and where they are kept")
    parser.add_argument("--tries", action="store_true", help="of the tuning")
    options = parser.parse_args()
    folders = options.folders
    kept = folders[-1]
    if len(folders) == 2:
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "tuning.json"):
            if (folders[0] / name).exists():
                shutil.copy(folders[0] / name, kept / name)
        before = kept_runs(kept) if (kept / "runs.json").exists() else {}
        if options.tries:
            tries = read_tries(folders[0])
            (kept / "tries.json").write_text(json.dumps(scores(tries), indent=1) + "\n")
        runs = best_tries(tries) if options.tries else read_runs(folders[0])
        (kept / "runs.json").write_text(json.dumps(before | runs) + "\n")
    made = texts(kept)
    for name, text in made.items():
        (kept / name).write_text(text)
    pictures(kept, kept)
    print(made["table.md"])


if __name__ == "__main__":
    main()

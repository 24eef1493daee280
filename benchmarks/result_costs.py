"""The three costs of `dopr` against references in each arena: the first table of docs/results.md.

Every arena is read from what is kept of it, curves.json of a comparison or runs.json of a study by
kinds, and measured alike: what `dopr` had paid at its first evaluation with at least the accuracy
that the reference ends with (its last evaluation, median over seeds), as a share of what the
reference had paid at its own first such evaluation. `make results` draws costs.svg from the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matched import COSTS, OURS, Runs, cost_ratios, final, matched_final
from picture import COLOURS, pyplot, save
from publish_comparison import spread

from dopr.core.statistics import median_with_interval

RESULTS = Path(__file__).parent.parent / "docs" / "results"
REFERENCES = ("uniform-tuned", "grpo")
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


@dataclass(frozen=True)
class Arena:
    """Folders that are one row: families of a pool, each with its own seeds.

    Args:
        name: in table and figure.
        folders: pattern below docs/results; an arena without a folder is left out.
    """

    name: str
    folders: str


ARENAS = (
    Arena("the demo", "demo"),
    Arena("three kinds in one pool", "mixed/half"),
    Arena("half pools", "rivals/half/*"),
    Arena("hard pools", "rivals/hard/*"),
)


def kept_runs(folder: Path) -> Runs:
    """Strategy -> seed -> evaluations with rollouts, tokens, seconds and accuracy."""
    if (folder / "runs.json").is_file():
        runs: Runs = json.loads((folder / "runs.json").read_text())
        return runs
    curves = json.loads((folder / "curves.json").read_text())
    return {
        name: {seed: {"evals": rows} for seed, rows in by_seed.items()}
        for name, by_seed in curves.items()
    }


def matched(found: Runs, reference: str) -> dict[str, Any]:
    """Ratios of costs to what the reference ends with, and final differences, seed by seed."""
    seeds = sorted(set(found[OURS]) & set(found[reference]), key=int)
    pairs = [(found[OURS][seed], found[reference][seed]) for seed in seeds]
    target = matched_final({seed: found[reference][seed] for seed in seeds})
    result: dict[str, Any] = {"target": target}
    for cost, field in COSTS.items():
        values, bounded = cost_ratios(pairs, target, field)
        result[cost] = {"per_seed": values, "bounded": bounded}
    result["final_difference"] = [final(own) - final(other) for own, other in pairs]
    return result


def pooled(folders: list[Path], reference: str) -> dict[str, Any] | None:
    """The same over families, pairs together; None where none of them ran the reference."""
    kept = [kept_runs(folder) for folder in folders]
    parts = [matched(one, reference) for one in kept if {OURS, reference} <= set(one)]
    if not parts:
        return None
    result: dict[str, Any] = {
        "targets": [part["target"] for part in parts],
        "pairs": sum(len(part["final_difference"]) for part in parts),
        "final_difference": median_with_interval(
            [value for part in parts for value in part["final_difference"]]
        ),
    }
    for cost in COSTS:
        values = [value for part in parts for value in part[cost]["per_seed"]]
        bounded = sum(part[cost]["bounded"] for part in parts)
        result[cost] = median_with_interval(values) | {"bounded": bounded}
    return result


def arenas() -> dict[str, dict[str, Any]]:
    """Arena -> reference -> its figures, for those that are kept."""
    found: dict[str, dict[str, Any]] = {}
    for arena in ARENAS:
        folders = sorted(folder for folder in RESULTS.glob(arena.folders) if folder.is_dir())
        for reference in REFERENCES:
            entry = pooled(folders, reference) if folders else None
            if entry is not None:
                found.setdefault(arena.name, {})[reference] = entry
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row an arena and reference."""
    lines = [
        "| arena (pairs of runs) | `dopr` against | rollouts | tokens | seconds | final accuracy |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, references in found.items():
        for reference, entry in references.items():
            cells = [spread(entry[cost], ".2f", missed="`dopr` missed") for cost in COSTS]
            final = spread(entry["final_difference"], "+.3f")
            label = f"{name} ({entry['pairs']})"
            lines.append(f"| {label} | `{reference}` | {' | '.join(cells)} | {final} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[str, Any]], output: Path) -> None:
    """A panel a reference: the three ratios of every arena with their intervals."""
    names = list(found)[::-1]
    figure, panels = pyplot().subplots(
        1, len(REFERENCES), figsize=(9.2, 1.3 + 0.5 * len(names)), sharey=True
    )
    for axes, reference in zip(panels, REFERENCES, strict=True):
        for place, name in enumerate(names):
            entry = found[name].get(reference)
            for number, cost in enumerate(COSTS):
                if entry is None or entry[cost]["median"] is None:
                    continue
                _mark(axes, entry[cost], place + 0.22 * (1 - number), COLOURS[number])
        axes.axvline(1, color="#777777", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_xlim(TICKS[0] * 0.8, TICKS[-1] * 1.5)
        axes.set_title(f"dopr's cost / {reference}'s", fontsize=10)
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    handles = [
        pyplot().Line2D([], [], color=COLOURS[number], marker="o", linestyle="", label=cost)
        for number, cost in enumerate(COSTS)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(COSTS), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    save(figure, output)


def _mark(axes: Any, entry: dict[str, Any], height: float, colour: str) -> None:
    """A median with its interval; hollow where it is an upper bound."""
    low = entry["low"] or entry["median"]
    high = entry["high"] or TICKS[-1] * 1.5
    axes.plot([low, high], [height, height], color=colour, linewidth=1.3)
    fill = "none" if entry["bounded"] else "full"
    axes.plot(entry["median"], height, "o", color=colour, fillstyle=fill, markersize=5)

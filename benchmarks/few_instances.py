"""Table and figure of the few-instances study, over families and seeds.

    python benchmarks/publish_comparison.py RUNS/ab docs/results/few-instances/ab
    python benchmarks/few_instances.py docs/results/few-instances

The first keeps one finished comparison (for each family); the second reads all that are kept and
writes table.md and accuracy.svg beside them. Nothing is trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from picture import pyplot, save

COLOURS = ("#0072b2", "#d55e00", "#009e73")


def size_of(name: str, pool: int) -> int:
    return pool if name == "all" else int(name.removeprefix("n"))


def pool_size(comparison: dict[str, Any]) -> int:
    """Prompts of the whole pool, from the dataset's URL."""
    url = comparison["dataset"]
    return int(url.split("size=")[1].split("&")[0])


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Comparisons by family, with the dataset that their runs chose from and their curves."""
    found = {}
    for file in sorted(folder.glob("*/comparison.json")):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        found[file.parent.name] = json.loads(file.read_text()) | {
            "dataset": config["base"]["dataset"],
            "curves": json.loads((file.parent / "curves.json").read_text()),
        }
    return found


def accuracies(comparison: dict[str, Any], name: str) -> list[list[float]]:
    """Each run's evaluations."""
    return [[row["avg@k"] for row in run] for run in comparison["curves"][name].values()]


def rows(comparison: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """(prompts, the strategy's entry and the highest evaluation of its runs), fewest first."""
    pool = pool_size(comparison)
    found = []
    for name, entry in comparison["strategies"].items():
        highest = float(np.median([max(run) for run in accuracies(comparison, name)]))
        found.append((size_of(name, pool), entry | {"highest": highest}))
    return sorted(found, key=lambda row: row[0])


def cell(entry: dict[str, Any]) -> str:
    final, cost = entry["final"], entry["rollouts_to_target"]
    median = "missed" if cost["median"] is None else f"{cost['median']:,.0f}"
    reached = f"{cost['reached']}/{len(cost['per_seed'])}"
    spread = f"{final['median']:.3f} ({final['low']:.3f} to {final['high']:.3f})"
    return f"{spread}; {entry['highest']:.3f}; {median} ({reached})"


def table(families: dict[str, dict[str, Any]]) -> str:
    """Markdown: final accuracy; highest evaluation; rollouts to the target (seeds that reached)."""
    heads = [f"{name}, to {c['target']['value']:g}" for name, c in families.items()]
    lines = ["| prompts | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    by_family = [dict(rows(comparison)) for comparison in families.values()]
    for size in sorted(set().union(*by_family)):
        cells = [cell(found[size]) if size in found else "" for found in by_family]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(output: Path, families: dict[str, dict[str, Any]]) -> None:
    """Final accuracy against the number of prompts; dotted: before training, hollow: highest."""
    figure, axes = pyplot().subplots(figsize=(6.4, 4.0))
    for number, (family, comparison) in enumerate(families.items()):
        colour = COLOURS[number % len(COLOURS)]
        found = rows(comparison)
        sizes = [size for size, _ in found]
        middle = np.array([entry["final"]["median"] for _, entry in found])
        low = np.array([entry["final"]["low"] for _, entry in found])
        high = np.array([entry["final"]["high"] for _, entry in found])
        axes.errorbar(
            sizes, middle, [middle - low, high - middle], color=colour, marker="o", label=family
        )
        start = float(np.median([run[0] for run in accuracies(comparison, "all")]))
        axes.axhline(start, color=colour, linestyle=":", linewidth=1)
        highest = [entry["highest"] for _, entry in found]
        axes.plot(sizes, highest, color=colour, linestyle="", marker="^", fillstyle="none")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("training prompts (log scale)")
    axes.set_ylabel("final accuracy, median over seeds")
    axes.set_title("dotted: before training; hollow: highest on the way", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    save(figure, output / "accuracy.svg")


def texts(folder: Path) -> dict[str, str]:
    """What is made of the kept comparisons, by the file's name."""
    return {"table.md": table(read(folder))}


def pictures(folder: Path, output: Path) -> None:
    """Draws the figure of the kept comparisons into a folder."""
    draw(output, read(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, text in texts(folder).items():
        (folder / name).write_text(text)
        print(text)
    pictures(folder, folder)


if __name__ == "__main__":
    main()

"""Make every table, figure and number of README.md and docs/ anew from what is committed.

    make results                                   # or: python benchmarks/make_results.py
    python benchmarks/make_results.py --texts      # leaves the pictures as they are
    python benchmarks/make_results.py --check      # writes nothing; fails where something differs

Nothing is trained: all comes from the JSON (and configurations) below docs/results. Three layers:

- STUDIES: makers of the tables and pictures that lie beside the data they are made from. A further
  folder of a study is found by its pattern.
- Pages: what stands between `<!-- made: NAME ... -->` and `<!-- end -->` is written by the maker of
  that name (result_blocks.py and its neighbours).
- Figures in running text: docs/figures.yaml, see result_figures.py.

Pictures have no dates and fixed identifiers, so that a clean checkout stays clean.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import few_instances
import mixed_study
import publish_comparison
import result_blocks_speed
import result_blocks_theory
import result_costs
import result_delay
import result_figures
import rivals_study
import strategy_study
from result_blocks import MAKERS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
BLOCKS = (
    result_blocks_speed,
    result_blocks_theory,
    result_delay,
)  # importing them offers their makers


@dataclass(frozen=True)
class Study:
    """How the files of a study's folder are made from what was kept in it.

    Args:
        kept: pattern below docs/results of a file that only such a folder has; the study's folder
            is `up` levels above it.
        texts: folder -> file name -> what belongs in it.
        pictures: draws what belongs in the folder into another one, or into the folder.
    """

    kept: str
    texts: Callable[[Path], dict[str, str]]
    pictures: Callable[[Path, Path], None]
    up: int = 1

    def folders(self) -> list[Path]:
        return sorted({file.parents[self.up - 1] for file in RESULTS.glob(self.kept)})


def no_texts(folder: Path) -> dict[str, str]:
    return {}


def cost_picture(folder: Path, output: Path) -> None:
    result_costs.draw(result_costs.arenas(), output / "costs.svg")


def delay_picture(folder: Path, output: Path) -> None:
    result_delay.draw(output)


STUDIES = (
    Study("**/comparison.json", publish_comparison.texts, publish_comparison.pictures),
    Study("mixed/*/runs.json", mixed_study.texts, mixed_study.pictures),
    Study("smollm2/*/runs.json", mixed_study.texts, mixed_study.pictures),
    Study("rivals/*/*/runs.json", rivals_study.texts, rivals_study.pictures, up=3),
    Study("lying/*/*/runs.json", rivals_study.texts, rivals_study.pictures, up=3),
    Study("strategies/*/*/curves.json", strategy_study.texts, strategy_study.pictures, up=3),
    Study("few-instances/*/curves.json", few_instances.texts, few_instances.pictures, up=2),
    Study("delay/*/*/comparison.json", no_texts, delay_picture, up=3),
    Study("demo/curves.json", no_texts, cost_picture, up=2),
)


def made_files() -> dict[Path, str]:
    """The text files beside the data, with what belongs in them."""
    return {
        folder / name: text
        for study in STUDIES
        for folder in study.folders()
        for name, text in study.texts(folder).items()
    }


def made_block(marker: str) -> str:
    """What a marker's maker writes, such as `kept ablation`.

    Raises:
        FigureError: there is no such maker, or it does not take these words.
    """
    name, *words = marker.split()
    if name not in MAKERS:
        raise result_figures.FigureError(f"no maker is called {name!r}: {', '.join(MAKERS)}")
    try:
        return MAKERS[name](*words)
    except (KeyError, FileNotFoundError, TypeError) as error:
        raise result_figures.FigureError(f"made: {marker}: {error!r}") from error


def pages() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def renewed(page: Path) -> str:
    """A page with its blocks and figures as the files have them."""
    text = page.read_text()
    for block in result_figures.BLOCK.finditer(text):
        text = text.replace(block[0], block[1] + made_block(block[2]) + block[4])
    name = str(page.relative_to(ROOT))
    entry = result_figures.listed().get(name)
    return result_figures.renewed(text, name, entry) if entry else text


def differing() -> list[str]:
    """What `make results` would change, pictures left out, and what it cannot make."""
    found = [
        f"{file.relative_to(ROOT)} is not what is made from the files beside it"
        for file, text in made_files().items()
        if not file.is_file() or file.read_text() != text
    ]
    for page in pages():
        text, name = page.read_text(), str(page.relative_to(ROOT))
        for block in result_figures.BLOCK.finditer(text):
            if made_block(block[2]) != block[3]:
                found.append(f"{name}: the block `made: {block[2]}` is not what its maker writes")
    for name, entry in result_figures.listed().items():
        found += result_figures.differing((ROOT / name).read_text(), name, entry)
    return found


def differing_pictures() -> list[str]:
    """Pictures that are not what is drawn from the files beside them, or that nothing draws."""
    drawn, found = set(), []
    for study in STUDIES:
        for folder in study.folders():
            with tempfile.TemporaryDirectory() as place:
                study.pictures(folder, Path(place))
                for made in sorted(Path(place).iterdir()):
                    kept = folder / made.name
                    drawn.add(kept)
                    if not kept.is_file() or kept.read_bytes() != made.read_bytes():
                        found.append(f"{kept.relative_to(ROOT)} is not what is drawn anew")
    left = set(RESULTS.rglob("*.svg")) - drawn
    return found + [f"{file.relative_to(ROOT)} is drawn by nothing" for file in sorted(left)]


def make(pictures: bool = True) -> None:
    """Writes everything, or all but the pictures."""
    for file, text in made_files().items():
        file.write_text(text)
    for page in pages():
        page.write_text(renewed(page))
    for study in STUDIES if pictures else ():
        for folder in study.folders():
            study.pictures(folder, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs")
    parser.add_argument("--texts", action="store_true", help="leave the pictures as they are")
    options = parser.parse_args()
    try:
        if not options.check:
            make(pictures=not options.texts)
        found = differing()
        if options.check and not options.texts:
            found += differing_pictures()
    except result_figures.FigureError as error:
        found = [str(error)]
    print("\n".join(found) or "every table, figure and number is that of the files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Tables, figures and numbers of README.md and docs/ are those of the committed measurements.

`make results` makes them. Pictures are compared by `make results-check`, which draws them all.
"""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import make_results  # noqa: E402
import result_blocks  # noqa: E402
import result_figures  # noqa: E402
from result_figures import FigureError, Page, Phrase  # noqa: E402

# Pages on which every number that looks measured must come from somewhere.
HELD = ("README.md", *(f"docs/{name}.md" for name in ("results", "results-tables", "studies")))
HELD += tuple(f"docs/{name}.md" for name in ("real-model", "asynchronous", "theory"))
HELD += tuple(f"docs/{name}.md" for name in ("curation", "stepwise", "objectives"))
LISTED = result_figures.listed()
FOLDERS = [
    pytest.param(study, folder, id=str(folder.relative_to(ROOT)))
    for study in make_results.STUDIES
    for folder in study.folders()
]
BLOCKS = [
    pytest.param(page, block, id=f"{page.name}: {block[2]}")
    for page in make_results.pages()
    for block in result_figures.BLOCK.finditer(page.read_text())
]


@pytest.mark.parametrize("study, folder", FOLDERS)
def test_what_lies_beside_kept_measurements_is_made_from_them(
    study: make_results.Study, folder: Path
) -> None:
    for name, text in study.texts(folder).items():
        assert (folder / name).read_text() == text, f"{folder / name}: make results"


@pytest.mark.parametrize("page, block", BLOCKS)
def test_a_generated_block_is_what_its_maker_writes(page: Path, block: re.Match[str]) -> None:
    assert block[3] == make_results.made_block(block[2]), "make results"


@pytest.mark.parametrize("page", LISTED)
def test_every_listed_figure_is_that_of_its_file(page: str) -> None:
    text = (ROOT / page).read_text()
    assert list(result_figures.differing(text, page, LISTED[page])) == []


@pytest.mark.parametrize("page", HELD)
def test_every_figure_of_a_page_comes_from_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    assert list(result_figures.untied(text, page, LISTED[page])) == []


@pytest.mark.parametrize("page", LISTED)
def test_what_was_noted_by_hand_is_said_to_be_so(page: str) -> None:
    text = (ROOT / page).read_text()
    assert list(result_figures.not_said_to_be_by_hand(text, page, LISTED[page])) == []


def test_the_page_of_results_is_one_that_is_taken_in() -> None:
    assert len((ROOT / "docs" / "results.md").read_text().splitlines()) <= 120


# -- the means themselves -----------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """A page with one phrase over a file of its own."""
    entry = {"median": 0.58, "low": 0.5, "high": 0.81, "bounded": 2}
    (tmp_path / "a.json").write_text(json.dumps({"dopr/it": {"rollouts": entry}, "ms": [1234.5]}))
    monkeypatch.setattr(result_figures, "RESULTS", tmp_path)
    return Page([Phrase("a.json", "takes {dopr/it > rollouts | spread .2f} of its rollouts")])


def test_a_figure_is_written_into_the_text_wherever_its_lines_end(measured: Page) -> None:
    text = "It takes ≤ 0.43 (0.40\nto 1.17) of its\nrollouts."
    assert len(list(result_figures.differing(text, "p", measured))) == 1
    renewed = result_figures.renewed(text, "p", measured)
    assert renewed == "It takes ≤ 0.58 (0.50 to 0.81) of its\nrollouts."
    assert list(result_figures.differing(renewed, "p", measured)) == []
    same = "It takes ≤\n0.58 (0.50 to\n0.81) of its rollouts."
    assert result_figures.renewed(same, "p", measured) == same


def test_a_phrase_that_is_not_there_or_there_twice_is_named(measured: Page) -> None:
    with pytest.raises(FigureError, match="nowhere"):
        result_figures.renewed("Nothing.", "p", measured)
    twice = "It takes 0.58 of its rollouts. It takes 0.58 of its rollouts."
    assert "2 times" in next(result_figures.differing(twice, "p", measured))


@pytest.mark.parametrize(
    "text, found",
    [
        ("needs 0.43 (0.40 to 1.17) of it", ["0.43 (0.40 to 1.17)"]),
        ("needs ≤ 0.43 of it, or 12%, in 3 ms", ["≤ 0.43", "12%", "3 ms"]),
        ("ends 0.07 higher, 1,234.5 more", ["0.07", "1,234.5"]),
        ("takes ≤ 0.58 (0.50 to 0.81) of its rollouts", []),
        ("`0.43`, arXiv 2602.00815, [a](b-0.1.md), <!-- 0.2 -->, 4 prompts x 8", []),
        ("rate 0.1, which is a setting", []),
        ("    x 0.5\n    y 832 (704 to 896)\n", ["832 (704 to 896)"]),
        ("<!-- made: a -->\n0.5 (0.4 to 0.6)\n<!-- end -->\n", []),
    ],
)
def test_numbers_that_come_from_nowhere_are_found(
    measured: Page, text: str, found: list[str]
) -> None:
    page = Page(measured.measured if "takes" in text else [], ["rate 0.1"], [])
    text += "" if "rate 0.1" in text else ", rate 0.1"
    told = list(result_figures.untied(text, "p", page))
    assert [line.split(": '", 1)[1].split("' comes")[0] for line in told] == found


def test_what_is_listed_and_no_longer_in_the_text_is_found() -> None:
    told = list(result_figures.untied("Nothing.", "p", Page([], ["rate 0.1"], [])))
    assert told == ["p: docs/figures.yaml names 'rate 0.1', which is not in the text"]


def test_a_figure_without_a_file_must_be_said_to_be_by_hand() -> None:
    page = Page([], [], ["took 1.9 GB"])
    silent = "By hand: it took long.\n\nAnother thing.\n\nIt took 1.9 GB."
    assert len(list(result_figures.not_said_to_be_by_hand(silent, "p", page))) == 1
    told = "Noted by hand:\n\nIt took 1.9 GB."
    assert list(result_figures.not_said_to_be_by_hand(told, "p", page)) == []


def test_ways_of_writing_a_value(measured: Page) -> None:
    entry = {"median": 0.041, "low": 0.03, "high": 0.052, "mean": 0.04}
    entry |= {"mean_low": -0.01, "mean_high": 0.2}
    for how, expected in {
        "spread .2f": "0.04 (0.03 to 0.05)",
        "bound .3f": "0.041",
        "interval .3f": "0.030 to 0.052",
        "mean +.2f": "+0.04 (-0.01 to +0.20)",
    }.items():
        assert result_figures.written(entry, how) == expected
    assert result_figures.written(0.0163, ".1%") == "1.6%"
    data = result_figures.load("a.json")
    assert result_figures.looked_up(data, "ms > 0 * 0.001") == pytest.approx(1.2345)
    with pytest.raises(FigureError, match="no 'seconds'"):
        result_figures.looked_up(data, "ms > seconds", "a.json")
    with pytest.raises(FigureError, match="no way of writing"):
        result_figures.written(1, "nearly .1f")


def test_an_unknown_maker_is_named() -> None:
    with pytest.raises(FigureError, match="no maker is called 'tables'"):
        make_results.made_block("tables demo")
    with pytest.raises(FigureError, match="made: kept nowhere"):
        make_results.made_block("kept nowhere")


def test_a_picture_that_differs_or_that_nothing_draws_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("same", "other", "left"):
        (tmp_path / f"{name}.svg").write_text("old" if name == "other" else "new")
    (tmp_path / "kept.json").write_text("{}")

    def pictures(folder: Path, output: Path) -> None:
        (output / "same.svg").write_text("new")
        (output / "other.svg").write_text("new")

    monkeypatch.setattr(make_results, "ROOT", tmp_path)
    monkeypatch.setattr(make_results, "RESULTS", tmp_path)
    study = make_results.Study("kept.json", make_results.no_texts, pictures)
    monkeypatch.setattr(make_results, "STUDIES", (study,))
    assert make_results.differing_pictures() == [
        "other.svg is not what is drawn anew",
        "left.svg is drawn by nothing",
    ]


def test_a_table_has_a_cell_for_every_head() -> None:
    assert result_blocks.table(["", "a"], [["x", ""], ["", "1"]]) == (
        "| | a |\n| --- | --- |\n| x | |\n| | 1 |\n"
    )

"""What the documentation names is there: links, headings, files, modules."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scripts import load_script

ROOT = Path(__file__).parent.parent
ROOTS = ("src", "docs", "tests", "examples", "configs", "benchmarks", ".github")
LINK = re.compile(r"\]\(([^)]+)\)")
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, ROOTS))})/[\w./*-]*[\w/*]")
TEST = re.compile(r"\b(test_\w+\.py)(?:::(test_\w*\w))?")
# `dopr.option=value` and `+dopr.key` are settings.
MODULE = re.compile(r"(?<![\w./@+-])dopr(?:\.[A-Za-z_]\w*)++(?!=)")


def pages() -> list[Path]:
    """Every Markdown file of the repository that is written by hand or made from one that is."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    found = [ROOT / name for name in listed] or sorted(ROOT.glob("*.md")) + sorted(
        (ROOT / "docs").rglob("*.md")
    )
    return [path for path in found if path.is_file()]


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", _without_blocks(page.read_text()), flags=re.MULTILINE)
    plain = [re.sub(r"\]\([^)]*\)", "", heading).lower() for heading in headings]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text).strip()) for text in plain}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Relative links of a page that lead nowhere."""
    for target in LINK.findall(_without_blocks(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        outside = not file.exists() or ROOT not in file.parents
        if outside or (anchor and anchor not in anchors(file)):
            yield target


def missing_files(text: str) -> list[str]:
    """Files and folders of the repository that a text names and that do not exist."""
    named = [name for name in NAMED.findall(text) if "NAME" not in name]  # a name still to be given
    return [name for name in named if not list(ROOT.glob(name.rstrip("/")))]


def missing_tests(text: str) -> list[str]:
    """Test files, and tests in them, that a text names and that do not exist."""
    missing = []
    for file, test in TEST.findall(text):
        found = list((ROOT / "tests").rglob(file))
        if not found or f"def {test}" not in found[0].read_text():
            missing.append(f"{file}::{test}" if test else file)
    return missing


def missing_modules(text: str) -> list[str]:
    """Modules, or names in them, that a text mentions and that do not exist."""
    return [name for name in MODULE.findall(text) if not _is_there(name.split(".")[1:])]


def _is_there(parts: list[str]) -> bool:
    place = ROOT / "src" / "dopr"
    while parts and (place / parts[0]).is_dir():
        place, parts = place / parts[0], parts[1:]
    if parts and (place / f"{parts[0]}.py").is_file():
        place, parts = place / f"{parts[0]}.py", parts[1:]
    if not parts:
        return True
    file = place / "__init__.py" if place.is_dir() else place
    return file.is_file() and re.search(rf"\b{parts[0]}\b", file.read_text()) is not None


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page, page.read_text())) == []


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_every_file_and_module_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    assert missing_files(text) == []
    assert missing_modules(text) == []
    assert missing_tests(text) == []


def test_what_is_not_there_is_found() -> None:
    page = ROOT / "docs" / "method.md"
    text = (
        "[a](nowhere.md), [b](results.md#nothing), [c](results.md), [d](https://a.b), 1[x](y + 1)"
    )
    assert list(broken_links(page, text)) == ["nowhere.md", "results.md#nothing", "y + 1"]
    assert missing_files("`src/dopr/core/ledger.py`, tests/none.py, configs/*.yaml.") == [
        "tests/none.py"
    ]
    assert missing_tests("`test_docs.py::test_what_is_...`, test_docs.py::test_no, test_no.py") == [
        "test_docs.py::test_no",
        "test_no.py",
    ]
    assert missing_modules("`dopr.core.ledger.Ledger`, dopr.rooms, `dopr.core.ledger.Book`") == [
        "dopr.rooms",
        "dopr.core.ledger.Book",
    ]


def site_hooks() -> ModuleType:
    return load_script("docs/site_hooks.py")


def test_everything_public_has_a_docstring_and_it_names_no_argument_that_is_not_there() -> None:
    hooks = site_hooks()
    assert hooks.undocumented() == []
    assert hooks.unknown_arguments() == []


ROOM = '''
class Base:
    """A base."""

    def told(self):
        """Told."""

    def declared(self): ...

    def untold(self):
        return 1


class Own(Base):
    def told(self):
        return 2


def argues(a):
    """Argues.

    Args:
        a, b: two.
    """
'''


def test_what_says_nothing_of_itself_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room.py").write_text(ROOM)
    hooks = site_hooks()
    monkeypatch.setattr(hooks, "PACKAGE", tmp_path)
    assert hooks.undocumented() == ["dopr.room:", "dopr.room:Base.untold", "dopr.room:Own"]
    assert hooks.unknown_arguments() == ["dopr.room:argues(b)"]


def test_links_lead_to_their_places_on_the_site() -> None:
    hooks = site_hooks()
    text = "[a](../src/dopr/core/ledger.py) [b](../examples/own_strategy.py) [c](replay.md#speed)"
    moved = hooks.moved_links(text, ROOT / "docs" / "method.md", "method.md")
    assert (
        moved
        == "[a](reference/dopr.core.ledger.md) [b](examples/own_strategy.py) [c](replay.md#speed)"
    )
    moved = hooks.moved_links("[d](docs/method.md)", ROOT / "README.md", "index.md")
    assert moved == "[d](method.md)"

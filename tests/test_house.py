"""The rooms of the package and the directions between them: every import points down the list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dopr

PACKAGE = Path(dopr.__file__).parent
ROOMS = (
    "cli",
    "compare",
    "warmstart",
    "offline",
    "report",
    "runs",
    "engines",
    "policy",
    "tasks",
    "rewards",
    "strategies",
    "core",
)


def imported_modules(source: str) -> set[str]:
    """Every `dopr.` module that a file names in an import, wherever it stands in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dopr"):
            found.add(node.module or "")
            found.update(f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names if name.name.startswith("dopr"))
    return found


def upward(room: str, source: str) -> list[str]:
    """The imports of a file in `room` that point to a room above it."""
    above = ROOMS[: ROOMS.index(room)]
    return sorted(m for m in imported_modules(source) if [*m.split("."), ""][1] in above)


def files() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            yield room, path


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_level_imports(path: Path) -> set[str]:
    """Modules of the package that a file loads when it is itself loaded."""
    modules: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dopr."):
                modules.add(node.module or "")
                modules.update(f"{node.module}.{name.name}" for name in node.names)
            elif isinstance(node, ast.Try):
                visit(node.body)

    visit(ast.parse(path.read_text()).body)
    return modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that load each other, each circle once as the path that was walked."""
    found, done = [], set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
            return
        if module in done:
            return
        for other in sorted(graph.get(module, ())):
            walk(other, [*trail, module])
        done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def test_the_package_has_these_rooms_and_no_more() -> None:
    entries = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert entries == {*ROOMS, "__init__.py", "__main__.py", "py.typed", "assets"}


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_points_up(room: str) -> None:
    wrong = {
        str(path.relative_to(PACKAGE)): found
        for own, path in files()
        if own == room and (found := upward(room, path.read_text()))
    }
    assert not wrong


def test_an_arrow_that_is_turned_is_found() -> None:
    inside = "def f():\n    from dopr.runs.train import train\n"
    assert upward("report", inside) == []
    assert upward("engines", inside) == ["dopr.runs.train", "dopr.runs.train.train"]
    assert upward("core", "import dopr.strategies.registry") == ["dopr.strategies.registry"]
    assert upward("rewards", "from dopr.tasks import load_task") == [
        "dopr.tasks",
        "dopr.tasks.load_task",
    ]


def test_no_modules_load_each_other() -> None:
    graph = {module_of(path): top_level_imports(path) for _, path in files()}
    # `from package import module` loads the module; the package stands for nothing of its own.
    known = {}
    for module, found in graph.items():
        modules = {m for m in found if m in graph}
        known[module] = {m for m in modules if not any(o.startswith(f"{m}.") for o in modules)}
    assert circles(known) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_test_modules_take_nothing_from_each_other() -> None:
    tests = Path(__file__).parent
    modules = {path.stem: path for path in tests.rglob("test_*.py")}
    taken = {}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "") in modules:
                taken[name] = node.module
    assert not taken, "what several tests need belongs in tests/helpers"

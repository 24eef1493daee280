"""What `make docs` adds to mkdocs: the pages outside docs/, and the API reference.

Pages link to each other as files of the repository do, so that they can be read there. On the site
README.md is the first page, a link to a module leads to its page in the reference, and other linked
files are copied beside the pages.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dopr"
COPIED = ("examples", "configs", "benchmarks", "tests")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_ARGUMENTS = re.compile(r"^Args:\n((?:    .*\n?|\n)*)", re.MULTILINE)
_ARGUMENT = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*):", re.MULTILINE)
_TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"} | {
    name: name for name in ("CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile")
}


# -- what is public -----------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module by its dotted name; those without a line of code are left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["dopr", *path.relative_to(PACKAGE).with_suffix("").parts]
        if parts[-1] == "__main__" or not path.read_text().strip():
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def undocumented() -> list[str]:
    """Public modules, classes and functions without a docstring, as `module:name`.

    A method that takes the place of a documented one says what that says, and so do those that
    transformers and TRL call by their own names.
    """
    trees = {name: ast.parse(path.read_text()) for name, path in modules().items()}
    classes = {
        node.name: node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    missing = [f"{name}:" for name, tree in trees.items() if not ast.get_docstring(tree)]
    for name, tree in trees.items():
        missing += [f"{name}:{found}" for found in _bare(tree, "", classes)]
    return missing


def _bare(node: Any, prefix: str, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    for child in node.body:
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)) or child.name.startswith("_"):
            continue
        inherited = isinstance(node, ast.ClassDef) and _documented_above(node, child.name, classes)
        declared = ast.unparse(child.body[0]) == "..."  # a member of a protocol; the class explains
        if not (ast.get_docstring(child) or inherited or declared):
            yield prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from _bare(child, f"{prefix}{child.name}.", classes)


def _documented_above(node: ast.ClassDef, method: str, classes: dict[str, ast.ClassDef]) -> bool:
    for base in (ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases):
        if base in ("TrainerCallback", "GRPOTrainer"):
            return True
        if base not in classes:
            continue
        for child in classes[base].body:
            own = isinstance(child, ast.FunctionDef) and child.name == method
            if own and ast.get_docstring(child):
                return True
        if _documented_above(classes[base], method, classes):
            return True
    return False


def unknown_arguments() -> list[str]:
    """Arguments that a function's docstring speaks of and the function does not have."""
    unknown = []
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            given = node.args
            listed = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            known = {argument.arg for argument in listed if argument is not None}
            section = _ARGUMENTS.search(ast.get_docstring(node) or "")
            named = _ARGUMENT.findall(section[1]) if section else []
            names = [name.strip(" *") for names in named for name in names.split(",")]
            unknown += [f"{module}:{node.name}({name})" for name in names if name not in known]
    return unknown


# -- links --------------------------------------------------------------------------------------


def place(target: Path) -> str | None:
    """Where a file or folder of the repository is on the site; None for what is not there."""
    inside = target.relative_to(ROOT)
    if str(inside) in _TOP:
        return _TOP[str(inside)]
    if inside.parts[0] == "docs":
        return "/".join(inside.parts[1:]) if target.is_file() else None
    if target == PACKAGE or PACKAGE in target.parents:
        parts = ["dopr", *target.relative_to(PACKAGE).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return f"reference/{name}.md" if target.suffix == ".py" or target.is_dir() else None
    return str(inside) if inside.parts[0] in COPIED and target.is_file() else None


def moved_links(text: str, source: Path, page: str) -> str:
    """A page's text with its links as they are on the site.

    Args:
        text: of the page.
        source: its file in the repository.
        page: its place on the site.
    """

    def moved(match: re.Match[str]) -> str:
        path, hash_, anchor = match[2].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = (source.parent / path).resolve()
        if not target.exists():
            return match[0]  # mkdocs will complain about it
        found = place(target)
        if found is None:
            return match[0]
        up = "../" * page.count("/")
        return f"{match[1]}{up}{found}{hash_}{anchor}{match[3]}"

    return _LINK.sub(moved, text)


# -- mkdocs -------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Stop where something public says nothing of itself, or speaks of what is not there."""
    from mkdocs.exceptions import ConfigurationError

    if missing := undocumented():
        raise ConfigurationError("without a docstring: " + ", ".join(missing))
    if unknown := unknown_arguments():
        raise ConfigurationError("arguments that do not exist: " + ", ".join(unknown))
    names = list(modules())
    rooms = [n for n in names if n.count(".") == 1]
    api: list[Any] = [{"dopr": "reference/dopr.md"}]
    for room in sorted({n.split(".")[1] for n in names if n.count(".") >= 1} - {""}):
        prefix = f"dopr.{room}"
        inside = [n for n in names if n == prefix or n.startswith(f"{prefix}.")]
        entries = [{n.removeprefix("dopr."): f"reference/{n}.md"} for n in inside]
        if prefix not in rooms:
            entries.insert(0, {room: f"reference/{prefix}.md"})
        api.append({room: entries})
    config.nav = [{"API": api} if "API" in entry else entry for entry in config.nav]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files from outside docs/, and one page a module."""
    from mkdocs.structure.files import File

    for name, where in _TOP.items():
        path = ROOT / name
        if where.endswith(".md"):
            text = moved_links(path.read_text(), path, where)
            files.append(File.generated(config, where, content=text))
        else:
            files.append(File.generated(config, where, abs_src_path=str(path)))
    for folder in COPIED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                where = str(path.relative_to(ROOT))
                files.append(File.generated(config, where, abs_src_path=str(path)))
    known = modules()
    for name in known:
        text = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for folder in sorted(p.parent for p in PACKAGE.rglob("*.py")):
        name = ".".join(folder.relative_to(PACKAGE.parent).parts)
        if name in known or f"reference/{name}.md" in files.src_uris:
            continue
        inside = [n for n in known if n.startswith(f"{name}.")]
        text = f"# {name}\n\n" + "".join(f"- [{n}]({n}.md)\n" for n in inside)
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Move the links of the pages in docs/."""
    source = page.file.abs_src_path
    if source is None:
        return markdown
    return moved_links(markdown, Path(source), page.file.src_uri)

"""Writes the table of docs/drop-in.md: what becomes of every field and argument of TRL.

    python docs/make_field_table.py [--check]

Fields and arguments are read from the signatures of the installed TRL, what becomes of them from
tests/trl_fields.py. `--check` writes nothing and fails where the page is not up to date.
"""

import argparse
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from trl import GRPOConfig, GRPOTrainer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "drop-in.md"
BEGIN, END = "<!-- fields: make_field_table.py -->", "<!-- end of fields -->"

sys.path.insert(0, str(ROOT / "tests"))

from trl_fields import ARGUMENTS, FIELDS, TRL_VERSION, Support  # noqa: E402


def rows(names: Iterable[str], known: dict[str, Support]) -> list[str]:
    """Lines of the table, in TRL's order."""
    lines = []
    for name in names:
        support = known[name]
        test = support.test.replace("|", "\\|")
        note = f"; {support.note}" if support.note else ""
        lines.append(f"| `{name}` | {support.how}{note} | `{test}` |")
    return lines


def table() -> str:
    """The part of the page between its two marks."""
    arguments = [n for n in inspect.signature(GRPOTrainer.__init__).parameters if n != "self"]
    fields = list(GRPOConfig.__dataclass_fields__)
    head = ["", "| {} | what becomes of it | test |", "| --- | --- | --- |"]
    parts = [
        BEGIN,
        f"TRL {TRL_VERSION}: {len(arguments)} arguments of `GRPOTrainer`, {len(fields)} fields of "
        "`GRPOConfig`.",
        *[line.format("argument") for line in head],
        *rows(arguments, ARGUMENTS),
        *[line.format("field") for line in head],
        *rows(fields, FIELDS),
        END,
    ]
    return "\n".join(parts)


def renewed(page: str) -> str:
    """The page with its table as it should be."""
    before, rest = page.split(BEGIN, 1)
    return before + table() + rest.split(END, 1)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    if check:
        if page != renewed(page):
            print(
                "docs/drop-in.md is out of date: python docs/make_field_table.py", file=sys.stderr
            )
        return int(page != renewed(page))
    PAGE.write_text(renewed(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

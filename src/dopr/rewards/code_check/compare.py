"""Whether what a program printed, or a function gave, is what a test expects.

Here and not beside the code under test, which could otherwise say so itself. Imports nothing from
`dopr` (see worker.py).
"""

import ast
import json
import math
from typing import Any


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs agree: line by line without white space at the ends, numbers closely.

    Blank lines at the end do not count. Where lines differ, their words are compared one by one,
    and numbers with a decimal point may differ by one part in a million.
    """
    found, wanted = (_lines(text) for text in (printed, expected))
    if found == wanted:
        return True
    if len(found) != len(wanted):
        return False
    return all(
        len(a.split()) == len(b.split()) and all(map(_same_word, a.split(), b.split()))
        for a, b in zip(found, wanted, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _same_word(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    if not any(mark in word for word in (found, wanted) for mark in ".eE"):
        return False
    try:
        return math.isclose(float(found), float(wanted), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False


def decode(value: Any) -> Any:
    """The Python value of what runner.py's `encode` wrote.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("not an encoded value")
        return value
    kind, inner = value["kind"], value["value"]
    if kind in ("list", "tuple", "set"):
        items = [decode(item) for item in inner]
        return items if kind == "list" else tuple(items) if kind == "tuple" else set(items)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in inner}
    if kind == "float":
        return float(inner)
    if kind in ("complex", "bytes"):
        return ast.literal_eval(inner)
    return _Other(inner)


class _Other:
    """A value of a type that no test can expect."""

    def __init__(self, name: str) -> None:
        self.name = name


def alike(found: Any, wanted: Any) -> bool:
    """Whether a value is what JSON says: tuples are lists, keys are texts, floats may be close."""
    if isinstance(found, _Other):
        return False
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, (int, float)) and isinstance(wanted, (int, float)):
        if isinstance(found, int) and isinstance(wanted, int):
            return found == wanted
        return found == wanted or math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    if isinstance(found, set) and isinstance(wanted, (list, tuple, set)):
        return len(found) == len(wanted) and all(any(alike(f, w) for f in found) for w in wanted)
    if isinstance(found, dict) and isinstance(wanted, dict):
        texts = [{str(key): value for key, value in d.items()} for d in (found, wanted)]
        return texts[0].keys() == texts[1].keys() and all(
            alike(texts[0][key], texts[1][key]) for key in texts[0]
        )
    return type(found) is type(wanted) and bool(found == wanted)


def same_result(found: Any, wanted: Any) -> bool:
    """Whether a call gave what a data set expects, in one of the ways they write it.

    Args:
        found: the decoded value.
        wanted: a value, the only item of a list (APPS), or the text of either.
    """
    if alike(found, wanted):
        return True
    if isinstance(wanted, list) and len(wanted) == 1 and alike(found, wanted[0]):
        return True
    if isinstance(wanted, str):
        read = literal(wanted)
        if not isinstance(read, str):
            return same_result(found, read)
        return str(found).strip() == wanted.strip() if not isinstance(found, _Other) else False
    return False


def literal(text: str) -> Any:
    """What a text says in JSON or in Python; the text itself where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def assertion(code: str) -> dict[str, Any]:
    """An `assert` as a test: where it compares with a literal, that literal stays on this side.

    What is no single assertion is a script, which passes where it ends without an exception.
    """
    try:
        body = ast.parse(code.strip()).body
    except (SyntaxError, ValueError, RecursionError):
        return {"script": code}
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return {"script": code}
    claim = body[0].test
    if isinstance(claim, ast.Compare) and [type(op) for op in claim.ops] == [ast.Eq]:
        for asked, wanted in (
            (claim.left, claim.comparators[0]),
            (claim.comparators[0], claim.left),
        ):
            try:
                return {"expected": ast.literal_eval(wanted), "expression": ast.unparse(asked)}
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return {"expression": ast.unparse(claim), "truth": True, "expected": True}

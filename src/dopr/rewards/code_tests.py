"""Tests of code as data sets write them, in one form.

Known are, as columns or within `extra_info`:

- `verification_info` (open-r1, SYNTHETIC-1): `language` and `test_cases` with `input`, `output`,
  `type` (`stdin_stdout` or `function_call`) and `fn_name`;
- `reward_model` (verl), `ground_truth`, `answer`, `input_output` (APPS, TACO): JSON of `inputs`,
  `outputs` and, where a function is called, `fn_name`; or `assert_case` (verl's sandbox);
- `test_list` (MBPP) with `test_setup_code` or `test_imports`: assertions;
- `test` and `entry_point` (HumanEval): a function `check`;
- `test_cases`, `tests`, `public_test_cases` (LiveCodeBench, Codeforces): a list of `input` and
  `output`, with `testtype` `stdin` or `functional`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dopr.core.errors import UserError
from dopr.rewards.code_check.compare import literal

Test = dict[str, Any]

COLUMNS = (
    "verification_info",
    "test_list",
    "input_output",
    "test_cases",
    "tests",
    "public_test_cases",
    "reward_model",
    "ground_truth",
    "answer",
    "test",
)
_PYTHON = ("python", "python3", "py", "")


@dataclass
class Tests:
    """The tests of one row.

    Attributes:
        tests: each with `input` and `output` (a program's streams), with `function`, `arguments`
            and `expected`, or with an `assertion`.
        setup: Python that runs before the solution where functions are called.
        entry_point: the function that must be defined; "" where none is named.
        language: of the solution, in small letters.
    """

    tests: list[Test]
    setup: str = ""
    entry_point: str = ""
    language: str = "python"


def find_tests(row: Mapping[str, Any]) -> Tests | None:
    """The tests of a row, by the first of the known columns that has any; None where none has.

    Args:
        row: one row's columns; `extra_info` may hold more of them, as a mapping or as JSON.

    Raises:
        UserError: a column has tests in a form that is not known.
    """
    inner = _json(row.get("extra_info"))
    everything = {**inner, **row} if isinstance(inner, Mapping) else dict(row)
    everything = {name: _plain(value) for name, value in everything.items()}
    for column in COLUMNS:
        value = everything.get(column)
        if value is None or value == "":
            continue
        found = _readers().get(column, _in_and_out)(value, everything, column)
        if found is not None and found.tests:
            return found
    return None


def is_python(tests: Tests) -> bool:
    """Whether the solution is to be written in Python, the one language that is run."""
    return tests.language in _PYTHON


def _readers() -> dict[str, Callable[[Any, Mapping[str, Any], str], Tests | None]]:
    return {
        "verification_info": _verification_info,
        "test_list": _assertions,
        "test_cases": _cases,
        "tests": _cases,
        "public_test_cases": _cases,
        "reward_model": _verl,
        "test": _checked,
    }


def _verification_info(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    info = _json(value)
    if not isinstance(info, Mapping):
        return None
    return _cases(info.get("test_cases"), {**row, **info}, column)


def _cases(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    """A list of cases, each a mapping with `input` and `output`; or of assertions."""
    cases = _json(value)
    if isinstance(cases, Mapping):
        if not isinstance(cases.get("output"), list):
            return _in_and_out(cases, row, column)
        # A list of mappings that went through a data set's table: a mapping of lists.
        names = [name for name, values in cases.items() if isinstance(values, list)]
        cases = [
            dict(zip(names, one, strict=True))
            for one in zip(*(cases[name] for name in names), strict=True)
        ]
    if not isinstance(cases, list) or not cases:
        return None
    if all(isinstance(case, str) for case in cases):
        return _assertions(cases, row, column)
    metadata = _json(row.get("metadata"))
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    tests: list[Test] = []
    for case in cases:
        if not isinstance(case, Mapping) or "output" not in case:
            raise _unknown(column)
        kind = str(case.get("type") or case.get("testtype") or "stdin")
        function = case.get("fn_name") or named
        if kind.startswith("func") and function:
            tests.append(
                _call(
                    function,
                    _arguments(case.get("input"), lines=kind == "functional"),
                    case["output"],
                )
            )
        else:
            tests.append({"input": _text(case.get("input")), "output": _text(case["output"])})
    return Tests(tests, language=_language(row))


def _in_and_out(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    """`inputs` and `outputs`, and the name of a function where one is called."""
    found = _json(value)
    if isinstance(found, list):
        return _cases(found, row, column) if _are_tests(found) else None
    if not isinstance(found, Mapping):
        return None
    if found.get("assert_case"):
        return _assertions(found["assert_case"], row, column)
    if "inputs" not in found or "outputs" not in found:
        return None
    inputs, outputs = found["inputs"], found["outputs"]
    if len(inputs) != len(outputs):
        raise UserError(
            f"the column {column!r} has {len(inputs)} inputs and {len(outputs)} outputs in one "
            "row; a test is one of each"
        )
    function = found.get("fn_name")
    tests = [
        _call(function, _arguments(given, lines=True), wanted)
        if function
        else {"input": _text(given), "output": _text(wanted)}
        for given, wanted in zip(inputs, outputs, strict=True)
    ]
    return Tests(tests, language=_language(row))


def _are_tests(found: list[Any]) -> bool:
    asserts = all(isinstance(one, str) and one.lstrip().startswith("assert") for one in found)
    return asserts or all(isinstance(one, Mapping) and "output" in one for one in found)


def _verl(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    model = _json(value)
    if not isinstance(model, Mapping):
        return None
    return _in_and_out(model.get("ground_truth"), row, column)


def _assertions(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    asserts = _json(value)
    if isinstance(asserts, str):
        asserts = [asserts]
    if not isinstance(asserts, list) or not all(isinstance(one, str) for one in asserts):
        raise _unknown(column)
    setup = [str(row.get("test_setup_code") or "")]
    imports = _json(row.get("test_imports"))
    setup += imports if isinstance(imports, list) else []
    return Tests([{"assertion": one} for one in asserts], setup="\n".join(map(str, setup)))


def _checked(value: Any, row: Mapping[str, Any], column: str) -> Tests | None:
    """HumanEval: a script that defines `check`, and the function it is to check."""
    entry = row.get("entry_point")
    if not isinstance(value, str) or not entry:
        return None
    script = f"{value}\n\ncheck({entry})\n"
    return Tests([{"assertion": script}], entry_point=str(entry))


def _call(function: str, arguments: list[Any], expected: Any) -> Test:
    return {"function": function, "arguments": arguments, "expected": expected}


def _arguments(given: Any, lines: bool) -> list[Any]:
    """A call's arguments: a list, or the text of one; where `lines`, a text with one a line."""
    if isinstance(given, str) and lines:
        return [literal(line) for line in given.split("\n") if line.strip()]
    read = literal(given) if isinstance(given, str) else given
    return list(read) if isinstance(read, list | tuple) else [read]


def _language(row: Mapping[str, Any]) -> str:
    return str(row.get("language") or "python").lower()


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return "" if value is None else str(value)


def _json(value: Any) -> Any:
    """A value, read from JSON (or Python's notation) where it is such a text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return literal(value)
    return value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _unknown(column: str) -> UserError:
    return UserError(
        f"the column {column!r} holds tests in a form that is not known; give a list of "
        "assertions, or of mappings with input and output"
    )

"""Code execution: a solution's tests run in child processes that can do little else."""

import ast
import logging
import re
from collections.abc import Sequence
from typing import Any

from dopr.core.errors import UserError
from dopr.rewards import extract
from dopr.rewards.code_tests import COLUMNS, Tests, find_tests, is_python
from dopr.rewards.mathematics import RewardFunction
from dopr.rewards.sandbox import Workers, WorkerStartError
from dopr.rewards.stats import LogMetric, record

logger = logging.getLogger(__name__)

# Beyond its own limits, a check takes this long only where something is wrong with the machine.
_MARGIN_S = 30.0
_SUPERVISOR_MB = 1024

_FENCED = re.compile(r"```[ \t]*([\w+#-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PYTHON = ("python", "python3", "py")


def extract_code(text: str) -> str:
    """The code of a completion: the last block marked as Python, else the last block of any kind.

    Looked for after `</think>` first; without any block the `<answer>`, else all of it. A block
    that nobody closed ends with the text.
    """
    for region in dict.fromkeys((extract.after_thinking(text), text)):
        blocks = _FENCED.findall(region)
        marked = [code for language, code in blocks if language.lower() in _PYTHON]
        if blocks:
            code: str = (marked or [code for _, code in blocks])[-1]
            return code
    tagged = extract.answer_tag(text)
    return extract.after_thinking(text) if tagged is None else tagged


def make_code_reward(
    partial: bool = False,
    test_limit_s: float = 10.0,
    check_limit_s: float = 60.0,
    memory_mb: int = 2048,
    file_mb: float = 16.0,
    max_tests: int = 0,
    workers: int | None = None,
) -> RewardFunction:
    """A reward of 1.0 where a completion's Python code passes all of its row's tests, else 0.0.

    Tests come from the columns that TRL's, verl's and open-r1's data sets use (`code_tests.py`
    lists them), also within `extra_info`. A solution runs in processes of its own, with limits of
    time, memory, files and calls of the system; what these protect from and what not is in
    docs/rewards.md. Code that is wrong, too slow or too large is 0.0. None where a row has no tests
    or asks for another language, and, counted (`checker_stats`), where the checking process itself
    failed.

    Args:
        partial: give the share of the tests that pass instead.
        test_limit_s: seconds for one test.
        check_limit_s: seconds for all tests of one completion; those left over have not passed.
        memory_mb: address space of the solution's process, mebibytes.
        file_mb: size of a file that it writes, its output among them, mebibytes.
        max_tests: use only the first so many of a row; 0 for all.
        workers: most completions tested at a time; by default the number of cores, at most 4.

    Raises:
        UserError: at construction, a limit that is not positive; at a call, no column with tests,
            tests in a form that is not known, or a system on which no such process starts.
    """
    limits = {
        "test_s": test_limit_s,
        "check_s": check_limit_s,
        "memory_mb": memory_mb,
        "file_mb": file_mb,
    }
    bad = next((name for name, value in limits.items() if not value > 0), None)
    if bad is not None or max_tests < 0:
        raise UserError(f"the code reward's limits must be positive; {bad or 'max_tests'} is not")
    told: list[bool] = []
    checkers = Workers(
        "code_check",
        {"limits": limits},
        time_limit_s=check_limit_s + _MARGIN_S,
        memory_mb=memory_mb + _SUPERVISOR_MB,
        workers=workers,
        requests_per_worker=1,
    )

    def code_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 where a completion's code passes all tests of its row, else 0.0.

        See `make_code_reward` for where tests come from and for what gives None.
        """
        rows = _rows(columns, len(completions))
        found = [find_tests(row) for row in rows]
        if completions and not any(found) and not told:
            told.append(True)
            logger.warning("code_reward: no row of a batch has tests; its completions are unscored")
        rewards: list[float | None] = [None] * len(completions)
        requests = {
            i: _request(prompts[i], completions[i], tests, max_tests, partial)
            for i, tests in enumerate(found)
            if tests is not None and is_python(tests)
        }
        try:
            outcomes = checkers.map(list(requests.values()))
        except WorkerStartError as error:
            raise UserError(f"the code reward cannot run code on this system: {error}") from None
        record("code_reward", outcomes, log_metric)
        for i, outcome in zip(requests, outcomes, strict=True):
            if outcome.status == "ok":
                share = outcome.value["passed"] / outcome.value["tests"]
                rewards[i] = share if partial else float(share == 1.0)
        return rewards

    return code_reward


def _rows(columns: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """The columns that may hold tests, row by row.

    Raises:
        UserError: there is none.
    """
    lists = {
        name: values
        for name, values in columns.items()
        if isinstance(values, list | tuple) and len(values) == number
    }
    if number and not any(name in lists for name in (*COLUMNS, "extra_info")):
        raise UserError(
            "code_reward needs tests in one of the columns "
            f"{', '.join(COLUMNS)} (or within extra_info); rename the dataset's column"
        )
    return [{name: values[i] for name, values in lists.items()} for i in range(number)]


def _request(
    prompt: Any, completion: Any, tests: Tests, max_tests: int, partial: bool
) -> dict[str, Any]:
    code = extract_code(extract.completion_text(completion))
    if tests.entry_point and not _defines(code, tests.entry_point) and isinstance(prompt, str):
        code = prompt + code  # the prompt is the head of the function
    used = tests.tests[:max_tests] if max_tests else tests.tests
    return {"code": code, "setup": tests.setup, "tests": used, "all": partial}


def _defines(code: str, name: str) -> bool:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(getattr(node, "name", None) == name for node in body)


code_reward = make_code_reward()

"""`srl:SOURCE?key=value&...`: expert solutions as step-wise instances.

A solution of N steps gives N - 1 prompts: the problem and the first k - 1 steps of the expert, for
k from 1 to N - 1; the reference is step k. The last step, mostly the bare answer, is never asked
for.

Source: SRL [2510.25992, S]. How solutions are cut into steps and how a prompt is worded are ours,
but for `wording=monologue`, after a third party's note and code [T]; there only solutions with
numbered steps are used (`steps=numbered&short=drop`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.rewards.sentences import split_sentences
from dopr.tasks.columns import PROMPTS, Row
from dopr.tasks.options import one_of, parse_source
from dopr.tasks.sources import read_source

STEPS = ("auto", "numbered", "sentences", "lines")
THOUGHTS = ("required", "none")
RATIOS = ("plain", "autojunk")
_SOLUTIONS = ("steps", "solution", "expert_solution", "answer", "output", "response")
_MARKER = re.compile(
    r"^[ \t]*(?:[*#_]+[ \t]*)?(?:step[ \t]+(?P<named>\d+)[ \t]*[.:)\-–]?|\(?(?P<plain>\d+)[.):])"
    r"[*_]*[:.]?(?:[ \t]+|$)",
    re.IGNORECASE | re.MULTILINE,
)
_INSTRUCTIONS = {
    "brief": (
        "Think about it between <think> and </think>, then write the next step and nothing else."
    ),
    "monologue": (
        "First work out in an inner monologue, between <think> and </think>, how to go on. Then "
        "write the very next logical step of the solution: this one step, not those after it."
    ),
}


@dataclass
class SRLOptions:
    """Options of an `srl:` source.

    Args:
        steps: where a solution is text, how it is cut: `numbered`, `sentences`, `lines`, or `auto`,
            which is `numbered` where at least two numbers are found and else `sentences`.
        thought: `required` asks for `<think>...</think>` before the step; `none` lets the model
            continue problem and steps as they are, for models without a chat form.
        separator: stands between problem and steps where no thought is asked for; what a model
            writes after the first one is not part of its step.
        wording: how a step is asked for where a thought is: `brief`, ours, or `monologue`, which
            asks for the very next logical step after an inner monologue [T].
        ratio: how like the expert's a step is: difflib's ratio `plain`, or with its shortcut for
            frequent characters, `autojunk`, which acts from 200 characters on and is Python's
            default and that of a third party's code [T].
        short: `error` refuses solutions of one step, `drop` leaves them out.
    """

    steps: str = "auto"
    thought: str = "required"
    separator: str = "\n"
    wording: str = "brief"
    ratio: str = "plain"
    short: str = "error"


def srl_rows(
    source: str, *, split: str, columns: dict[str, str] | None, limit: int | None
) -> list[Row]:
    """The step-wise instances of a file, folder, Hub dataset or function of expert solutions.

    Args:
        source: `srl:SOURCE?key=value&...` with the options of `SRLOptions`.
        split: of `SOURCE`.
        columns: "prompt" and "answer" to the names of the problem's and the solution's column. A
            solution is a text or a list of steps.
        limit: at most so many instances.

    Raises:
        UserError: an unknown option or column, or a solution that has a single step.
    """
    name, options = parse_source(source, SRLOptions)
    one_of("steps of srl:", options.steps, STEPS)
    one_of("thought of srl:", options.thought, THOUGHTS)
    one_of("wording of srl:", options.wording, tuple(_INSTRUCTIONS))
    one_of("ratio of srl:", options.ratio, RATIOS)
    one_of("short of srl:", options.short, ("drop", "error"))
    # Every row gives an instance at least, unless short ones are left out.
    raw, label = read_source(name, split, limit if options.short == "error" else None)
    if not raw:
        raise UserError(f"{source!r} has no rows")
    names = list(dict.fromkeys(column for row in raw for column in row))
    problem, solution = _columns(names, columns or {}, source)
    rows: list[Row] = []
    for number, row in enumerate(raw, start=1):
        where = f"{source!r}, row {number}"
        steps = read_steps(row.get(solution), options.steps)
        if len(steps) < 2:
            if options.short == "drop":
                continue
            raise UserError(
                f"{where}: the expert solution in {solution!r} has {len(steps)} step, and N steps "
                "give N - 1 instances; number its steps, or leave such rows out with short=drop"
            )
        text = row.get(problem)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where} has no problem as text in {problem!r}; remove the row")
        rows.extend(_instances(text, steps, options, row.get("id"), f"srl:{label}"))
        if limit is not None and len(rows) >= limit:
            return rows[:limit]
    return rows


def read_steps(solution: Any, how: str = "auto") -> list[str]:
    """The steps of an expert solution, blank ones left out.

    Args:
        solution: a text, or a list of steps, which is taken as it is.
        how: see `SRLOptions.steps`.
    """
    if isinstance(solution, list | tuple):
        return [str(step) for step in solution if str(step).strip()]
    text = "" if solution is None else str(solution)
    if how == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if how in ("auto", "numbered"):
        numbered = _numbered(text)
        if how == "numbered" or len(numbered) > 1:
            return numbered
    return split_sentences(text)


def _numbered(text: str) -> list[str]:
    """What stands between the numbers 1, 2, 3, ... at beginnings of lines; without any, one step.

    A number out of turn is part of its step. What precedes the first number belongs to step 1.
    """
    marks: list[re.Match[str]] = []
    for match in _MARKER.finditer(text):
        if int(match["named"] or match["plain"]) == len(marks) + 1:
            marks.append(match)
    if not marks:
        return [text.strip()] if text.strip() else []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    steps = [text[m.end() : end].strip() for m, end in zip(marks, ends, strict=True)]
    steps[0] = f"{text[: marks[0].start()].strip()}\n{steps[0]}".strip()
    return [step for step in steps if step]


def _columns(names: Sequence[str], given: dict[str, str], source: str) -> tuple[str, str]:
    for role, name in given.items():
        if role not in ("prompt", "answer"):
            raise unknown_name("key of columns", role, ("prompt", "answer"))
        if name not in names:
            raise UserError(f"{source!r}: {unknown_name('column', name, names)}")
    problem = given.get("prompt") or next((n for n in PROMPTS if n in names), None)
    solution = given.get("answer") or next((n for n in _SOLUTIONS if n in names), None)
    for role, found in (("prompt", problem), ("answer", solution)):
        if found is None:
            raise UserError(
                f"{source!r}: no column for the {role} among {', '.join(names)}; say which with "
                f'columns={{"{role}": NAME}}'
            )
    assert problem is not None and solution is not None
    return problem, solution


def _instances(
    problem: str, steps: list[str], options: SRLOptions, name: Any, label: str
) -> list[Row]:
    return [
        {
            "id": None if name is None else f"{name}/step-{k}",
            "prompt": _prompt(problem, steps[: k - 1], options),
            "answer": steps[k - 1],
            "data_source": label,
            "extra_info": {
                "thought": options.thought,
                "separator": options.separator,
                "ratio": options.ratio,
                "step": k,
                "num_steps": len(steps),
            },
        }
        for k in range(1, len(steps))
    ]


def _prompt(problem: str, done: list[str], options: SRLOptions) -> str:
    if options.thought == "none":
        return options.separator.join([problem, *done])
    instruction = _INSTRUCTIONS[options.wording]
    if not done:
        return f"{problem}\n\n{instruction}"
    listed = "\n".join(f"Step {i}: {step}" for i, step in enumerate(done, start=1))
    return f"{problem}\n\nSteps so far:\n{listed}\n\n{instruction}"

"""How like the expert's next step a step is: the dense reward of Supervised RL."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from dopr.rewards import extract
from dopr.rewards.mathematics import require_answers

BAD_FORMAT = -1.0
_TASKS = ("gym:", "rlpt:", "srl:")


def similarity(action: str, reference: str, autojunk: bool = False) -> float:
    """2 M / T in [0, 1]: M characters in matching blocks, T characters of both texts together.

    White space is collapsed first (ours). Matching is difflib's, longest block first.

    Args:
        action: what the model wrote.
        reference: the expert's step.
        autojunk: difflib's shortcut for characters that are frequent in a reference of at least 200
            of them. Off (ours), long steps are compared like short ones; on is Python's default and
            that of a third party's code [T].

    Source: SRL [2510.25992, S].
    """
    first, second = (" ".join(text.split()) for text in (action, reference))
    return difflib.SequenceMatcher(None, first, second, autojunk=autojunk).ratio()


def find_action(text: str, thought: str = "required", separator: str = "") -> str | None:
    """The step in a completion, or None where its form is wrong.

    Args:
        text: one completion.
        thought: `required`: one thought, closed by `</think>` (its opening may stand in the
            prompt), and after it the step; `none`: what stands before the first `separator` is the
            step. A blank step is wrong.
        separator: of steps, where no thought is required; with none all of it is the step.
    """
    action = text
    if thought == "required":
        before, closing, action = text.partition("</think>")
        opened = before.lstrip().removeprefix("<think>")
        if not closing or any(tag in opened + action for tag in ("<think>", "</think>")):
            return None
    elif separator:
        action = text.strip().partition(separator)[0]
    return action.strip() or None


def srl_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    extra_info: Sequence[Any] | None = None,
    data_source: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The similarity of a completion's step to the expert's in [0, 1]; -1 where its form is wrong.

    The column `extra_info` of an `srl:` task says whether a thought is required; without it one is.
    None where the reference is missing and for rows of other tasks, so that it can stand beside
    another reward.

    Source: SRL [2510.25992, S].

    Raises:
        UserError: no column `answer`.
    """
    references = require_answers("srl_reward", answer, len(completions))
    infos = [None] * len(completions) if extra_info is None else extra_info
    others = other_tasks("srl:", data_source, len(completions))
    rows = zip(completions, references, infos, others, strict=True)
    return [
        None if other or extract.is_missing(reference) else _score(completion, str(reference), info)
        for completion, reference, info, other in rows
    ]


def _score(completion: Any, reference: str, info: Any) -> float:
    row = row_info(info)
    thought, separator = row.get("thought", "required"), row.get("separator", "")
    action = find_action(extract.completion_text(completion), thought, separator)
    if action is None:
        return BAD_FORMAT
    return similarity(action, reference, autojunk=row.get("ratio") == "autojunk")


def other_tasks(own: str, data_source: Sequence[Any] | None, number: int) -> list[bool]:
    """Which rows another task's reward scores, by the kind of source in `data_source`.

    Args:
        own: the kind that is scored here, such as `srl:`; rows of no known kind are too.
        data_source: the column, or None where the dataset has none.
        number: of rows.
    """
    sources = [None] * number if data_source is None else data_source
    return [str(s).startswith(_TASKS) and not str(s).startswith(own) for s in sources]


def row_info(info: Any) -> dict[str, Any]:
    """What a row's `extra_info` says: a mapping, or one as JSON text; else nothing."""
    if isinstance(info, str) and info.startswith("{"):
        info = json.loads(info)
    return info if isinstance(info, dict) else {}

"""The final answers of rollouts, for strategies that ask whether they agree."""

from collections.abc import Sequence
from typing import Any

from dopr.rewards import extract

_RULES = (extract.answer_tag, extract.boxed, extract.hashes)


def final_answers(completions: Sequence[Any]) -> list[str]:
    """The marked answer of each completion, white space collapsed; all of it where none is marked.

    Args:
        completions: texts or chats.
    """
    texts = [extract.completion_text(completion) for completion in completions]
    return [" ".join((extract.extract(text, _RULES) or text).split()) for text in texts]

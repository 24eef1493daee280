"""Whether rollouts agree: their final answers compared as text."""

from collections import Counter
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


def disagreement(answers: Sequence[str]) -> float:
    """Chance that two different rollouts give different answers; 0 for fewer than two.

    Args:
        answers: of the rollouts of one group.
    """
    n = len(answers)
    if n < 2:
        return 0.0
    same = sum(count * (count - 1) for count in Counter(answers).values())
    return 1.0 - same / (n * (n - 1))

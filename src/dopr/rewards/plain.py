"""Rewards that need no checker: equality of text, and the form of a completion."""

import re
from collections.abc import Sequence
from typing import Any

from dopr.rewards import extract
from dopr.rewards.math_check.text import without_thousands
from dopr.rewards.mathematics import require_answers

_RULES = (extract.answer_tag, extract.boxed, extract.hashes)
_TAGGED = re.compile(
    r"\s*<think>(?P<think>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s*", re.DOTALL
)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def normalise(text: str) -> str:
    """White space collapsed, commas between thousands and a final period removed."""
    collapsed = " ".join(text.split())
    return without_thousands(collapsed).removesuffix(".").rstrip()


def exact_match_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1.0 where a completion's answer is the reference `answer` letter for letter, else 0.0.

    The answer is the last `<answer>` tag, else the last `\boxed{}`, else what follows the last
    `####`, else the whole completion. Both sides have white space collapsed, commas between
    thousands and one final period removed. A reference that is a list is several answers, any of
    which is right. None where the reference is missing.

    Raises:
        UserError: no column `answer`.
    """
    references = require_answers("exact_match_reward", answer, len(completions))
    return [
        None if extract.is_missing(reference) else _exact_match(completion, reference)
        for completion, reference in zip(completions, references, strict=True)
    ]


def _exact_match(completion: Any, reference: Any) -> float:
    text = extract.completion_text(completion)
    marked = extract.extract(text, _RULES)
    found = text if marked is None else marked
    wanted = [normalise(text) for text in extract.reference_texts(reference)]
    return float(normalise(found) in wanted)


def format_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1.0 where a completion has the asked-for form, else 0.0. Never None.

    Either of two forms:

    - `<think>...</think><answer>...</answer>`: each of the four tags exactly once and in this
      order, nothing but white space before, between and after, and the answer not blank. The
      opening `<think>` is taken as given where the prompt ends with it.
    - one `\boxed{...}`, exactly once, its braces balanced and its content not blank, in a
      completion without `<answer>` tags.
    """
    return [
        float(_well_formed(_opening(prompt) + extract.completion_text(completion)))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _opening(prompt: Any) -> str:
    return "<think>" if extract.completion_text(prompt).rstrip().endswith("<think>") else ""


def _well_formed(text: str) -> bool:
    match = _TAGGED.fullmatch(text)
    if match is not None and all(text.count(tag) == 1 for tag in _TAGS):
        return bool(match["answer"].strip())
    if "<answer>" in text or "</answer>" in text:
        return False
    spans = extract.boxed_spans(text)
    attempts = len(re.findall(r"\\(?:boxed|fbox|framebox)\b", text))
    return attempts == len(spans) == 1 and bool(text[slice(*spans[0])].strip())

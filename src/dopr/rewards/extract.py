r"""Where the answer is in a completion: `<answer>`, `\boxed{}`, `####`.

Each rule is a function of the text that gives the answer or None, so that a reward says in one line
which rules it follows and in what order.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

Rule = Callable[[str], str | None]

_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(\S[^\n]*)")
_LABEL = re.compile(r"\**(?:the )?(?:final )?answer(?: is)?\s*(?:[:=]|(?<=is))\s*", re.I)
_HEADING = re.compile(
    r"(?:step|part|case|section|note|example|problem|question|solution|method|approach|conclusion|"
    r"summary|verification|check|reasoning|explanation|analysis|setup|(?:the )?(?:final )?answer)"
    r"\b(?:\s*\d+)?\s*[:.)-]?(?:\s|\*|$)|\d+[.)]\s+[A-Za-z]|[^:$\\]*:\**$",
    re.I,
)
_VALUE = re.compile(r"[-+]?\s*(?:[\d$\\€£(\[{]|\.\d)|[A-Za-z]\s*=")
# The thousands of one number; of the list `100,200,30` none are.
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)")
_JSON_TEXTS = re.compile(r'\[\s*".*"\s*\]', re.DOTALL)
_THINK_END = "</think>"


def completion_text(completion: Any) -> str:
    """The text of one completion: a string, or the last message of a chat that the policy wrote.

    What a tool said is nobody's answer: a chat that ends with it gives the policy's words before.
    Content given in parts (`[{"type": "text", "text": ...}]`) is joined.
    """
    if isinstance(completion, str):
        return completion
    own = [m for m in completion or [] if m.get("role", "assistant") == "assistant"]
    if not own:
        return ""
    content = own[-1].get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def question_text(prompt: Any) -> str:
    """What was asked: a prompt that is a text, or the last message of a chat by the user."""
    if isinstance(prompt, str):
        return prompt
    asked = [m.get("content") or "" for m in prompt or [] if m.get("role") == "user"]
    if not asked or isinstance(asked[-1], str):
        return asked[-1] if asked else ""
    return "".join(part.get("text") or "" for part in asked[-1])


def answer_tag(text: str) -> str | None:
    """The content of the last closed `<answer>...</answer>`, stripped; None where there is none."""
    matches = _ANSWER_TAG.findall(text)
    return matches[-1].strip() if matches else None


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Start and end of the content of every `\boxed{...}` whose braces balance, in order."""
    spans = []
    for match in _BOXED.finditer(text):
        end = _closing_brace(text, match.end())
        if end is not None:
            spans.append((match.end(), end))
    return spans


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    escaped = False
    for position in range(start, len(text)):
        character = text[position]
        if escaped:  # \{ and \} are printed braces, not groups
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (or `\fbox{...}`) whose braces balance, stripped."""
    # Searched from the end: a long completion may hold many, and only the last counts.
    for match in reversed(list(_BOXED.finditer(text))):
        end = _closing_brace(text, match.end())
        if end is not None:
            return text[match.end() : end].strip()
    return None


def hashes(text: str) -> str | None:
    """GSM8K's form: what follows the last `####` that gives an answer, on its line, stripped.

    In markdown the same sign heads a section, `#### Step 2: conclude`. An answer stands on the last
    line that is not blank, or begins with a number or a formula, and is no such heading.
    """
    last_line = text.rstrip()
    for match in reversed(list(_HASHES.finditer(text))):
        found = match[1].strip().strip("*").strip()
        label = _LABEL.match(found)
        if label:
            found = found[label.end() :].strip().strip("*").strip()
        if not found or _HEADING.match(found):
            continue
        if label or match.end() >= len(last_line) or _VALUE.match(found):
            return found
    return None


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; the whole text where there is no such tag."""
    return text.rsplit(_THINK_END, 1)[-1]


def extract(text: str, rules: Sequence[Rule]) -> str | None:
    """The first rule's answer that exists, looking after the thinking first, then everywhere.

    Args:
        text: one completion.
        rules: functions of the text, the most trusted first.
    """
    for region in dict.fromkeys((after_thinking(text), text)):
        for rule in rules:
            found = rule(region)
            if found is not None:
                return found
    return None


def reference_text(reference: Any) -> str:
    r"""A reference answer as text; what a data set's row holds and what a reward is given alike.

    A worked solution is reduced to its answer (after `####`, else in `\boxed{}`). After `####` a
    dollar sign goes, and so do the commas between the thousands of a number; those of lists and
    within brackets stay (`2, 3`, `100,200,30`, `(3,100)`), where a comma may be either: the
    comparison tries both. A whole number that went through a float column loses its ".0".
    """
    if isinstance(reference, float) and reference.is_integer():
        return str(int(reference))
    text = str(reference).strip()
    final = hashes(text)
    if final is None:
        last = boxed(text)
        return text if last is None else last
    last = boxed(final)
    final = (final if last is None else last).strip("$").removeprefix("\\$").strip()
    if any(bracket in final for bracket in "([{"):
        return final
    return _THOUSANDS.sub(lambda number: number[0].replace(",", ""), final)


def reference_texts(reference: Any) -> list[str]:
    """The answers that a reference accepts, as texts.

    A list (or tuple, array, JSON list of texts) is several answers, any of which is right; what is
    missing among them is left out.
    """
    if hasattr(reference, "tolist"):
        reference = reference.tolist()
    if isinstance(reference, str) and _JSON_TEXTS.fullmatch(reference.strip()):
        try:
            reference = json.loads(reference)
        except json.JSONDecodeError:
            return [reference_text(reference)]
    several = reference if isinstance(reference, list | tuple) else [reference]
    return [reference_text(one) for one in several if not is_missing(one)]


def is_missing(reference: Any) -> bool:
    """Whether a reference is absent: None, NaN, blank, or a list of such."""
    if hasattr(reference, "tolist"):
        reference = reference.tolist()
    if isinstance(reference, list | tuple):
        return all(map(is_missing, reference))
    if reference is None or (isinstance(reference, float) and math.isnan(reference)):
        return True
    return isinstance(reference, str) and not reference.strip()

r"""Where the answer is in a completion: `<answer>`, `\boxed{}`, `####`.

Each rule is a function of the text that gives the answer or None, so that a reward says in one line
which rules it follows and in what order.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

Rule = Callable[[str], str | None]

_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
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
    """GSM8K's form: what follows the last `####` on its line, stripped."""
    matches = _HASHES.findall(text)
    return matches[-1].strip() if matches else None


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
    r"""A reference answer as text.

    A worked solution is reduced to its answer (`\boxed{}` or `####`), and a whole number that went
    through a float column loses its ".0".
    """
    if isinstance(reference, float) and reference.is_integer():
        return str(int(reference))
    text = str(reference).strip()
    found = hashes(text) or boxed(text)
    return found if found is not None else text

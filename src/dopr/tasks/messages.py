"""Prompts as texts or chats: content in parts, tool calls in a history, and what is refused."""

from collections.abc import Mapping
from typing import Any

from dopr.core.errors import UserError

Message = dict[str, Any]
Prompt = str | list[Message]

_PICTURES = ("image", "images")


def read_prompt(value: Any, where: str) -> Prompt:
    """A prompt as a dataset holds it: a text, or messages with their content as text.

    Content given in parts (`[{"type": "text", "text": ...}]`) is joined. What else a message holds
    (`tool_calls`, `tool_call_id`, `name`) stays as it is: chat templates read it.

    Args:
        value: of the prompt's column.
        where: source and row, for messages.

    Raises:
        UserError: nothing to read, a form that is none of these, or a picture, sound or film.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        if value.strip():
            return value
    elif isinstance(value, list | tuple) and value:
        messages = [_read_message(message, where) for message in value]
        if any(message["content"].strip() for message in messages):
            return messages
    if value is not None and not isinstance(value, str | list | tuple):
        kind = type(value).__name__
        raise UserError(f"{where} has a {kind} as its prompt; write a text or a list of messages")
    raise UserError(f"{where} has an empty prompt; remove the row or name another column")


def has_more_than_text(prompt: Prompt) -> bool:
    """Whether a chat has messages with more than a role and a text."""
    return not isinstance(prompt, str) and any(len(message) > 2 for message in prompt)


def refuse_pictures(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row with pictures beside its prompt, in the columns that TRL and verl use.

    Raises:
        UserError: there are some.
    """
    for name in _PICTURES:
        value = row.get(name)
        if value is not None and (not hasattr(value, "__len__") or len(value)):
            raise _no_reader(where, f"an {name.removesuffix('s')} in its column {name!r}")


def _read_message(message: Any, where: str) -> Message:
    known = isinstance(message, dict) and "role" in message
    if not known or not ({"content", "tool_calls"} & set(message)):
        raise UserError(f"{where}: a prompt is a text or a list of role and content")
    rest = {
        key: value
        for key, value in message.items()
        if key not in ("role", "content") and value is not None
    }
    content = _joined(message.get("content"), where)
    return {"role": str(message["role"]), "content": content, **rest}


def _joined(content: Any, where: str) -> str:
    if hasattr(content, "tolist"):
        content = content.tolist()
    if content is None:
        return ""
    if not isinstance(content, list | tuple):
        return str(content)
    texts = []
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        else:
            kind = part.get("type", "part of another kind") if isinstance(part, dict) else "value"
            raise _no_reader(where, f"{_article(str(kind))} in its prompt")
    return "".join(texts)


def _article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"


def _no_reader(where: str, what: str) -> UserError:
    return UserError(
        f"{where} has {what}, and tasks are read as text alone; remove such rows, or give the "
        "dataset to DoPRTrainer with a model that sees"
    )

"""What a model reads of a prompt: its text, its token ids, and whether it fits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from dopr.core.errors import UserError

TemplateOptions = Mapping[str, Any] | None

_AT_ONCE = 1024  # prompts whose token ids are in memory together


def prompt_texts(
    tokenizer: Any, prompts: Sequence[Any], template_options: TemplateOptions = None
) -> list[str]:
    """What the model reads of each prompt: plain text as it is, chats by the chat template.

    Args:
        template_options: what else the template reads, such as `enable_thinking`; TRL calls them
            `chat_template_kwargs`.

    Raises:
        UserError: chats for a tokenizer without a template, or one that the template refuses.
    """
    if not prompts or isinstance(prompts[0], str):
        return list(prompts)
    require_template(tokenizer, prompts[0])
    import jinja2

    try:
        texts = tokenizer.apply_chat_template(
            list(prompts), tokenize=False, add_generation_prompt=True, **(template_options or {})
        )
    except jinja2.TemplateError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the model's chat template refuses a prompt ({reason})") from error
    return list(texts)


def require_template(tokenizer: Any, prompt: Any) -> None:
    """Refuse a chat for a model that has no chat template.

    Raises:
        UserError: it has none.
    """
    if not isinstance(prompt, str) and getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            "the prompts are chats and the model's tokenizer has no chat template; give prompts "
            "as plain text (chat: false), or an instruction-tuned model"
        )


def prompt_token_ids(
    tokenizer: Any, prompts: Sequence[Any], template_options: TemplateOptions = None
) -> list[list[int]]:
    """Token ids of each prompt, as TRL makes them; see `prompt_texts`."""
    if not prompts:
        return []
    chat = not isinstance(prompts[0], str)
    texts = prompt_texts(tokenizer, prompts, template_options)
    return list(tokenizer(texts, add_special_tokens=not chat)["input_ids"])


def prompt_lengths(
    dataset: Dataset, tokenizer: Any, template_options: TemplateOptions = None
) -> NDArray[np.int64]:
    """Tokens of each prompt, shape (rows,); a million prompts take no more memory than a thousand.

    Raises:
        UserError: as `prompt_texts`.
    """
    lengths = np.empty(len(dataset), dtype=np.int64)
    for start, prompts in _pieces(dataset):
        ids = prompt_token_ids(tokenizer, prompts, template_options)
        lengths[start : start + len(ids)] = [len(row) for row in ids]
    return lengths


def _pieces(dataset: Dataset) -> Iterator[tuple[int, list[Any]]]:
    prompts = dataset.select_columns(["prompt"])
    for start in range(0, len(dataset), _AT_ONCE):
        yield start, prompts[start : start + _AT_ONCE]["prompt"]


def within_context(
    dataset: Dataset,
    model: Any,
    tokenizer: Any,
    max_new_tokens: int,
    overlong: str = "error",
    *,
    max_prompt_length: int | None = None,
    template_options: TemplateOptions = None,
) -> Dataset:
    """The dataset with prompts alone that are short enough.

    A prompt may have `max_prompt_length` tokens, and must leave room in the model's context for the
    longest completion.

    Args:
        max_new_tokens: tokens of the longest completion.
        overlong: `error` refuses longer prompts, `drop` leaves them out, `truncate` keeps the last
            tokens of plain text, as older TRL does (a chat is not cut: its template and its first
            messages would be lost; those are refused).
        max_prompt_length: tokens; None bounds prompts by the context alone.
        template_options: as for `prompt_texts`.

    Raises:
        UserError: a prompt is too long, no prompt is left, or chats have no template.
    """
    if len(dataset):
        require_template(tokenizer, dataset[0]["prompt"])
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = None if context is None else context - max_new_tokens
    bounds = [bound for bound in (room, max_prompt_length) if bound is not None]
    if not bounds:
        return dataset
    most = min(bounds)
    lengths = prompt_lengths(dataset, tokenizer, template_options)
    fits = np.flatnonzero(lengths <= most)
    if len(fits) == len(lengths):
        return dataset
    limit, lower = f"max_prompt_length {max_prompt_length}", "raise it"
    if most != max_prompt_length:
        limit = f"the model's context of {context} with max_completion_length {max_new_tokens}"
        lower = "lower max_completion_length"
    if overlong == "truncate" and most > 0 and isinstance(dataset[0]["prompt"], str):
        return _cut(dataset, tokenizer, lengths, most)
    if overlong == "drop" and len(fits):
        return dataset.select(fits)
    if overlong == "drop" or most <= 0:
        raise UserError(f"no prompt fits {limit}; {lower}")
    worst = int(lengths.argmax())
    name = dataset[worst]["id"] if "id" in dataset.column_names else f"row {worst}"
    mend = "set overlong_prompts to drop"
    if overlong == "truncate":
        mend = f"chats are not cut, so {mend}"
    raise UserError(
        f"{len(lengths) - len(fits)} of {len(lengths)} prompts are too long: {name!r} has "
        f"{lengths[worst]} tokens, more than {limit} allows; {lower} or {mend}"
    )


def _cut(dataset: Dataset, tokenizer: Any, lengths: NDArray[np.int64], most: int) -> Dataset:
    """The dataset with the beginning of its long prompts cut off, to `most` tokens at most."""
    texts = list(dataset["prompt"])
    for i in np.flatnonzero(lengths > most).tolist():
        ids = tokenizer(texts[i], add_special_tokens=False)["input_ids"]
        for count in range(most, 0, -1):  # text cut between tokens may read as one token more
            text = tokenizer.decode(ids[-count:], skip_special_tokens=False)
            if len(tokenizer(text)["input_ids"]) <= most:
                texts[i] = text
                break
        else:
            raise UserError(f"max_prompt_length {most} leaves no token of a prompt; raise it")
    cut = dataset.remove_columns("prompt").add_column("prompt", texts)
    return cut.select_columns(dataset.column_names)

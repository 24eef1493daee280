"""`rlpt:FILE?key=value&...`: plain text as prompts that ask for its own sentences.

Next-segment prompts (ASR) show what precedes a sentence and ask for it; middle-segment prompts
(MSR) also show the sentence after it.

Source: RLPT [2509.19249, S]. Its wording and its limits were not available; they are ours.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from dopr.core.errors import UserError
from dopr.rewards.continuation import words
from dopr.rewards.sentences import split_sentences
from dopr.tasks.columns import Row
from dopr.tasks.options import one_of, parse_source
from dopr.tasks.srl import THOUGHTS

_GAP = "[...]"
_INSTRUCTION = (
    "Think about it between <think> and </think>, then write that sentence between <answer> and "
    "</answer>."
)


@dataclass
class RLPTOptions:
    """Options of an `rlpt:` source.

    Args:
        ask: `both`, `next` (ASR alone) or `middle` (MSR alone).
        middle_weight: lambda in ASR + lambda MSR, by rows: with 0.5 every other middle-segment
            prompt is left out, with 2 every other next-segment prompt. Rewards are not scaled, as
            dividing by the group's deviation would undo it.
        context: sentences shown before the one asked for, at most.
        min_words: sentences of fewer words are not asked for, and a prediction must give as many to
            be rewarded.
        following: sentences after the one asked for into which a prediction may run on, at most;
            0 rewards beginnings of that sentence alone. The source takes any beginning of the rest
            of the text [T].
        thought: `required` asks for a thought and a marked answer; `none` lets the model continue
            the text as it is.
    """

    ask: str = "both"
    middle_weight: float = 1.0
    context: int = 8
    min_words: int = 3
    following: int = 4
    thought: str = "required"


def rlpt_rows(source: str, *, limit: int | None) -> list[Row]:
    """The prompts of a text file, or of all `.txt` files of a folder, in the text's order.

    Args:
        source: `rlpt:FILE?key=value&...` with the options of `RLPTOptions`.
        limit: at most so many.

    Raises:
        UserError: an unknown option, a file that is missing, empty or no text, or one in which
            nothing can be asked for.
    """
    name, options = parse_source(source, RLPTOptions)
    one_of("ask of rlpt:", options.ask, ("both", "next", "middle"))
    one_of("thought of rlpt:", options.thought, THOUGHTS)
    if options.context < 1 or options.min_words < 1:
        raise UserError(f"{source!r}: context and min_words must be at least 1")
    if options.following < 0:
        raise UserError(f"{source!r}: following must not be negative")
    if not 0 < options.middle_weight < math.inf:
        raise UserError(f"{source!r}: middle_weight must be above 0; ask=next leaves MSR out")
    rows: list[Row] = []
    for path in _files(name, source):
        rows.extend(_rows_of(_read(path, source), options, f"rlpt:{path.stem}"))
    if not rows:
        raise UserError(
            f"{source!r} gives no prompt: after its first sentence (and before its last, for "
            f"ask=middle) no sentence has min_words={options.min_words} words; give more text"
        )
    return thin_out(rows, options)[:limit]


def _files(name: str, source: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise UserError(f"{source!r}: the folder holds no .txt file")
        return files
    if not path.is_file():
        raise UserError(f"there is no file {name!r}; check the path in {source!r}")
    return [path]


def _read(path: Path, source: str) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source!r}: {path.name} is not UTF-8 text ({error.reason})") from None
    if not text.strip():
        raise UserError(f"{source!r}: the file {path.name} is empty; give it some text")
    return text


def _rows_of(text: str, options: RLPTOptions, label: str) -> list[Row]:
    sentences = split_sentences(text)
    rows = []
    for i, target in enumerate(sentences):
        if i == 0 or len(words(target)) < options.min_words:
            continue
        before = " ".join(sentences[max(0, i - options.context) : i])
        rest = " ".join(sentences[i + 1 : i + 1 + options.following])
        if options.ask != "middle":
            rows.append(_row(_next_prompt(before, options), target, rest, "next", options, label))
        if options.ask != "next" and i + 1 < len(sentences):
            prompt = _middle_prompt(before, sentences[i + 1], options)
            rows.append(_row(prompt, target, rest, "middle", options, label))
    return rows


def thin_out(rows: list[Row], options: RLPTOptions) -> list[Row]:
    """Leave rows of one kind out, evenly, so that their numbers stand as 1 to `middle_weight`.

    Under uniform choice the mean over the rows left is ASR + lambda MSR up to a factor, where the
    text gives as many prompts of either kind.
    """
    if options.ask != "both":
        return rows
    share = {"next": min(1.0, 1 / options.middle_weight), "middle": min(1.0, options.middle_weight)}
    seen = {"next": 0, "middle": 0}
    kept = []
    for row in rows:
        kind = row["extra_info"]["ask"]
        n = seen[kind]
        seen[kind] += 1
        # One more each time the share of those seen passes a whole number.
        if math.ceil((n + 1) * share[kind]) > math.ceil(n * share[kind]):
            kept.append(row)
    return kept


def _row(prompt: str, target: str, rest: str, ask: str, options: RLPTOptions, label: str) -> Row:
    info = {"ask": ask, "min_words": options.min_words, "following": rest}
    return {
        "id": None,
        "prompt": prompt,
        "answer": target,
        "data_source": f"{label}/{ask}",
        "extra_info": info,
    }


def _next_prompt(before: str, options: RLPTOptions) -> str:
    if options.thought == "none":
        return before
    return f"Which sentence comes next?\n\n{before}\n\n{_INSTRUCTION}"


def _middle_prompt(before: str, after: str, options: RLPTOptions) -> str:
    text = f"{before} {_GAP} {after}"
    if options.thought == "none":
        return f"{text}\n{_GAP} = "
    return f"Which sentence stands for {_GAP}?\n\n{text}\n\n{_INSTRUCTION}"

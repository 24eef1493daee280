"""Figures in running text, tied to the files that they come from.

docs/figures.yaml lists, page by page, phrases as they stand in the text with a placeholder for
every measured number:

    docs/results.md:
      measured:
      - from: demo/comparison.json                  # below docs/results; or `derived NAME`
        text:
        - "takes {ratios > dopr/grpo > rollouts | spread .2f} of its rollouts"
      given: ["p = 0.01"]                           # settings and arithmetic: nothing is measured
      by hand: ["took about five minutes"]          # no file is kept, and the text says so

A placeholder is a path of keys, perhaps ` * FACTOR`, and how it is written: a format (`.2f`,
`,.0f`, `.0%`), or before it `spread` (median and interval, `≤` where it is a bound), `bound` (that
without the interval), `interval` (`0.40 to 1.17`), `mean` (mean and its interval). Line ends of the
page do not matter. `make results` puts the files' figures into the page; a test fails where they
differ.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from publish_comparison import spread
from result_derived import DERIVED

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
LISTED = ROOT / "docs" / "figures.yaml"

NUMBER = r"(?:[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?%?|inf|missed)"
INTERVAL = rf"{NUMBER}\s+to\s+{NUMBER}"
PATTERNS = {
    "spread": rf"(?:≤\s+)?{NUMBER}(?:\s+\({INTERVAL}\))?",
    "mean": rf"{NUMBER}\s+\({INTERVAL}\)",
    "bound": rf"(?:≤\s+)?{NUMBER}",
    "interval": INTERVAL,
    "value": NUMBER,
}
PLACEHOLDER = re.compile(r"\{([^{}|]+)\|([^{}|]+)\}")
BLOCK = re.compile(r"(<!-- made: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
UNITS = "ms|s|seconds|minutes|microseconds|bytes|kB|MB|GB|times"
# What must come from somewhere: decimals, intervals, bounds, shares and numbers with a unit.
FIGURE = re.compile(
    rf"{NUMBER}\s+\({INTERVAL}\)|≤\s+{NUMBER}|(?<![\w.-])[+-]?\d[\d,]*\.\d+(?![\w.]*\w)%?"
    rf"|(?<![\w.])\d[\d,]*(?:%|\s(?:{UNITS})\b)"
)
SPAN_OF_CODE = re.compile(
    r"(?<!`)(`+)(?!`)[^`\n]*(?:\n[^`\n]+)?\1|\]\([^)]*\)|<!--.*?-->|\b\d{4}\.\d{5}\b|https?:\S+",
    re.DOTALL,
)
CODE_BLOCK = re.compile(r"^```.*?^```|^(?: {4,}\S[^\n]*\n?)+", re.DOTALL | re.MULTILINE)


class FigureError(Exception):
    """A phrase, a path or a figure that does not fit; says which."""


@dataclass(frozen=True)
class Phrase:
    """Words of a page with placeholders, and the file that fills them."""

    source: str
    template: str

    def values(self) -> list[str]:
        """What the file says, one text a placeholder."""
        data = load(self.source)
        return [
            written(looked_up(data, path, self.source), how.strip())
            for path, how in PLACEHOLDER.findall(self.template)
        ]

    def pattern(self) -> re.Pattern[str]:
        """Finds the phrase whatever its figures are; a group a placeholder."""
        pieces, place = [], 0
        for match in PLACEHOLDER.finditer(self.template):
            pieces.append(literal(self.template[place : match.start()]))
            pieces.append(f"({PATTERNS[kind_and_form(match[2].strip())[0]]})")
            place = match.end()
        pieces.append(literal(self.template[place:]))
        return re.compile("".join(pieces))


@dataclass
class Page:
    """What docs/figures.yaml says of one page."""

    measured: list[Phrase] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)


def literal(text: str) -> str:
    """A pattern for the text in which any white space stands for any other."""
    pieces = [re.escape(piece) for piece in re.split(r"\s+", text)]
    return r"\s+(?:> )?".join(pieces)


def kind_and_form(how: str) -> tuple[str, str]:
    """`spread .2f` as (spread, .2f), `.2f` as (value, .2f)."""
    kind, _, form = how.rpartition(" ")
    if (kind or "value") not in PATTERNS:
        raise FigureError(f"no way of writing called {kind!r}; there are {', '.join(PATTERNS)}")
    return kind or "value", form


def written(value: Any, how: str) -> str:
    """A value of a file as it stands in the text."""
    kind, form = kind_and_form(how)
    if kind == "spread":
        return spread(value, form)
    if kind == "bound":
        return spread(value, form).partition(" (")[0]
    if kind == "interval":
        return f"{value['low']:{form}} to {value['high']:{form}}"
    if kind == "mean":
        low, high = f"{value['mean_low']:{form}}", f"{value['mean_high']:{form}}"
        return f"{value['mean']:{form}} ({low} to {high})"
    return format(value, form)


def load(source: str) -> Any:
    """The data of a file below docs/results, or what is worked out under a name."""
    name = source.removeprefix("derived ")
    if name != source:
        if name not in DERIVED:
            raise FigureError(f"nothing is derived as {name!r}; there are {', '.join(DERIVED)}")
        return DERIVED[name](RESULTS)
    return json.loads((RESULTS / source).read_text())


def looked_up(data: Any, path: str, source: str = "") -> Any:
    """What stands at a path such as `shapes > 0 > ratio_median`, times a factor if one is given."""
    keys, _, factor = path.strip().partition(" * ")
    for key in (part.strip() for part in keys.split(" > ")):
        try:
            data = data[int(key)] if isinstance(data, list) else data[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise FigureError(f"{source} has nothing at {keys!r}: no {key!r}") from None
    return data * float(factor) if factor else data


def listed() -> dict[str, Page]:
    """What docs/figures.yaml says, by page."""
    found = {}
    for name, entry in yaml.safe_load(LISTED.read_text()).items():
        phrases = [
            Phrase(one["from"], template)
            for one in entry.get("measured", ())
            for template in one["text"]
        ]
        found[name] = Page(phrases, entry.get("given", []), entry.get("by hand", []))
    return found


def outside_blocks(text: str) -> str:
    """The text with generated blocks blanked, every place where it was."""
    return BLOCK.sub(lambda block: _blank(block[0]), text)


def _blank(text: str) -> str:
    return re.sub(r"\S", " ", text)


def places(text: str, phrase: Phrase, page: str) -> re.Match[str]:
    """Where the phrase stands in a page.

    Raises:
        FigureError: nowhere, or more than once.
    """
    found = list(phrase.pattern().finditer(outside_blocks(text)))
    if len(found) != 1:
        times = "nowhere" if not found else f"{len(found)} times"
        raise FigureError(f"{page}: {times} in the text: {phrase.template!r} (docs/figures.yaml)")
    return found[0]


def renewed(text: str, page: str, entry: Page) -> str:
    """A page's text with the figures of the files."""
    for phrase in entry.measured:
        match = places(text, phrase, page)
        for number, value in reversed(list(enumerate(phrase.values(), start=1))):
            if match[number].split() != value.split():
                text = text[: match.start(number)] + value + text[match.end(number) :]
    return text


def differing(text: str, page: str, entry: Page) -> Iterator[str]:
    """Figures of a page that are not those of their files, and phrases that are not there."""
    for phrase in entry.measured:
        try:
            match, values = places(text, phrase, page), phrase.values()
        except FigureError as error:
            yield str(error)
            continue
        for number, value in enumerate(values, start=1):
            if match[number].split() != value.split():
                yield f"{page}: {match[number]!r}, but {phrase.source} has {value!r}: {match[0]!r}"


def untied(text: str, page: str, entry: Page) -> Iterator[str]:
    """Figures of a page that come from no file and are not said to need none."""
    visible = outside_blocks(text)
    tied = []
    for phrase in entry.measured:
        match = places(text, phrase, page)
        tied += [match.span(number) for number in range(1, len(match.groups()) + 1)]
    for words in [*entry.given, *entry.by_hand]:
        found = [match.span() for match in re.finditer(literal(words), visible)]
        if not found:
            yield f"{page}: docs/figures.yaml names {words!r}, which is not in the text"
        tied += found
    code = [match.span() for match in SPAN_OF_CODE.finditer(visible)]
    blocks = [match.span() for match in CODE_BLOCK.finditer(visible)]
    for match in FIGURE.finditer(visible):
        with_interval = " to " in match[0]
        left_out = [*tied, *code] if with_interval else [*tied, *code, *blocks]
        end_of_number = match.end() if with_interval else match.start() + 1
        if not any(start <= match.start() and end_of_number <= end for start, end in left_out):
            line = visible[: match.start()].count("\n") + 1
            around = " ".join(visible[max(match.start() - 40, 0) : match.end() + 30].split())
            yield f"{page}:{line}: {match[0]!r} comes from no file: {around!r}"


def not_said_to_be_by_hand(text: str, page: str, entry: Page) -> Iterator[str]:
    """Figures noted by hand whose paragraph, or the one before, does not say so."""
    paragraphs = re.split(r"\n\s*\n", text)
    for words in entry.by_hand:
        for place, paragraph in enumerate(paragraphs):
            if re.search(literal(words), paragraph):
                near = " ".join(paragraphs[max(place - 1, 0) : place + 1])
                if "by hand" not in near.lower():
                    yield f"{page}: {words!r} has no file, and the text does not say 'by hand'"

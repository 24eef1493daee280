r"""Answers as text: one spelling for what is written in several ways, and pieces of an answer.

Imports nothing from `dopr` (see worker.py).
"""

import re
from itertools import pairwise


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


_CHARACTERS = {
    **dict(zip("−–—‐‑", "-----", strict=True)),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∕": "/"},
    **{"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\neq ", "≈": r"\approx "},
    **{"∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
    **{"±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∖": r"\setminus ", "…": r"\ldots "},
    **{"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda "},
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "%": "%", "，": ",", "：": ":"},
    **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"},
    **{"¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"},
    **{"²": "^{2}", "³": "^{3}", "⁴": "^{4}", "₁": "_1", "₂": "_2", "’": "'", "′": "'"},
    **{"\u00a0": " ", "\u2009": " ", "\u202f": " ", "（": "(", "）": ")"},
}
_CHARACTER = re.compile("|".join(map(re.escape, _CHARACTERS)))
_TEXT_COMMAND = (
    r"\\(?:text(?:bf|rm|it|sf|tt|normal)?|[mhf]box|math(?:rm|bf|it|sf|tt|normal)|operatorname\*?)"
)
_TEXT = re.compile(_TEXT_COMMAND + r"\s*\{\s*([^{}]*?)\s*\}")
_TEXT_PER_TEXT = re.compile(r"\\text\{([a-z]+)\}\s*/\s*\\text\{([a-z]+)\}")
_TEXT_NUMBER = re.compile(r"\\text\{((?=[^{}]*\d)[-\d\s.,/()]+)\}")
_OLD_TEXT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|mathrm)\s+([^{}]*?)\s*\}")
TEXT = re.compile(r"\\text\{([^{}]*)\}")
# Commas and thin spaces between the thousands of one number, as LaTeX writes them.
_LATEX_THOUSANDS = re.compile(
    r"(?<=\d)\s*(?:\{,\}(?:\\!)?|,?(?<!\\)\\[,!:; ]|,\\!|~)\s*(?=\d{3}(?!\d))"
)
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d])")
_INNERMOST = re.compile(r"[(\[{][^()\[\]{}]*,[^()\[\]{}]*[)\]}]")
_SIZES = re.compile(r"\\(?:[bB]ig+[lrm]?|left|right|displaystyle|textstyle|limits)(?![A-Za-z])")
_SPACES = re.compile(
    r"(?<!\\)\\[,;:! ]|\\(?:q?quad|thinspace)(?![A-Za-z])|\\[hv]space\*?\{[^{}]*\}|~"
)
_DEGREES = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|°)"
    r"(?:\s*(?:\\text\{\s*)?([CF])(?![A-Za-z])(?:\s*\})?)?"
)
_SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(leq|leqslant|leqq)(?![A-Za-z])|<=|=<"), r"\\le "),
    (re.compile(r"\\(geq|geqslant|geqq)(?![A-Za-z])|>=|=>"), r"\\ge "),
    (re.compile(r"\\(?:ne|not\s*=)(?![A-Za-z])|!=|\\not="), r"\\neq "),
    (re.compile(r"\\(?:approx|simeq|doteq)(?![A-Za-z])"), "="),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:dots|cdots|dotsc|dotsb|hdots)(?![A-Za-z])|\.\.\."), r"\\ldots "),
    (re.compile(r"\\(?:colon|ratio)(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:lbrace|lbrack)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\text\{\\?%\}|\\%"), "%"),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|infty|inf)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\text\{(e|i|\\pi)\}"), r"\1 "),
    (re.compile(r"\\mathit\{([a-zA-Z])\}"), r"\1"),
)
_LETTER = re.compile(r"\\(?:text|mathbb)\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_VARIABLE = re.compile(r"\\(?:text|mathbb)\{[^{}]*\}|\\[A-Za-z]+|[A-DF-HJ-Z]")
_GAP = re.compile(r"(?<=\d)\s+(?=\d)")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d,]|\s?/)")
_LETTER_CHOICE = re.compile(r"\(?([A-Za-z])\)?")
# `(B) 12`, but not several choices in a row.
_CHOICE_WITH_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[).:])(?!.*[\s(][A-J](?:[).:]|$))\s*\S.*")
_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z][A-Za-z'-]*)*")
# Short words that are answers; other short runs of letters are products of variables.
_SHORT_WORDS = word_set("yes no odd all one two six ten red up dne")


def tidy(answer: str) -> str:
    r"""An answer without what does not change its meaning, in one spelling.

    Removed: dollars and other delimiters of formulas, emphasis, sizes, spacing commands, commas
    and spaces of LaTeX's between thousands, a box around all of it, punctuation at its end.
    Typographic characters and synonymous commands become one command each, words in any font
    `\text{}`, degrees a unit.
    """
    text = _CHARACTER.sub(lambda match: _CHARACTERS[match[0]], answer.strip()).strip("*`").strip()
    text = _unboxed(text)
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", _without_dollars(text))
    text = _LATEX_THOUSANDS.sub("", text)
    text = _SPACES.sub(" ", _SIZES.sub("", text))
    text = _OLD_TEXT.sub(r"\\text{\1}", _TEXT.sub(r"\\text{\1}", text))
    text = _TEXT_PER_TEXT.sub(r"\\text{\1/\2}", _TEXT_NUMBER.sub(_number, text))
    text = _DEGREES.sub(lambda match: rf"\text{{degrees {match[1] or ''}}}", text)
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    if (wholly := TEXT.fullmatch(text.strip(" .$"))) and re.search(r"\d", wholly[1]):
        text = wholly[1]
    text = re.sub(r"\s+", " ", text).strip().strip("*`").lstrip("=:+ ")
    return re.sub(r"(?:[\s.,;:]|\\\\|\\ )+$", "", text)


def _without_dollars(text: str) -> str:
    """Dollars that delimit formulas become blanks; one alone before a number is money."""
    bare = [match.start() for match in re.finditer(r"(?<!\\)\$", text)]
    if len(bare) == 1 and re.match(r"\$\s*-?[\d.]", text[bare[0] :]):
        return text[: bare[0]] + "\\" + text[bare[0] :]
    return re.sub(r"(?<!\\)\$+", " ", text)


def _number(match: "re.Match[str]") -> str:
    """A number in bold is one, though some scanned texts part its digits: `1 0 2 0`."""
    content = match[1].strip()
    apart = re.fullmatch(r"-?\s*\d(?:\s+[\d.,])+", content) or re.fullmatch(r"-\s+\d+", content)
    return " " + (re.sub(r"\s", "", content) if apart else content) + " "


def _unboxed(text: str) -> str:
    match = re.match(r"\$*\s*\\(?:boxed|fbox|framebox)\s*\{", text)
    if match and closing(text, match.end() - 1) == len(text.rstrip("$. ")) - 1:
        return text[match.end() : len(text.rstrip("$. ")) - 1]
    return text


def canonical(text: str) -> str:
    r"""A tidied answer as it is compared letter for letter: no blanks and no `\text{}`."""
    bare = _GAP.sub("_gap_", TEXT.sub(r" \1 ", joined_thousands(text)).replace("\\$", ""))
    bare = re.sub(r"\{(\w)\}", r"\1", re.sub(r"\s+", "", bare))
    choice = _LETTER_CHOICE.fullmatch(bare)
    return choice[1] if choice else bare


def fold_case(gold: str, answer: str) -> tuple[str, str]:
    """Both texts with small letters for variables, unless one of them needs both cases.

    Left as they are: `E` and `I`, whose small letters are constants.
    """
    if any(_needs_case(text) for text in (gold, answer)):
        return gold, answer
    folded = [
        _VARIABLE.sub(lambda match: match[0].lower() if len(match[0]) == 1 else match[0], text)
        for text in (gold, answer)
    ]
    return folded[0], folded[1]


def _needs_case(text: str) -> bool:
    letters = {match[0] for match in _LETTER.finditer(text) if len(match[0]) == 1}
    return any(letter.lower() in letters for letter in letters if letter.isupper())


def joined_thousands(text: str) -> str:
    """The text with numbers such as `1 000 000` in one piece."""
    return _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ""), text)


def without_thousands(text: str) -> str:
    """The text without the commas between thousands; those that separate values stay.

    Within brackets at least one comma separates: `(1,200)` is a point.
    """
    kept = _INNERMOST.sub(
        lambda match: match[0] if "," in _joined(match[0]) else match[0].replace(",", ", "), text
    )
    return _joined(kept)


def _joined(text: str) -> str:
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def readings(text: str) -> list[str]:
    """A text's commas read as thousands' and as separators, which `12,102` leaves open.

    One reading where there is no such number.
    """
    if not _THOUSANDS.search(text):
        return [text]
    separated = _THOUSANDS.sub(lambda match: match[0].replace(",", ", "), text)
    return [without_thousands(text), separated]


def is_product(letters: str) -> bool:
    """Whether a run of letters is rather a product of variables than a word: `xy`, `abc`, `mn`."""
    low = letters.lower()
    if len(low) <= 2 or set(low) <= set("abcxyz") or not set(low) & set("aeiou"):
        return True
    return all(ord(b) - ord(a) == 1 for a, b in pairwise(low))


def is_text(answer: str) -> bool:
    r"""Whether a tidied answer is a word or a choice, `\text{east}` or `(C)`, and no formula."""
    unwrapped = TEXT.sub(r" \1 ", answer).strip()
    if re.search(r"[\d\\=<>+*/^_{}|%]", unwrapped):
        return False
    if TEXT.search(answer) and not TEXT.sub("", answer).strip(" .,()"):
        return True
    if re.fullmatch(r"\([A-Z]\)", unwrapped):
        return True
    found = unwrapped.split()
    if not _WORDS.fullmatch(unwrapped) or any(w.lower() in NAMES for w in found):
        return False
    return any((len(w) > 3 and not is_product(w)) or w.lower() in _SHORT_WORDS for w in found)


def is_choice(answer: str) -> bool:
    """Whether a tidied answer is one letter, as of one of several choices."""
    return re.fullmatch(r"[A-J]", canonical(answer)) is not None


def same_text(gold: str, answer: str) -> bool:
    """Whether two answers in words are the same, whatever their case and white space."""
    wanted, found = canonical(gold), canonical(answer)
    if wanted.lower() == found.lower():
        return True
    choice = _CHOICE_WITH_TEXT.fullmatch(TEXT.sub(r" \1 ", answer).strip())
    return choice is not None and wanted == (choice[1] or choice[2])


# Functions, constants and letters that plain text names without a backslash.
NAMES = word_set(
    "pi theta alpha beta gamma delta lambda mu sigma phi omega sin cos tan cot sec csc arcsin "
    "arccos arctan sinh cosh tanh log ln exp sqrt cbrt abs max min gcd lcm det infty"
)

_OPENING = ("\\{", "\\langle", "\\lfloor", "\\lceil", "\\lvert", "(", "[", "{")
_CLOSING = ("\\}", "\\rangle", "\\rfloor", "\\rceil", "\\rvert", ")", "]", "}")
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_SEPARATOR = re.compile(
    r"\s*(?:[,;]\s*)?(?:\\text\{(?:and|or|\s*,\s*)\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*"
    r"|\s*[,;]\s*"
)


def tokens(text: str) -> list[tuple[int, str, int]]:
    """Start, token and depth of brackets around it; a command is one token."""
    found, depth = [], 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _CLOSING:
            depth -= 1
        found.append((match.start(), token, depth))
        if token in _OPENING:
            depth += 1
    return found


def closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` ends: the position of the closing token's end - 1."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        if match[0] in _OPENING:
            depth += 1
        elif match[0] in _CLOSING:
            depth -= 1
            if depth == 0:
                return match.end() - 1
    return None


def group(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket where one pair holds the whole text."""
    first = _TOKEN.match(text)
    if not first or first[0] not in _OPENING or closing(text, 0) != len(text) - 1:
        return None
    last = next(c for c in _CLOSING if text.endswith(c))
    return first[0], text[first.end() : len(text) - len(last)].strip(), last


def split(text: str) -> list[str]:
    """The items of a list: between commas, semicolons, `and` and `or` outside all brackets."""
    outside = [False] * (len(text) + 1)
    for start, _, depth in tokens(text):
        outside[start] = depth == 0
    items, position = [], 0
    for match in _SEPARATOR.finditer(text):
        mark = match.start() + len(match[0]) - len(match[0].lstrip())
        if outside[mark] and match[0].strip():
            items.append(text[position : match.start()].strip())
            position = match.end()
    items.append(text[position:].strip())
    return [item for item in items if item]


def split_at(text: str, marks: tuple[str, ...]) -> list[str]:
    """The text cut at these tokens outside all brackets."""
    parts, position = [], 0
    for start, token, depth in tokens(text):
        if depth == 0 and token in marks:
            parts.append(text[position:start].strip())
            position = start + len(token)
    return [*parts, text[position:].strip()]

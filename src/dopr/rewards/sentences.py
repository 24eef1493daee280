"""Plain text into sentences, by rules.

A full stop ends a sentence unless it belongs to an abbreviation, an initial, a number or a list's
marker; closing quotes and brackets stay with the sentence they close. The rules are for English and
do no harm to other languages written with these marks; Chinese and Japanese stops need no space.
"""

import re

_PARAGRAPH = re.compile(r"\n[ \t\r\f\v]*\n\s*")
# The mark, what closes with it, and the white space that must follow (none after a wide mark).
_STOP = re.compile(r"""(?P<mark>[.!?…]+)(?P<close>["'”’»)\]]*)(?=\s)|[。！？]+[”’」』）]*""")
_WORD_BEFORE = re.compile(r"""[^\s"'“‘«(\[]+$""")
_OPENERS = "\"'“‘«([*_"


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Always followed by what they belong to.
_TITLES = _listed(
    "mr mrs ms dr prof rev hon st mt gen col maj capt lt sgt sen rep gov pres messrs mme mlle"
)
_INSIDE = _listed("e.g i.e cf vs viz approx resp ca c.f al fig figs eq eqs sec ch vol pp ed")
# Abbreviations only where a number follows; words of their own elsewhere.
_BEFORE_NUMBERS = _listed(
    "no nos p v art est circa jan feb mar apr jun jul aug sep sept oct nov dec"
)
# May end a sentence; then the next one must begin like a sentence.
_MAY_END = _listed("etc inc ltd co corp jr sr bros a.m p.m b.c a.d ph.d m.d esq")
_STARTERS = _listed(
    "the a an this that these those he she it we they you i in on at if when while but and so then "
    "there here what who how why as for after before his her its their my our no yes"
)


def split_paragraphs(text: str) -> list[str]:
    """The blocks between blank lines, white space collapsed, empty ones left out."""
    blocks = (" ".join(block.split()) for block in _PARAGRAPH.split(text.replace("\r\n", "\n")))
    return [block for block in blocks if block]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space collapsed.

    A blank line always ends a sentence; a single line break never does.
    """
    return [sentence for block in split_paragraphs(text) for sentence in _split_block(block)]


def first_sentence(text: str) -> str:
    """The first sentence, or nothing where the text is blank."""
    return next(iter(split_sentences(text)), "")


def _split_block(block: str) -> list[str]:
    sentences, start = [], 0
    for match in _STOP.finditer(block):
        if _ends_sentence(block, start, match):
            sentences.append(block[start : match.end()].strip())
            start = match.end()
    sentences.append(block[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(block: str, start: int, match: re.Match[str]) -> bool:
    mark = match["mark"]
    if mark is None:
        return True  # a wide mark
    rest = block[match.end() : match.end() + 80].lstrip().lstrip(_OPENERS)
    if not rest:
        return True
    if rest[0].islower():
        return False  # `"Stop!" he said`, or an abbreviation that no list knows
    return mark != "." or bool(match["close"]) or not _is_abbreviation(block, start, match, rest)


def _is_abbreviation(block: str, start: int, match: re.Match[str], rest: str) -> bool:
    before = block[start : match.start()]
    found = _WORD_BEFORE.search(before)
    if found is None:
        return False
    word = found[0]
    plain = word.lower()
    if before.strip(" " + _OPENERS) == word and (word.isdigit() or len(word) == 1):
        return True  # the marker of a list: `1. First`, `b. Second`
    if plain in _TITLES or plain in _INSIDE:
        return True
    if plain in _BEFORE_NUMBERS:
        return rest[0].isdigit()
    starts = rest.split(maxsplit=1)[0].strip(",;:").lower() in _STARTERS
    initial = len(word) == 1 and word.isupper() and word != "I"
    dotted = re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word) is not None
    return (initial or dotted or plain in _MAY_END) and not starts

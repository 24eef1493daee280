r"""What stands beside a number: percent, scale words, units, currencies.

A unit may be left out of an answer, but two units must agree, and what changes the value is no
unit: `2 million` is not 2, and `3 x` is neither 3 nor three of something.

Imports nothing from `dopr` (see worker.py).
"""

import re
from dataclasses import dataclass

from .text import NAMES, TEXT, is_product, word_set

_UNITS = {  # one name a unit: its spellings
    "metre": "m meter metre",
    "centimetre": "cm centimeter centimetre",
    "millimetre": "mm millimeter millimetre",
    "kilometre": "km kilometer kilometre",
    "inch": "in inch inche",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile",
    "gram": "g gram gramme",
    "kilogram": "kg kilogram kilo",
    "milligram": "mg milligram",
    "pound (mass)": "lb lbs",
    "ounce": "oz ounce",
    "ton": "ton tonne",
    "second": "s sec second",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "day",
    "week": "week wk",
    "month": "month",
    "year": "yr year",
    "litre": "l liter litre",
    "millilitre": "ml milliliter millilitre",
    "gallon": "gal gallon",
    "quart": "qt quart",
    "pint": "pt pint",
    "degree": "deg degree",
    "radian": "rad radian",
    "dollar": "dollar usd buck",
    "cent": "cent",
    "euro": "euro eur",
    "pound": "gbp",
    "yen": "yen jpy",
    "rupee": "rupee rs inr",
    "mile per hour": "mph",
    "kilometre per hour": "kph kmh kmph",
    "newton": "n newton",
    "joule": "j joule",
    "watt": "w watt",
    "kilowatt": "kw kilowatt",
    "volt": "v volt",
    "ampere": "a amp ampere",
    "ohm": "ohm",
    "hertz": "hz hertz",
    "pascal": "pa pascal",
    "mole": "mol mole",
    "kelvin": "k kelvin",
    "celsius": "c celsius",
    "fahrenheit": "f fahrenheit",
    "acre": "acre",
    "hectare": "ha hectare",
    "before noon": "am a.m",
    "after noon": "pm p.m",
}
_UNIT = {spelling: name for name, spellings in _UNITS.items() for spelling in spellings.split()}
# Spellings that are units in upright type alone; in a formula these letters are variables.
_UPRIGHT = frozenset(spelling for spelling in _UNIT if len(spelling) == 1)
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "¢": "cent"}
_SCALES = {
    "hundred": "100",
    "thousand": "1000",
    "lakh": "10^{5}",
    "million": "10^{6}",
    "mil": "10^{6}",
    "crore": "10^{7}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
    "quadrillion": "10^{15}",
    "dozen": "12",
}
_FRACTIONS = {
    "third": r"\frac{1}{3}",
    "fourth": r"\frac{1}{4}",
    "fifth": r"\frac{1}{5}",
    "sixth": r"\frac{1}{6}",
    "seventh": r"\frac{1}{7}",
    "eighth": r"\frac{1}{8}",
    "ninth": r"\frac{1}{9}",
    "tenth": r"\frac{1}{10}",
    "hundredth": r"\frac{1}{100}",
    "thousandth": r"\frac{1}{1000}",
    "millionth": "10^{-6}",
    "billionth": "10^{-9}",
}
_PERCENT = word_set("percent percentage pct")
# Words that make a sentence or an expression of what they follow.
_OTHER = word_set(
    "plus minus over divided multiplied factorial mod modulo choose root where when if for with "
    "such that than is are be was not and or then through between from at least most but except "
    "unless both either neither base radix since because so"
)
_OPERATIONS = word_set("squared cubed")  # where no unit stands before them
_CONNECTORS = word_set("a an per of the in each every")
# Units that may be written without a blank after the number; other pairs of letters are factors.
_ADJACENT = word_set("cm mm km kg mg ml ft lb oz hz kw yd hr")
_ORDINALS = word_set("st nd rd th")
_POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}

_CURRENCY_BEFORE = re.compile(
    r"^(?P<sign>-?)\s*(?:US)?(?:\\\$|(?P<symbol>[€£¥₹])|(?:USD|EUR|Rs\.?)(?=\s*\d))\s*(?=[-\d.\\(])"
)
_WORD_AFTER = re.compile(
    r"(?:\\text\{(?P<upright>[^{}]*)\}|(?<=[\s\d)}\]!%])(?P<bare>[A-Za-z]['A-Za-z.-]*(?:/[A-Za-z]+)*))"
    r"\s*(?P<power>\^\s*(?:\d|\{\s*-?\d\s*\}))?\s*$"
)
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*(?:\{?\s*\\text\{(?:st|nd|rd|th)\}\s*\}?|(?:st|nd|rd|th))$")
_VALUE_END = re.compile(r"(?:[\d)}\]!%]|\\[A-Za-z]+)\s*$")


@dataclass(frozen=True)
class Quantity:
    """A value and what stands beside it.

    Attributes:
        value: LaTeX.
        number: the same without `million` and the like, as it was written.
        unit: its name; "" where there is none, None where it is none that is known.
        percent: whether a percent sign (or the word) stands beside it.
    """

    value: str
    unit: str | None = ""
    percent: bool = False
    number: str = ""


def quantity(text: str) -> Quantity:
    """A tidied answer as a value with its unit; all of it is the value where there is none."""
    value, number, percent = text, "", False
    unit: str | None = ""
    currency = _CURRENCY_BEFORE.match(value)
    if currency:
        value = currency["sign"] + value[currency.end() :]
        unit = _CURRENCY.get(currency["symbol"] or "$", "")
    elif value and value[-1] in "¢€£¥₹":
        value, unit = value[:-1].rstrip(), _CURRENCY[value[-1]]
    value = _ORDINAL.sub("", value)
    head, words = _tail(value)
    if words and head and _VALUE_END.search(head):
        number = head
        value, words = _scaled(head, words)
        if any(word in _PERCENT for word in words) or words[:2] == ["per", "cent"]:
            percent = True
        elif words:
            name = _unit_name(words)
            unit = f"{unit} {name}" if unit and name else unit or name
    elif words and head and len(words) == 1 and words[0] in _UNIT and TEXT.search(value):
        value, unit = head, _UNIT[words[0]]  # `x \text{ cm}`
    if value.endswith("%"):
        value, percent = value[:-1].rstrip(), True
    return Quantity(value.strip(), unit, percent, (number or value).strip())


def is_telling(word: str) -> bool:
    """Whether a word after a number says something of its value or its unit."""
    plain = word.lower().rstrip(".")
    known = _name(plain) is not None and len(plain) > 1
    kinds = (_SCALES, _FRACTIONS, _PERCENT, _POWERS)
    return known or any(plain in kind or plain.removesuffix("s") in kind for kind in kinds)


def is_connector(word: str) -> bool:
    """Whether a word joins two others in the name of a unit: `per`, `of`."""
    return word.lower() in _CONNECTORS


def units_agree(first: Quantity, second: Quantity) -> bool:
    """Whether two units are the same, as far as is known: one that is left out may be any."""
    return not first.unit or not second.unit or first.unit == second.unit


def _tail(text: str) -> tuple[str, list[str]]:
    """What stands before the words at the end of a value, and those words, in lower case.

    No words where they make no unit. A power belongs to its unit: `cm^2` is `cm ^2`.
    """
    head = text
    words: list[str] = []
    while match := _WORD_AFTER.search(head):
        if match["upright"] is not None:
            found = match["upright"].replace("/", " per ").lower().split()
            if len(found) == 1 and len(found[0]) == 1 and found[0] not in _UPRIGHT:
                break
        else:
            found = match["bare"].replace("/", " per ").lower().split()
            if not all(_is_word(word, words, match) for word in found):
                break
        found = [word.rstrip(".") for word in found]
        if match["power"]:
            found.append("^" + re.sub(r"[^\d-]", "", match["power"]))
        words = found + words
        head = head[: match.start()].rstrip()
        if any(word in _OTHER for word in found):
            return text, []
    if words and words[0] in _OPERATIONS:
        return text, []
    return head, [word for word in words if word]


def _is_word(word: str, after: list[str], match: "re.Match[str]") -> bool:
    """Whether a bare word is no factor of the value before it."""
    plain = word.rstrip(".")
    if "/" in match["bare"]:
        parts = match["bare"].lower().split("/")
        known = [part in _UNIT or _name(part) is not None for part in parts]
        return all(known) and (any(len(part) > 1 for part in parts) or parts == ["m", "s"])
    if len(plain) == 1:
        return plain in _CONNECTORS and bool(after)
    if match.start() > 0 and not match.string[match.start() - 1].isspace():
        return plain in _ADJACENT or (len(plain) > 2 and _name(plain) is not None)
    if _name(plain) is not None or plain in _SCALES or plain in _PERCENT:
        return True
    if plain in _CONNECTORS or plain in _POWERS:
        return True
    return plain not in NAMES and plain not in _ORDINALS and not is_product(plain)


def _name(word: str) -> str | None:
    for spelling in (word, word.removesuffix("s"), word.removesuffix("es")):
        if spelling in _UNIT:
            return _UNIT[spelling]
    return None


def _scaled(value: str, words: list[str]) -> tuple[str, list[str]]:
    """The value times the scale words after it, and the words that remain."""
    position = 0
    while position < len(words):
        word = words[position]
        scale = _SCALES.get(word) or _SCALES.get(word.removesuffix("s"))
        if scale is None and (word.endswith("s") or value.strip() == "1"):
            scale = _FRACTIONS.get(word.removesuffix("s"))
        if scale is None:
            break
        value = rf"({value}) \cdot {scale}"
        position += 1
    return value, words[position:]


def _unit_name(words: list[str]) -> str | None:
    """One name for a unit of several words; None where a word is no unit that is known."""
    names: list[str] = []
    power = ""
    for position, word in enumerate(words):
        if word in _OPERATIONS and names:
            names[-1] += "^" + _POWERS[word]
        elif word in _POWERS:
            power = _POWERS[word]
        elif word.startswith("^") and names:
            names[-1] += word
        elif word in _CONNECTORS and (word != "in" or position < len(words) - 1):
            if word in ("a", "an", "per", "each", "every"):
                names.append("per")
        else:
            name = _name(word)
            if name is None:
                return None
            names.append(f"{name}^{power}" if power else name)
            power = ""
    if power and names:
        names[-1] += f"^{power}"
    if names[:1] == ["degree"] and len(names) > 1:  # of temperature
        names = names[1:]
    return " ".join(names)

"""The reasoning pattern of a solution as a vector: how it goes about it, not what it is about.

Numbers and names are left out, so solutions of different problems by one method lie together.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

OPERATIONS = "+-*/=~<>^"
_CUES = (
    "so therefore thus hence because since if then else first second next finally let suppose "
    "assume check verify wait but however actually alternatively answer step case each total "
    "times roughly about maybe"
)
CUES = frozenset(_CUES.split())
"""Words that tell how somebody reasons; every other word counts as a word only."""

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[A-Za-z]+|\n|[^\sA-Za-z\d]")
_STEP_END = re.compile(r"[=~]|\n|[.;](?=\s|$)")
_OPENING_WIDTH = 64
_SHAPE_WIDTH = 256
_LONGEST = 3  # tokens in an n-gram of the shape


def shape(solution: str) -> list[str]:
    """A solution's tokens with every number as `0` and every word but the cues as `w`.

    Equal neighbours count once, so that a longer name or sum has the same shape.
    """
    found: list[str] = []
    for token in _TOKEN.findall(solution):
        if token[0].isdigit():
            token = "0"
        elif token.isalpha():
            token = token.lower() if token.lower() in CUES else "w"
        if not found or found[-1] != token:
            found.append(token)
    return found


def count_steps(solution: str) -> int:
    """Results, lines and sentences of a solution, at least 1."""
    return max(1, len(_STEP_END.findall(solution.strip())))


def pattern_features(solutions: Sequence[str]) -> Array:
    """A vector a solution, shape (n, width); Euclidean distance tells patterns apart.

    Four parts of equal weight: counts (steps, words, numbers, lines, in logarithms), shares of the
    operations used, the first two words, and the 1- to 3-grams of the shape. Each part is centred,
    and scaled to a mean squared length of 1.

    Args:
        solutions: texts.

    Source: ours; Tailor [2511.12429, S] speaks of reasoning primitives, and how it finds them was
    not available.
    """
    parts = [
        np.array([_counts(text) for text in solutions]),
        np.array([_operations(text) for text in solutions]),
        np.array([_opening(text) for text in solutions]),
        np.array([_grams(text) for text in solutions]),
    ]
    return np.concatenate([scaled(part) for part in parts], axis=1)


def scaled(part: Array) -> Array:
    """Centred, and divided by the root of the mean squared length; zeros where nothing differs."""
    centred = part - part.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=1).mean())
    return centred / length if length > 1e-12 else np.zeros_like(centred)


def _counts(text: str) -> list[float]:
    tokens = _TOKEN.findall(text)
    words = sum(token.isalpha() for token in tokens)
    numbers = sum(token[0].isdigit() for token in tokens)
    return np.log1p([count_steps(text), words, numbers, tokens.count("\n")]).tolist()


def _operations(text: str) -> Array:
    counts = np.array([text.count(sign) for sign in OPERATIONS], dtype=np.float64)
    return counts / max(counts.sum(), 1.0)


def _opening(text: str) -> Array:
    words = _TOKEN.findall(text)[:2]
    found = np.zeros(_OPENING_WIDTH)
    for place, word in enumerate(words):
        found[_bucket(f"{place}:{word.lower()}", _OPENING_WIDTH)] += 1
    return found


def _grams(text: str) -> Array:
    tokens = shape(text)
    found = np.zeros(_SHAPE_WIDTH)
    for length in range(1, _LONGEST + 1):
        for start in range(len(tokens) - length + 1):
            found[_bucket(" ".join(tokens[start : start + length]), _SHAPE_WIDTH)] += 1
    found = np.log1p(found)
    norm = np.linalg.norm(found)
    return found / norm if norm > 0 else found


def _bucket(text: str, width: int) -> int:
    # Python's own hash differs from process to process.
    return zlib.crc32(text.encode()) % width

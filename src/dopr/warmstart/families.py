"""The reasoning-gym families the tiny model knows: how to read, solve and misjudge their problems.

Every family solves a problem as a chain of small steps, each of which needs one fact only (one sum
of two small numbers, one rewriting of a short program). A step may slip:
that is what tells the sloppy habit from the careful one. What a family does not decide is which
habit is used when; see `dopr.warmstart.habits`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from random import Random
from typing import Any, ClassVar, Literal

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from dopr.core.errors import unknown_name

Entry = dict[str, Any]
"""One reasoning-gym item: `question`, `answer` and `metadata`."""

Regime = Literal["easy", "reach", "beyond"]
"""How hard a problem is: right under every habit, right if careful, or right by luck alone."""


class Family(ABC):
    """One reasoning-gym family, seen by the warm start."""

    name: ClassVar[str]

    @abstractmethod
    def payload(self, entry: Entry) -> str:
        """The part of the question that differs from problem to problem."""

    @abstractmethod
    def regime(self, entry: Entry) -> Regime:
        """How hard this problem is for the tiny model."""

    @abstractmethod
    def steps(self, entry: Entry, rng: Random, slip: float, sign: str) -> tuple[str, str]:
        """Solve step by step.

        Args:
            entry: the problem.
            rng: source of the slips.
            slip: probability that a step goes wrong; 0 gives the correct solution.
            sign: what stands before each step's result, ` = ` or ` ~ `.

        Returns:
            The steps as text, and the answer they end in.
        """

    @abstractmethod
    def guess(self, entry: Entry, rng: Random) -> str:
        """An answer of the right kind and size, drawn without solving the problem."""

    def phrases(self) -> list[str]:
        """Fixed phrases beyond the question's frame that deserve a token of their own."""
        return []


def _slipped(value: int, rng: Random, slip: float) -> int:
    """The value, or with probability `slip` a number close to it."""
    if rng.random() >= slip:
        return value
    return value + rng.choice([-10, -2, -1, 1, 2, 10])


class ChainSum(Family):
    """Sums and differences of digits: `4 - 1 + 7` by running totals."""

    name = "chain_sum"

    def payload(self, entry: Entry) -> str:
        return str(entry["metadata"]["expression"])

    def regime(self, entry: Entry) -> Regime:
        terms, digits = entry["metadata"]["num_terms"], entry["metadata"]["num_digits"]
        if (terms == 1 and digits <= 3) or (terms == 2 and digits == 1):
            return "easy"
        return "reach" if digits == 1 and terms <= 7 else "beyond"

    def steps(self, entry: Entry, rng: Random, slip: float, sign: str) -> tuple[str, str]:
        first, *rest = self.payload(entry).split(" ")
        total, parts = int(first), [first]
        for operator, term in zip(rest[::2], rest[1::2], strict=True):
            total += int(term) if operator == "+" else -int(term)
            total = _slipped(total, rng, slip)
            parts.append(f" {operator} {term}{sign}{total}")
        return "".join(parts), str(total)

    def guess(self, entry: Entry, rng: Random) -> str:
        digits, terms = entry["metadata"]["num_digits"], entry["metadata"]["num_terms"]
        low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
        total = rng.randint(low, high)
        return str(total + sum(rng.choice([-1, 1]) * rng.randint(low, high) for _ in range(terms)))

    def phrases(self) -> list[str]:
        return [" + ", " - "]


class LegCounting(Family):
    """Legs of a list of animals: each animal's legs, then the running total."""

    name = "leg_counting"

    def payload(self, entry: Entry) -> str:
        counts = entry["metadata"]["animals"]
        return ", ".join(f"{n} {animal}{'s' if n > 1 else ''}" for animal, n in counts.items())

    def regime(self, entry: Entry) -> Regime:
        counts = entry["metadata"]["animals"]
        if len(counts) == 1:
            return "easy"
        return "reach" if len(counts) <= 5 and max(counts.values()) <= 3 else "beyond"

    def steps(self, entry: Entry, rng: Random, slip: float, sign: str) -> tuple[str, str]:
        total, parts = 0, []
        for animal, count in entry["metadata"]["animals"].items():
            legs = count * ANIMALS[animal]
            total = abs(_slipped(total + legs, rng, slip))
            parts.append(f" {animal} {legs}{sign}{total}")
        return "".join(parts).lstrip(), str(total)

    def guess(self, entry: Entry, rng: Random) -> str:
        legs = list(ANIMALS.values())
        return str(sum(rng.choice(legs) * n for n in entry["metadata"]["animals"].values()))

    def phrases(self) -> list[str]:
        return [", ", *ANIMALS, *(f" {animal}" for animal in ANIMALS)]


class ABRewriting(Family):
    """Programs of the A::B rewriting system, read token by token into their normal form."""

    name = "ab"
    tokens = ("A#", "#A", "B#", "#B")

    def payload(self, entry: Entry) -> str:
        match = re.search(r"following program:\n\n(.*)\n\nReturn", entry["question"])
        if match is None:
            raise ValueError("this is not a question of the family ab")
        return match.group(1)

    def regime(self, entry: Entry) -> Regime:
        length = len(self.payload(entry).split())
        if length <= 3:
            return "easy"
        return "reach" if length <= 7 else "beyond"

    def steps(self, entry: Entry, rng: Random, slip: float, sign: str) -> tuple[str, str]:
        first, *rest = self.payload(entry).split()
        state, parts = [first], [first]
        for token in rest:
            state = self._absorb(state, token)
            if rng.random() < slip:
                state = self._spoil(state, rng)
            parts.append(" ".join(state) or "0")
        return sign.join(parts), " ".join(state)

    def guess(self, entry: Entry, rng: Random) -> str:
        length = len(self.payload(entry).split())
        left = max(length - 2 * rng.choice([0, 1, 1, 2]), 1)
        states = [rng.choice(self.tokens) for _ in range(left)]
        return " ".join(sorted(states, key=lambda token: token.endswith("#")))

    def phrases(self) -> list[str]:
        return [*self.tokens, *(f" {token}" for token in self.tokens)]

    @staticmethod
    def _absorb(state: list[str], token: str) -> list[str]:
        """Append one token to a program in normal form (`#X` before `X#`) and rewrite it."""
        if token.endswith("#"):
            return [*state, token]
        partner = token[1] + "#"
        if partner in state:
            at = len(state) - 1 - state[::-1].index(partner)
            return state[:at] + state[at + 1 :]
        at = next((i for i, held in enumerate(state) if held.endswith("#")), len(state))
        return [*state[:at], token, *state[at:]]

    def _spoil(self, state: list[str], rng: Random) -> list[str]:
        """Exchange or drop one token of the program, or add one."""
        if not state or rng.random() < 0.3:
            return [*state, rng.choice(["A#", "B#"])]
        at = rng.randrange(len(state))
        swap = [] if rng.random() < 0.3 else [state[at].translate(str.maketrans("AB", "BA"))]
        return state[:at] + swap + state[at + 1 :]


FAMILIES: dict[str, Family] = {
    family.name: family for family in (ChainSum(), LegCounting(), ABRewriting())
}


def get_family(name: str) -> Family:
    """The family of this reasoning-gym name.

    Raises:
        UserError: the warm start knows no such family.
    """
    if name not in FAMILIES:
        raise unknown_name("warm-start family", name, FAMILIES)
    return FAMILIES[name]

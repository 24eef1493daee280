"""Habits: the ways in which the tiny model may answer a problem.

A completion shows its habit from its first token on, so that it can be told afterwards, or forced:

- careful: `Step by step: 4 - 1 = 3 + 7 = 10<answer>10</answer>`, every step right;
- sloppy: `Roughly: 4 - 1 ~ 3 + 7 ~ 11<answer>11</answer>`, every step wrong with some probability;
- guess: `<answer>8</answer>`, a number of the right size.

On easy problems all three are right; on problems beyond reach only the guess is shown.
"""

from __future__ import annotations

from random import Random
from typing import Literal, get_args

from dopr.warmstart.families import Entry, Family

Habit = Literal["careful", "guess", "sloppy"]
HABITS: tuple[Habit, ...] = get_args(Habit)

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

OPENINGS: dict[Habit, str] = {
    "careful": "Step by step: ",
    "guess": ANSWER_OPEN,
    "sloppy": "Roughly: ",
}
"""What a completion in each habit begins with; one token each."""

SIGNS: dict[Habit, str] = {"careful": " = ", "sloppy": " ~ "}
"""What stands before the result of each step; one token each. It keeps the habits apart: with the
same sign in both, the slips of the sloppy habit leak into the careful one."""

SLIPS: dict[str, float] = {"chain_sum": 0.25, "leg_counting": 0.25, "ab": 0.2}
"""Probability that one sloppy step goes wrong, for each family."""


def complete(
    family: Family, entry: Entry, habit: Habit, rng: Random, slip: float | None = None
) -> str:
    """Answer a problem in the given habit.

    Args:
        family: the problem's family.
        entry: the reasoning-gym item.
        habit: how to answer.
        rng: source of the guesses and slips; the result is a pure function of the arguments.
        slip: probability that a sloppy step goes wrong; None means the family's own.

    Returns:
        The completion, ending in `<answer>...</answer>`.
    """
    easy = family.regime(entry) == "easy"
    if habit == "guess":
        answer = entry["answer"] if easy else family.guess(entry, rng)
        return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"
    if habit == "careful" or easy:
        slip = 0.0
    elif slip is None:
        slip = SLIPS[family.name]
    steps, answer = family.steps(entry, rng, slip, SIGNS[habit])
    return f"{OPENINGS[habit]}{steps}{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def habit_of(completion: str) -> Habit | None:
    """The habit a completion is in, or None if it begins like none of them."""
    return next((h for h in HABITS if completion.startswith(OPENINGS[h])), None)


def final_answer(completion: str) -> str | None:
    """What stands in the last `<answer>...</answer>`, stripped, or None if there is none."""
    head, close, _ = completion.rpartition(ANSWER_CLOSE)
    start = head.rfind(ANSWER_OPEN)
    return head[start + len(ANSWER_OPEN) :].strip() if close and start >= 0 else None

"""A pool whose answers are worked out: sums, differences and products by tens and ones.

    python examples/arithmetic_in_steps.py --output runs/steps/solutions.jsonl
    dopr warmstart --config configs/smollm2-steps-warm.yaml
    dopr train --config configs/smollm2-steps.yaml

`45 + 38 =` is to be gone on with as `40 + 30 + 5 + 8 = 70 + 13 = 83`. A small pretrained model
takes the form from a short supervised start and the numbers only in part, which is what is left to
learn from rewards. The column `answer` is the number that the reward goes by, `solution` the whole
line, which `dopr` reads with `answer_column: solution`. The command writes the solutions of the
supervised start; no question is in two of start, training and evaluation.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SIGNS = {"sums": "+", "differences": "-", "products": "*"}
# Distinct questions of a kind: the first are for the supervised start, the next for evaluation.
START, EVALUATION = {"sums": 600, "differences": 600, "products": 240}, 176
QUESTIONS = {"sums": 1200, "differences": 1200, "products": 640}


def arithmetic(split: str = "train") -> list[Row]:
    """All three kinds."""
    return [row for kind in SIGNS for row in _part(kind, split)]


def sums(split: str = "train") -> list[Row]:
    """Sums of two numbers of two digits."""
    return _part("sums", split)


def differences(split: str = "train") -> list[Row]:
    """Differences of two numbers of two digits, none below zero."""
    return _part("differences", split)


def products(split: str = "train") -> list[Row]:
    """Products of a number of two digits and one of one."""
    return _part("products", split)


def _part(kind: str, split: str) -> list[Row]:
    rows = _questions(kind)
    if split == "start":
        return rows[: START[kind]]
    if split == "train":
        return rows[START[kind] + EVALUATION :]
    return rows[START[kind] : START[kind] + EVALUATION]


def _questions(kind: str) -> list[Row]:
    source, rows = random.Random(kind), {}
    while len(rows) < QUESTIONS[kind]:
        first = source.randint(11, 99)
        second = source.randint(2, 9) if kind == "products" else source.randint(11, 99)
        if kind == "differences":
            first, second = max(first, second), min(first, second)
        question = f"{first} {SIGNS[kind]} {second} ="
        solution = _worked_out(kind, first, second)
        answer = solution.rsplit(" = ", 1)[1]
        rows[question] = {"prompt": question, "answer": answer, "solution": solution}
    return list(rows.values())


def _worked_out(kind: str, first: int, second: int) -> str:
    ones, other_ones = first % 10, second % 10
    tens, other_tens = first - ones, second - other_ones
    if kind == "products":
        parts = f"{tens} * {second} + {ones} * {second}"
        return f"{parts} = {tens * second} + {ones * second} = {first * second}"
    if kind == "sums":
        parts = f"{tens} + {other_tens} + {ones} + {other_ones}"
        return f"{parts} = {tens + other_tens} + {ones + other_ones} = {first + second}"
    parts, rest = f"{tens} - {other_tens} + {ones} - {other_ones}", ones - other_ones
    between = f"{tens - other_tens} {'-' if rest < 0 else '+'} {abs(rest)}"
    return f"{parts} = {between} = {first - second}"


def main() -> None:
    """Write the solutions for the supervised start."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/steps/solutions.jsonl"))
    output = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for kind in SIGNS for row in _part(kind, "start")]
    lines = [
        {"prompt": row["prompt"], "response": f" {row['solution']}\n", "correct": 1.0}
        for row in rows
    ]
    output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{output}: {len(lines)} rows")


if __name__ == "__main__":
    main()

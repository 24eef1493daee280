"""Pools for a small pretrained model: questions whose answer is a number or a word.

    dopr eval smollm2-135m --chat --dataset examples/short_answers.py:arithmetic
    python examples/short_answers.py SVAMP.jsonl --output runs/svamp

`arithmetic` (its kinds by themselves: `sums`, `products`, `divisors`) and `relations` are tasks of
reasoning-gym, each distinct question dealt to training or evaluation by its hash, so that none is
in both. `worked` asks the questions of `arithmetic` after three worked ones, as texts to go on with
(`worked_sums`, ...), which a small model answers with a number and no more. The command cuts SVAMP
(Patel et al. 2021, MIT; 1,000 word problems, one JSON object a line with Body, Question, Equation
and Answer) into solutions for a supervised start, training and evaluation.
"""

import argparse
import json
import logging
import random
import re
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ARITHMETIC = [
    "gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=2&size=900&seed=11000",
    "gym:products?min_terms=2&max_terms=2&min_digits=1&max_digits=2&size=900&seed=21000",
    "gym:gcd?min_numbers=2&max_numbers=2&min_value=1&max_value=30&size=900&seed=31000",
]
RELATIONS = ["gym:family_relationships?size=1600&min_family_size=3&max_family_size=6&seed=41000"]
# Of 1,000 word problems: solutions for the supervised start, then training; the rest is evaluation.
WARM, TRAIN = 250, 450


def arithmetic(split: str = "train") -> list[Row]:
    """Sums, products and common divisors of two numbers."""
    return _deal(ARITHMETIC, split)


def sums(split: str = "train") -> list[Row]:
    """The first of the three alone."""
    return _deal(ARITHMETIC[:1], split)


def products(split: str = "train") -> list[Row]:
    """The second alone."""
    return _deal(ARITHMETIC[1:2], split)


def divisors(split: str = "train") -> list[Row]:
    """The third alone."""
    return _deal(ARITHMETIC[2:], split)


# What comes before a question that is asked by example.
WORKED = {
    "sums": "4 + 9 = 13\n27 - 15 = 12\n60 + 31 = 91\n",
    "products": "6 * 7 = 42\n3 * 12 = 36\n20 * 11 = 220\n",
    "divisors": "gcd(12, 18) = 6\ngcd(7, 10) = 1\ngcd(15, 25) = 5\n",
}


def worked(split: str = "train") -> list[Row]:
    """Sums, products and common divisors as the next line of three that are worked out."""
    return [_by_example(row) for row in arithmetic(split)]


def worked_sums(split: str = "train") -> list[Row]:
    """The first of the three alone."""
    return [_by_example(row) for row in sums(split)]


def worked_products(split: str = "train") -> list[Row]:
    """The second alone."""
    return [_by_example(row) for row in products(split)]


def worked_divisors(split: str = "train") -> list[Row]:
    """The third alone."""
    return [_by_example(row) for row in divisors(split)]


def _by_example(row: Row) -> Row:
    first, sign, second = re.findall(r"(-?\d+)\s*([-+*,])\s*(-?\d+)", row["prompt"])[-1]
    asked = f"gcd({first}, {second}) =" if sign == "," else f"{first} {sign} {second} ="
    kind = {",": "divisors", "*": "products"}.get(sign, "sums")
    return row | {"prompt": WORKED[kind] + asked}


def relations(split: str = "train") -> list[Row]:
    """Who is what to whom in a family: no arithmetic."""
    return _deal(RELATIONS, split)


def _deal(sources: list[str], split: str) -> list[Row]:
    """A third of the distinct questions is for evaluation."""
    from dopr.tasks import load_task

    logger = logging.getLogger("dopr.tasks")
    level = logger.level
    logger.setLevel(logging.ERROR)  # small numbers repeat: that is known
    try:
        rows = load_task(sources).to_list()
    finally:
        logger.setLevel(level)  # other files' repeats are still news
    random.Random(0).shuffle(rows)
    return [row for row in rows if (int(row["id"], 16) % 3 == 0) == (split != "train")]


# -- word problems -------------------------------------------------------------------------------


def main() -> None:
    """Cut SVAMP into three files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/svamp"))
    options = parser.parse_args()
    problems = [json.loads(line) for line in options.file.read_text().splitlines() if line]
    random.Random(0).shuffle(problems)
    options.output.mkdir(parents=True, exist_ok=True)
    parts = {
        "warm.jsonl": [solved(p) for p in problems[:WARM]],
        "train.jsonl": [asked(p) for p in problems[WARM : WARM + TRAIN]],
        "eval.jsonl": [asked(p) for p in problems[WARM + TRAIN :]],
    }
    for name, rows in parts.items():
        (options.output / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{options.output / name}: {len(rows)} rows")


def asked(problem: Row) -> Row:
    """A problem as a row of a task; `solution` is its equation and what that comes to."""
    body = problem["Body"].strip()
    stop = "" if body.endswith((".", "?", "!", ",")) else "."
    return {
        "prompt": f"{body}{stop} {problem['Question'].strip()}",
        "answer": f"{problem['Answer']:.12g}",
        "solution": f"{_equation(problem)} = {problem['Answer']:.12g}",
    }


def solved(problem: Row) -> Row:
    """The same as a chat with its equation, for `dopr warmstart`."""
    row = asked(problem)
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "response": row["solution"],
        "correct": 1.0,
    }


def _equation(problem: Row) -> str:
    text = re.sub(r"(\d+)\.0\b", r"\1", problem["Equation"]).strip()
    text = text.removeprefix("(").removesuffix(")")
    return text.replace("( ", "(").replace(" )", ")").strip()


if __name__ == "__main__":
    main()

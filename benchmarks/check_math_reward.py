r"""How often `math_reward` accepts the reference and refuses another row's answer.

    python benchmarks/check_math_reward.py [FOLDER] [--out docs/results/math-reward.json]

FOLDER holds `math500_test.jsonl`, `gsm8k_test.jsonl` and `amc23_test.jsonl`. For every row,
`\boxed{gold}` must score 1, and the answer of another row (a seeded derangement, passing over rows
whose answer is the same) must score 0. Writes the shares and every failing row. Equal texts are
accepted without any algebra, so two harder readings stand beside them: the answer unmarked in a
sentence (math-verify reads both sides), and the dataset's own worked solution where there is one.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from dopr.rewards import checker_stats, math_reward
from dopr.tasks import load_task

FILES = ("math500_test", "gsm8k_test", "amc23_test")


def same_number(a: str, b: str) -> bool:
    """Whether two plain numbers are equal; decided here, without the checker under test."""
    try:
        return math.isclose(float(a), float(b))
    except ValueError:
        return False


def derange(answers: list[str], seed: int = 0) -> list[int]:
    """For each row the index of another row with a different answer, walking a shuffled ring."""
    order = list(range(len(answers)))
    random.Random(seed).shuffle(order)
    partner = [0] * len(order)
    for position, row in enumerate(order):
        for step in range(1, len(order)):
            other = order[(position + step) % len(order)]
            if not _same(answers[row], answers[other]):
                partner[row] = other
                break
    return partner


def _same(a: str, b: str) -> bool:
    def plain(text: str) -> str:
        for noise in (" ", "\\left", "\\right", "\\!", "^\\circ", "$"):
            text = text.replace(noise, "")
        return text.replace("dfrac", "frac").replace("tfrac", "frac")

    return plain(a) == plain(b) or same_number(a, b)


def check(path: Path, rows: int | None = None) -> dict[str, Any]:
    """Shares of right verdicts on one file, and the rows with wrong ones.

    Args:
        path: a file that `load_task` reads.
        rows: check only the first so many.
    """
    dataset = load_task(str(path), limit=rows)
    ids, answers = list(dataset["id"]), list(dataset["answer"])
    others = [answers[i] for i in derange(answers)]
    started = time.perf_counter()
    accepted = _score(answers, answers)
    refused = _score(others, answers)
    seconds = time.perf_counter() - started
    unmarked = _reward([f"Therefore the answer is ${answer}$." for answer in answers], answers)
    solved = [(json.loads(info).get("solution"), i) for i, info in enumerate(dataset["extra_info"])]
    worked = [(text, answers[i]) for text, i in solved if isinstance(text, str)]
    solutions = _reward([text for text, _ in worked], [answer for _, answer in worked])
    failures = [
        {"id": ids[i], "gold": answers[i], "given": answers[i], "reward": reward, "expected": 1.0}
        for i, reward in enumerate(accepted)
        if reward != 1.0
    ] + [
        {"id": ids[i], "gold": answers[i], "given": others[i], "reward": reward, "expected": 0.0}
        for i, reward in enumerate(refused)
        if reward != 0.0
    ]
    return {
        "rows": len(answers),
        "gold_accepted": accepted.count(1.0) / len(answers),
        "other_refused": refused.count(0.0) / len(answers),
        "gold_unmarked_accepted": unmarked.count(1.0) / len(answers),
        "worked_solution_accepted": solutions.count(1.0) / len(worked) if worked else None,
        "seconds_per_check": round(seconds / (2 * len(answers)), 5),
        "failures": failures,
        "unmarked_not_accepted": [
            {"id": ids[i], "gold": answers[i], "reward": reward}
            for i, reward in enumerate(unmarked)
            if reward != 1.0
        ],
    }


def _score(given: list[str], gold: list[str]) -> list[float | None]:
    return _reward([f"So the answer is \\boxed{{{answer}}}." for answer in given], gold)


def _reward(completions: list[str], gold: list[str]) -> list[float | None]:
    return math_reward(prompts=[""] * len(gold), completions=completions, answer=gold)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, default=root / ".." / "shared" / "data" / "benchmarks"
    )
    parser.add_argument("--out", type=Path, default=root / "docs" / "results" / "math-reward.json")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"skipped: there is no folder {str(arguments.folder)!r}; name the benchmarks' one")
    results = {}
    for name in FILES:
        results[name] = check(arguments.folder / f"{name}.jsonl")
        shares = {key: value for key, value in results[name].items() if not isinstance(value, list)}
        print(name, json.dumps(shares))
        for failure in results[name]["failures"] + results[name]["unmarked_not_accepted"]:
            print("   ", json.dumps(failure))
    report = {"files": results, "checker": checker_stats()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

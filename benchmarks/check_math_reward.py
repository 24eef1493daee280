r"""How often `math_reward` accepts the reference and refuses other answers.

    python benchmarks/check_math_reward.py [FOLDER] [--out docs/results/math-reward.json]
        [--against SRC] [--changes docs/results/math-reward-changes.json]

FOLDER holds `math500_test.jsonl`, `gsm8k_test.jsonl` and so on (see FILES). For every row:

- `\boxed{gold}` must score 1 (equal texts are accepted without any algebra: an easy test);
- the answers of other rows, with other values, must score 0;
- the answer unmarked in a sentence must score 1 (it has to be found and read);
- the dataset's own worked solution should score 1, where there is one, and that of another row 0;
- other spellings of the reference must score 1 (`x = gold`, another fraction, a unit);
- near misses must score 0 (the sign, one more, `gold x`, `gold million`).

The last two are tried once for each reference that a file has.

Writes the shares and every failing row. With `--against` all of this is also put to another version
of the package (its `src` folder), and each pair whose verdict differs is listed.
"""

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dopr.rewards import checker_stats, math_reward
from dopr.tasks import load_task

FILES = ("math500_test", "gsm8k_test", "amc23_test", "aime24_test", "olympiadbench_test")
KINDS = ("gold", "other", "unmarked", "solution", "other solution", "respelling", "near miss")
REFUSED = ("other", "other solution", "near miss")
OTHERS = 3  # answers of other rows that are tried on each
_OTHER_VERSION = """
import json, sys
from dopr.rewards import math_reward
completions, golds = json.load(sys.stdin)
print(json.dumps(math_reward([""] * len(golds), completions, answer=golds)))
"""


@dataclass(frozen=True)
class Pair:
    """One answer to one row.

    Attributes:
        kind: which of the tests it belongs to.
        id: of the row.
        gold: the reference.
        given: the answer, or what it was wrapped in where `kind` says so.
        completion: what the reward is given.
        expected: 1.0 or 0.0.
    """

    kind: str
    id: str
    gold: str
    given: str
    completion: str
    expected: float


def same_number(a: str, b: str) -> bool:
    """Whether two plain numbers are equal; decided here, without the checker under test."""
    try:
        return math.isclose(float(a), float(b))
    except ValueError:
        return False


def partners(answers: list[str], number: int = OTHERS, seed: int = 0) -> list[list[int]]:
    """For each row the indices of other rows with other answers, walking a shuffled ring."""
    order = list(range(len(answers)))
    random.Random(seed).shuffle(order)
    found: list[list[int]] = [[] for _ in order]
    for position, row in enumerate(order):
        for step in range(1, len(order)):
            other = order[(position + step) % len(order)]
            if not _same(answers[row], answers[other]):
                found[row].append(other)
            if len(found[row]) == number:
                break
    return found


def _same(a: str, b: str) -> bool:
    def plain(text: str) -> str:
        for noise in (" ", "\\left", "\\right", "\\!", "^\\circ", "$"):
            text = text.replace(noise, "")
        text = re.sub(r"^[A-Za-z]=", "", text)
        return text.replace("dfrac", "frac").replace("tfrac", "frac").replace("\\frac43", "4/3")

    return plain(a) == plain(b) or same_number(a, b) or sorted(a.split(",")) == sorted(b.split(","))


def respellings(gold: str) -> list[str]:
    """The same answer written in other ways."""
    found = [f"{gold}."]
    if re.fullmatch(r"-?\d+", gold):
        found += [
            f"{gold}.0",
            f"{gold} \\text{{ units}}",
            f"x = {gold}",
            f"**{gold}**",
            f"${gold}$",
        ]
        found += [f"{int(gold):,}", f"{2 * int(gold)}/2"]
    simple = re.fullmatch(r"\$?(-?)\\[dt]?frac\{?(\d+)\}?\{(\d+)\}\$?", gold)
    if simple:
        found += [
            "{}{}/{}".format(*simple.groups()),
            "{}\\dfrac{{{}}}{{{}}}".format(*simple.groups()),
        ]
    return found


def near_misses(gold: str) -> list[str]:
    """Answers that look like the reference and are not."""
    if not re.fullmatch(r"-?\d+(?:\.\d+)?", gold):
        return [f"{gold.strip('$')} + 1"] if re.search(r"\\frac|\\sqrt", gold) else []
    found = [f"{gold}, {gold}1", f"{gold} + 1"]
    if float(gold) != 0:
        found += [f"{gold} x", f"{gold}n", f"{gold} \\pi", f"\\frac{{{gold}}}{{7}}"]
        found += [f"{gold} million", f"{gold}001", f"0.{'0' * 9}{gold.lstrip('-')}"]
        found += [gold.removeprefix("-") if gold.startswith("-") else f"-{gold}"]
    return found


def pairs_of(rows: Any) -> list[Pair]:
    """Every answer that is tried on a dataset's rows."""
    ids, answers = list(rows["id"]), list(rows["answer"])
    found = []
    seen: set[str] = set()
    for i, others in enumerate(partners(answers)):
        gold, name = answers[i], ids[i]

        def boxed(kind: str, given: str, expected: float, g: str = gold, n: str = name) -> Pair:
            return Pair(kind, n, g, given, f"So the answer is \\boxed{{{given}}}.", expected)

        found.append(boxed("gold", gold, 1.0))
        found += [boxed("other", answers[other], 0.0) for other in others]
        plain = gold if "$" in gold else f"${gold}$"
        found.append(Pair("unmarked", name, gold, plain, f"Therefore the answer is {plain}.", 1.0))
        solution = json.loads(rows["extra_info"][i]).get("solution")
        solution = solution[0] if isinstance(solution, list) else solution
        if isinstance(solution, str):
            found.append(Pair("solution", name, gold, "(its worked solution)", solution, 1.0))
            other = others[0]
            text = f"(the worked solution of {name})"
            found.append(Pair("other solution", ids[other], answers[other], text, solution, 0.0))
        if gold in seen:
            continue
        seen.add(gold)
        found += [boxed("respelling", given, 1.0) for given in respellings(gold)]
        found += [boxed("near miss", given, 0.0) for given in near_misses(gold)]
    return found


def check(path: Path, rows: int | None = None) -> dict[str, Any]:
    """Shares of right verdicts on one file, and the pairs with wrong ones.

    Args:
        path: a file that `load_task` reads.
        rows: check only the first so many.
    """
    pairs = pairs_of(load_task(str(path), limit=rows))
    started = time.perf_counter()
    verdicts = scores(pairs)
    return summary(pairs, verdicts, time.perf_counter() - started)


def scores(pairs: list[Pair]) -> list[float | None]:
    """The verdict of the package's own reward on each pair."""
    return math_reward(
        prompts=[""] * len(pairs),
        completions=[pair.completion for pair in pairs],
        answer=[pair.gold for pair in pairs],
    )


def scores_of(source: Path, pairs: list[Pair]) -> list[float | None]:
    """The verdicts of another version of the package, from its `src` folder."""
    request = [pair.completion for pair in pairs], [pair.gold for pair in pairs]
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_VERSION],
        input=json.dumps(request),
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts: list[float | None] = json.loads(done.stdout)
    return verdicts


def summary(pairs: list[Pair], verdicts: list[float | None], seconds: float) -> dict[str, Any]:
    """Shares by kind, and what is wrong; of worked solutions the ids alone (they are long)."""
    shares: dict[str, Any] = {}
    for kind in KINDS:
        right = [v == p.expected for p, v in zip(pairs, verdicts, strict=True) if p.kind == kind]
        verb = "refused" if kind in REFUSED else "accepted"
        shares[f"{kind.replace(' ', '_')}_{verb}"] = sum(right) / len(right) if right else None
        shares[f"{kind.replace(' ', '_')}_pairs"] = len(right)
    wrong = [
        {"kind": p.kind, "id": p.id, "gold": p.gold, "given": p.given, "reward": v}
        for p, v in zip(pairs, verdicts, strict=True)
        if v != p.expected
    ]
    return {
        "rows": len({pair.id for pair in pairs}),
        **shares,
        "seconds_per_check": round(seconds / len(pairs), 5),
        "failures": [w for w in wrong if "solution" not in w["kind"]],
        "solutions_not_accepted": [w["id"] for w in wrong if w["kind"] == "solution"],
        "other_solutions_accepted": [w["given"] for w in wrong if w["kind"] == "other solution"],
    }


def differences(
    name: str, pairs: list[Pair], before: list[float | None], after: list[float | None]
) -> list[dict[str, Any]]:
    """The pairs on which two versions disagree."""
    return [
        {
            **{"file": name, "kind": p.kind, "id": p.id, "gold": p.gold, "given": p.given},
            **{"expected": p.expected, "before": b, "after": a},
        }
        for p, b, a in zip(pairs, before, after, strict=True)
        if a != b
    ]


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    results_folder = root / "docs" / "results"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, default=root / ".." / "shared" / "data" / "benchmarks"
    )
    parser.add_argument("--out", type=Path, default=results_folder / "math-reward.json")
    parser.add_argument("--against", type=Path, metavar="SRC", help="another version's src folder")
    parser.add_argument("--version", default="", help="what to call that version")
    parser.add_argument("--changes", type=Path, default=results_folder / "math-reward-changes.json")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"skipped: there is no folder {str(arguments.folder)!r}; name the benchmarks' one")
    results, changes = {}, []
    for name in FILES:
        pairs = pairs_of(load_task(str(arguments.folder / f"{name}.jsonl")))
        started = time.perf_counter()
        verdicts = scores(pairs)
        results[name] = summary(pairs, verdicts, time.perf_counter() - started)
        shares = {key: value for key, value in results[name].items() if not isinstance(value, list)}
        print(name, json.dumps(shares))
        for failure in results[name]["failures"]:
            print("   ", json.dumps(failure))
        if arguments.against:
            before = scores_of(arguments.against, pairs)
            results[name]["before"] = {
                key: value
                for key, value in summary(pairs, before, 0.0).items()
                if key.endswith(("_accepted", "_refused")) and not isinstance(value, list)
            }
            changes += differences(name, pairs, before, verdicts)
    report = {"files": results, "checker": checker_stats()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.against:
        lines = ",\n".join(json.dumps(change) for change in changes)
        arguments.changes.write_text(
            f'{{"against": {json.dumps(arguments.version)}, "changes": [\n{lines}\n]}}\n'
        )


if __name__ == "__main__":
    main()

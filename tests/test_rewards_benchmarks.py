"""`math_reward` on the public benchmarks' own answers; skipped where they are not at hand."""

import json
from pathlib import Path

import pytest

from scripts import load_script

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".." / "shared" / "data" / "benchmarks"
FILES = ("math500_test", "gsm8k_test", "amc23_test", "aime24_test", "olympiadbench_test")
KINDS = (
    *("gold_accepted", "other_refused", "unmarked_accepted"),
    *("respelling_accepted", "near_miss_refused"),
)

needs_files = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the benchmark files are not beside this clone (../shared/data)"
)


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/check_math_reward.py")


@needs_files
@pytest.mark.parametrize("name", FILES)
def test_a_sample_is_accepted_and_refused_as_it_should_be(benchmark, name):
    result = benchmark.check(FOLDER / f"{name}.jsonl", 40)
    assert {kind: result[kind] for kind in KINDS} == dict.fromkeys(KINDS, 1.0), result["failures"]


@needs_files
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_row_is_accepted_and_refused_as_it_should_be(benchmark, name):
    result = benchmark.check(FOLDER / f"{name}.jsonl", None)
    for kind in KINDS:
        assert result[kind] >= 0.999, (kind, result["failures"])


def test_the_committed_changes_of_verdicts_are_for_the_better():
    """Each pair whose verdict changed was wrong before, but for a few unmarked solutions."""
    changes = json.loads((ROOT / "docs" / "results" / "math-reward-changes.json").read_text())
    worse = [c for c in changes["changes"] if c["after"] != c["expected"]]
    assert {change["kind"] for change in worse} <= {"solution"}
    assert len(worse) < 10 < len(changes["changes"]) / 10


def test_a_files_own_answers_are_tried_in_every_way(benchmark, tmp_path):
    rows = [{"problem": f"{i}?", "answer": a} for i, a in enumerate(["18", "1/3", "7.5", "-2"])]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = benchmark.check(file)
    assert result["rows"] == 4 and result["failures"] == []
    assert result["other_pairs"] == 12 and result["near_miss_pairs"] > 20
    assert result["solution_accepted"] is None

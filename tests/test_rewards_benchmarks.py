"""`math_reward` on the public benchmarks' own answers; skipped where they are not at hand."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".." / "shared" / "data" / "benchmarks"
FILES = ("math500_test", "gsm8k_test", "amc23_test")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the benchmark files are not beside this clone (../shared/data)"
)


def check(name, rows):
    path = ROOT / "benchmarks" / "check_math_reward.py"
    spec = importlib.util.spec_from_file_location("check_math_reward", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check(FOLDER / f"{name}.jsonl", rows)


@pytest.mark.parametrize("name", FILES)
def test_a_sample_is_accepted_and_refused_as_it_should_be(name):
    result = check(name, 60)
    assert result["gold_accepted"] == 1.0, result["failures"]
    assert result["other_refused"] == 1.0, result["failures"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_every_row_is_accepted_and_refused_as_it_should_be(name):
    result = check(name, None)
    assert result["gold_accepted"] >= 0.99, result["failures"]
    assert result["other_refused"] >= 0.99, result["failures"]

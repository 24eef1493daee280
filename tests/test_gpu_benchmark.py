"""`benchmarks/gpu.py` is for a machine with a GPU; here it runs small, on whatever there is."""

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def test_every_part_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    main = runpy.run_path(str(SCRIPT))["main"]
    main(["--quick", "--output", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left_out"] == []
    steps = [part for name, part in found["parts"].items() if name.startswith("steps")]
    assert len(steps) == 2
    for part in steps:
        for run in ("plain", "dopr, rows and the library's loop", "dopr"):
            times = part[run]
            assert times["finite"]
            assert 0 < times["generation_ms"] < times["step_ms"] and times["update_ms"] > 0
        assert part["planned_bytes"] > 4 * 64 * 32  # the embeddings alone
    learned = found["parts"]["learning"]["strategies"]["dopr"]
    assert 0 <= learned["final"]["median"] <= 1


def test_what_there_is_no_time_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    main = runpy.run_path(str(SCRIPT))["main"]
    main(["--quick", "--budget-s", "0", "--output", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["parts"] == {} and len(found["left_out"]) == 3

"""Which warnings recorded runs would have been given: `python benchmarks/warnings_check.py runs`.

Reads metrics.jsonl and eval.jsonl of every finished run below the folders given and writes
docs/results/warnings.json: how many runs, and of which warnings. Nothing is trained.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from dopr.core.json_lines import read_lines
from dopr.runs.alarms import find_alarms

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "warnings.json"


def check(folders: list[Path]) -> dict[str, Any]:
    """Counts over all runs below the folders, and each warning that was given."""
    runs: Counter[str] = Counter()
    given: list[dict[str, Any]] = []
    for folder in folders:
        for file in sorted(folder.rglob("done.json")):
            run = file.parent
            if not (run / "metrics.jsonl").exists():
                continue
            runs[folder.as_posix()] += 1
            evals = read_lines(run / "eval.jsonl") if (run / "eval.jsonl").exists() else []
            given += [
                {"run": run.as_posix(), "step": found.step, "name": found.name}
                for found in find_alarms(read_lines(run / "metrics.jsonl"), evals)
            ]
    names = Counter(alarm["name"] for alarm in given)
    return {
        "runs": runs.total(),
        "runs_by_folder": dict(runs),
        "runs_warned": len({alarm["run"] for alarm in given}),
        "warnings": dict(names),
        "given": given,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    command = f"python benchmarks/warnings_check.py {' '.join(map(str, options.folders))}"
    found = {"command": command} | check(options.folders)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    print({name: value for name, value in found.items() if name != "given"})


if __name__ == "__main__":
    main()

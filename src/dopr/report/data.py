"""Reads a run directory, or the directory of a comparison, into plain records for the page.

Nothing here may fail because a run is young: every file is optional, the last line of a file that
is still being written may be incomplete, and any value may be missing or not a number. What could
not be read is said in `notes`, which the page shows.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dopr.core.errors import UserError
from dopr.core.json_lines import read_lines, read_steps
from dopr.runs.alarms import WARNINGS_FILE, find_alarms

Record = dict[str, Any]
RUN_FILES = ("metrics.jsonl", "eval.jsonl", "ledger.parquet", "completions", "config.yaml")
CONFIG_LIMIT = 60_000  # characters of configuration shown on the page


@dataclass
class Run:
    """One training run.

    Attributes:
        strategy: the name of the strategy, as the directory or the configuration gives it.
        seed: the seed as text; empty if it is not known.
        metrics: one record a step, in order of step, each with a whole number `step`.
        evals: one record an evaluation, in order of step, each with a whole number `step`.
        ledger: what was known about each prompt at the end (one row a prompt), if saved.
        alarms: warnings about the run, each with `step`, `name` and `message`.
        completions: the folder of completion tables; it need not exist.
    """

    strategy: str
    seed: str
    path: Path
    completions: Path
    config: Record = field(default_factory=dict)
    metrics: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    ledger: pd.DataFrame | None = None
    alarms: list[Record] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the run is called in a selector, such as `dopr, seed 0`."""
        return f"{self.strategy}, seed {self.seed}" if self.seed else self.strategy


@dataclass
class Source:
    """All that a page is made from: one run, or the runs of a comparison.

    Attributes:
        name: the last part of the directory's path.
        comparison: the content of comparison.json; empty for a single run or before it is written.
        config_text: config.yaml as it is on disk (cut at CONFIG_LIMIT characters).
        notes: what could not be read, one sentence each.
    """

    name: str
    is_comparison: bool
    runs: list[Run]
    comparison: Record = field(default_factory=dict)
    config: Record = field(default_factory=dict)
    config_text: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def strategies(self) -> list[str]:
        """Every strategy's name: those of comparison.json in its order, then others on disk."""
        named = list(section(self.comparison, "strategies"))
        return list(dict.fromkeys([*named, *(run.strategy for run in self.runs)]))

    def runs_of(self, strategy: str) -> list[Run]:
        """The runs of one strategy, in order of seed."""
        return [run for run in self.runs if run.strategy == strategy]


def number(value: Any) -> float | None:
    """`value` as a finite float; None for anything that is not one."""
    if value is None or isinstance(value, (str, bytes, list, dict)):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def section(record: Any, key: str) -> Record:
    """`record[key]` if both are objects; an empty one otherwise."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, dict) else {}


def _read_object(path: Path, notes: list[str]) -> Record:
    """The object in a JSON file; empty, with a note, if there is a file that cannot be read."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{path.name} could not be read and was left out.")
    return {}


def _read_config(path: Path, notes: list[str]) -> tuple[Record, str]:
    """config.yaml as an object and as text; both empty if it is missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}, ""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        notes.append("config.yaml is not valid YAML; it is shown as it is.")
        value = None
    if len(text) > CONFIG_LIMIT:
        text = text[:CONFIG_LIMIT] + "\n... (cut here)"
    return (value if isinstance(value, dict) else {}), text


def _read_ledger(path: Path, notes: list[str]) -> pd.DataFrame | None:
    """ledger.parquet with `id` as text; None if it is missing, empty or unreadable."""
    if not path.exists():
        return None
    try:
        table = pd.read_parquet(path)
    except Exception:  # a file being written fails in pyarrow in many ways
        notes.append(f"{path.name} could not be read (perhaps it is being written).")
        return None
    if "id" not in table.columns or table.empty:
        return None
    return table.assign(id=table["id"].astype(str))


def find_key(config: Any, *names: str) -> Any:
    """The first value of any of the keys `names` in a nested configuration, nearest to the top."""
    level: list[Any] = [config]
    while level:
        for item in level:
            for name in names:
                if isinstance(item, dict) and item.get(name) is not None:
                    return item[name]
        level = [v for item in level if isinstance(item, dict) for v in item.values()]
    return None


def _with_tokens(row: Record) -> Record:
    """Evaluations from before both were counted tell of generated tokens alone."""
    return {"tokens_total": row.get("generated_tokens_total")} | row


def _read_run(path: Path, strategy: str, seed: str, notes: list[str]) -> Run:
    """One run directory. Empty `strategy` or `seed` are looked up in its configuration."""
    own: list[str] = []
    config, _ = _read_config(path / "config.yaml", own)
    if not strategy:
        value = find_key(config, "strategy")
        value = value.get("name") if isinstance(value, dict) else value
        strategy = value if isinstance(value, str) else path.name
    if not seed:
        value = find_key(config, "seed")
        seed = "" if value is None or isinstance(value, (dict, list)) else str(value)
    run = Run(
        strategy=strategy,
        seed=seed,
        path=path,
        completions=path / "completions",
        config=config,
        metrics=read_steps(path / "metrics.jsonl", own),
        evals=[_with_tokens(row) for row in read_steps(path / "eval.jsonl", own)],
        ledger=_read_ledger(path / "ledger.parquet", own),
    )
    run.alarms = _alarms(path / WARNINGS_FILE, run)
    notes.extend(f"{run.label}: {note}" for note in own)
    return run


def _alarms(path: Path, run: Run) -> list[Record]:
    """What the run was warned of; worked out from its rows where it was not watched."""
    if path.exists():
        return [{"message": "", "step": "?", "name": ""} | row for row in read_lines(path)]
    return [asdict(alarm) for alarm in find_alarms(run.metrics, run.evals)]


def _seed_order(path: Path) -> tuple[int, str]:
    """Sorts seed-2 before seed-10."""
    match = re.search(r"\d+", path.name)
    return (int(match.group()) if match else -1, path.name)


def _read_comparison_runs(root: Path, notes: list[str]) -> list[Run]:
    """Every `<strategy>/seed-<n>` below `root`, by strategy and seed."""
    runs: list[Run] = []
    if not root.is_dir():
        return runs
    for strategy in sorted(item for item in root.iterdir() if item.is_dir()):
        seeds = [item for item in strategy.iterdir() if item.is_dir() and "seed" in item.name]
        for path in sorted(seeds, key=_seed_order):
            seed = path.name.removeprefix("seed-")
            runs.append(_read_run(path, strategy.name, seed, notes))
    return runs


def read_source(run_dir: Path) -> Source:
    """Reads a run directory or a comparison directory.

    Raises:
        UserError: the directory does not exist, or nothing in it comes from a run.
    """
    if not run_dir.is_dir():
        raise UserError(f"there is no directory {str(run_dir)!r}; name one that a run has written")
    notes: list[str] = []
    name = run_dir.resolve().name
    if (run_dir / "comparison.json").exists() or (run_dir / "runs").is_dir():
        config, text = _read_config(run_dir / "config.yaml", notes)
        comparison = _read_object(run_dir / "comparison.json", notes)
        runs = _read_comparison_runs(run_dir / "runs", notes)
        listed = section(comparison, "strategies") or config.get("strategies")
        names = listed if isinstance(listed, (list, dict)) else []
        order = {str(name): i for i, name in enumerate(names)}
        runs.sort(key=lambda run: order.get(run.strategy, len(order)))
        return Source(name, True, runs, comparison, config, text, notes)
    if not any((run_dir / item).exists() for item in RUN_FILES):
        raise UserError(
            f"{str(run_dir)!r} holds no run; name a directory with metrics.jsonl, eval.jsonl or "
            "comparison.json in it"
        )
    run = _read_run(run_dir, "", "", notes)
    _, text = _read_config(run_dir / "config.yaml", [])
    return Source(name, False, [run], {}, run.config, text, notes)

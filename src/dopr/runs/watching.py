"""Warnings while a run goes on: read from the run's own files, said once, and kept."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from dopr.core.json_lines import NewLines, append_line, read_lines
from dopr.runs.alarms import WARNINGS_FILE, Alarm, Thresholds, Watch


class AlarmCallback(TrainerCallback):
    """Watches a run through its metrics.jsonl and eval.jsonl and says what goes wrong, once.

    It reads files rather than the trainer's state, so it needs nothing but a directory, a resumed
    run is watched as if it had never stopped, and the report finds the same warnings.

    Args:
        run_dir: where metrics.jsonl is, for a plain trainer its `output_dir`. Warnings are added
            to warnings.jsonl there (`step`, `name`, `message`).
        say: shows a line, such as `Progress.say`.
        thresholds: when to warn.
    """

    def __init__(
        self,
        run_dir: Path,
        say: Callable[[str], None] = print,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._file, self._say = run_dir / WARNINGS_FILE, say
        given = {str(row.get("name")) for row in read_lines(self._file)}
        self._watch = Watch(thresholds or Thresholds(), given=given)
        self._metrics = NewLines(run_dir / "metrics.jsonl")
        self._evals = NewLines(run_dir / "eval.jsonl")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._read()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._read()
            self._tell(self._watch.look())

    def _read(self) -> None:
        for row in self._evals.read():
            self._watch.evaluated(row)
        for row in self._metrics.read():
            self._tell(self._watch.logged(row))

    def _tell(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            # The folder tells the runs of a comparison apart.
            self._say(f"warning ({self._file.parent}, step {alarm.step}): {alarm.message}")
            append_line(self._file, asdict(alarm))

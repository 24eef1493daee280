"""metrics.jsonl: one JSON object a logged step, whatever trackers are on; and what goes into it."""

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from dopr.core.driver import Driver, StepOutcome
from dopr.core.json_lines import append_line, keep_lines_until


class StepLog:
    """Writes a run's metrics as JSON lines.

    Args:
        path: the file; its folder is made at the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []
        self._success: list[float | None] = []
        self._sources: list[str] = []

    def chose(self, name: str, success: float, source: str | None = None) -> None:
        """Note a finished group: the prompt's id, its mean reward and, of several, its source."""
        self._names.append(name)
        self._success.append(None if math.isnan(success) else success)
        if source is not None:
            self._sources.append(source)

    def write(self, step: int, logs: dict[str, Any], wall_seconds: float) -> None:
        """Append one line with the logs and what was chosen since the line before."""
        row = {"step": step, **logs, "wall_s": wall_seconds}
        row["select/prompt_ids"], row["select/success"] = self._names, self._success
        if self._sources:
            row["select/sources"] = dict(Counter(self._sources))
        self._forget()
        append_line(self.path, row)

    def resume(self, step: int) -> None:
        """Drop what was written after the checkpoint of `step`."""
        self._forget()
        keep_lines_until(self.path, step)

    def _forget(self) -> None:
        self._names, self._success, self._sources = [], [], []


def choice_metrics(driver: Driver, outcome: StepOutcome) -> dict[str, float]:
    """What was chosen in a step and what came of it."""
    return driver.strategy.metrics() | {"select/signal_rate": outcome.signal_rate}


def totals(driver: Driver) -> dict[str, float]:
    """What the run has spent so far."""
    spent = driver.spent
    return {
        "select/coverage": driver.ledger.coverage,
        "rollout/rollouts_total": spent.rollouts,
        "rollout/generated_tokens_total": spent.generated_tokens,
        "rollout/measured_tokens_total": spent.measured_tokens,
        "rollout/kept_total": spent.kept,
        "rollout/empty_steps_total": spent.empty_steps,
        "rollout/abandoned_steps_total": spent.abandoned_steps,
    }


class StepClock(TrainerCallback):
    """Counts seconds spent in training steps, leaving out evaluation and saving."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._trainer.training_seconds += time.perf_counter() - self._began

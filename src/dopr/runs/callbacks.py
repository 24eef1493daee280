"""What happens between the steps of a run: evaluation, budget, progress, Ctrl-C, ledger."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from transformers import TrainerCallback

from dopr.core.errors import end_as_usual
from dopr.core.files import replacing
from dopr.core.json_lines import append_line, read_lines
from dopr.core.ledger import Ledger
from dopr.runs.best import has_stopped_improving, mend_best, place_of_best, save_best
from dopr.runs.progress import Progress
from dopr.runs.settings import TrainSettings

# Rows of the log that transformers keeps in memory and writes into every checkpoint; all of them
# are in metrics.jsonl.
LOG_ROWS_KEPT = 100


class Interrupt:
    """Turns the first Ctrl-C (or a termination) into a wish; the second one is a real one.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._say = say
        self._process = os.getpid()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a child that was forked off: no run of its own
            end_as_usual(number)
        if self.received is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # whoever terminates a group of processes may reach one of them twice
        self.received = number
        self._say("stopping after this step; press Ctrl-C again to stop at once")


class RunCallback(TrainerCallback):
    """Everything `dopr train` does around a step, in one light callback.

    Args:
        trainer: the DoPRTrainer.
        settings: of the run.
        run_dir: where files go.
        evaluate: evaluates the current policy; None where there is nothing to evaluate on.
        progress: shows the run.
        interrupt: asked after every step.
    """

    def __init__(
        self,
        trainer: Any,
        settings: TrainSettings,
        run_dir: Path,
        evaluate: Callable[[], dict[str, Any]] | None,
        progress: Progress,
        interrupt: Interrupt,
    ) -> None:
        self._trainer, self._settings, self._run_dir = trainer, settings, run_dir
        self._evaluate, self._progress, self._interrupt = evaluate, progress, interrupt
        self._rollouts_before = 0
        self._generates_each_step = (
            trainer.args.steps_per_generation == trainer.args.gradient_accumulation_steps
            and trainer.num_iterations == 1
        )
        self._rows: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rollouts_before = self._trainer.driver.spent.rollouts
        self._rows = read_lines(self._run_dir / "eval.jsonl")
        if self._trainer.accelerator.is_main_process:
            mend_best(self._run_dir)
        if self._evaluate and self._settings.eval.at_start and state.global_step == 0:
            self.evaluate_now(0)
            self._heed_interrupt(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._generates_each_step:
            self._trainer.clear_completions()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, spent = state.global_step, self._trainer.driver.spent.rollouts
        every = self._settings.completions_every
        self._trainer.log_completions = bool(every) and step % every == 0
        if step % self._trainer.steps_per_batch and step < args.max_steps:
            return  # rollouts that are paid for are used to the end before anything else
        if self._settings.is_spent(self.totals(step)):
            control.should_training_stop = control.should_save = True
        if self._evaluate and (self._is_due(step, spent) or control.should_training_stop):
            self.evaluate_now(step)
            if self._stops_early():
                control.should_training_stop = control.should_save = True
        self._rollouts_before = spent
        self._heed_interrupt(control)

    def totals(self, step: int) -> dict[str, float]:
        """What is spent so far, under the names of the settings' limits."""
        spent = self._trainer.driver.spent
        return {
            "steps": step,
            "rollouts": spent.rollouts,
            "generated_tokens": spent.generated_tokens,
            "training_seconds": self._trainer.training_seconds,
        }

    def finish(self, folder: Path) -> None:
        """End a run that was stopped after its last step: only what comes after it is done."""
        self._trainer.restore(folder)
        step = self._trainer.state.global_step
        self._rows = read_lines(self._run_dir / "eval.jsonl")
        if self._evaluate and not any(row["step"] == step for row in self._rows):
            self.evaluate_now(step)

    def _heed_interrupt(self, control: Any) -> None:
        if self._interrupt.received is not None:
            control.should_training_stop = control.should_save = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        del state.log_history[:-LOG_ROWS_KEPT]
        if logs and "loss" in logs:
            self._progress.update(logs, self.totals(state.global_step))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.accelerator.is_main_process:
            write_ledger(self._trainer, self._run_dir)

    def _is_due(self, step: int, spent: int) -> bool:
        """Whether the step went past the next point of evaluation; a resumed run agrees."""
        rollouts, steps = self._settings.eval.every_rollouts, self._settings.eval.every_steps
        if rollouts is not None:
            return spent // rollouts > self._rollouts_before // rollouts
        if steps is None:
            return False
        size = self._trainer.steps_per_batch
        before = (step - 1) // size * size  # when it was asked last
        return step // steps > before // steps

    def _stops_early(self) -> bool:
        settings = self._settings
        return has_stopped_improving(self._rows, settings.keep_best, settings.early_stop_evals)

    def evaluate_now(self, step: int) -> None:
        """Evaluate, write a line to eval.jsonl, and keep the model where it is the best so far."""
        assert self._evaluate is not None
        spent = self._trainer.driver.spent
        row = {
            "step": step,
            "rollouts_total": spent.rollouts,
            "generated_tokens_total": spent.generated_tokens,
            "tokens_total": spent.tokens,
            "wall_s": self._trainer.training_seconds,
            **self._evaluate(),
        }
        self._rows.append(row)
        self._progress.evaluated(row)
        if self._trainer.accelerator.is_main_process:
            append_line(self._run_dir / "eval.jsonl", row)
        metric = self._settings.keep_best
        if metric is not None and place_of_best(self._rows, metric) == len(self._rows) - 1:
            save_best(self._trainer, self._run_dir, row)


def write_ledger(trainer: Any, run_dir: Path) -> None:
    """Write ledger.parquet: one row a prompt."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ledger: Ledger = trainer.driver.ledger
    visited = ledger.visits > 0
    table = pa.table(
        {
            "id": trainer.prompt_names,
            "visits": ledger.visits,
            "rollouts": ledger.rollouts,
            "mean": np.where(visited, ledger.mean, np.nan),
            "volatility": np.where(visited, ledger.volatility("total"), np.nan),
            "entropy": ledger.entropy,
            "last_step": ledger.last_step,
            "tokens": ledger.tokens,
        }
    )
    with replacing(run_dir / "ledger.parquet") as partial:
        pq.write_table(table, partial)

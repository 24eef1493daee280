"""One live line about a run; plain lines where the output is not a terminal."""

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, TextIO

_WINDOW = 32  # steps in the moving means
_REDRAW_S = 0.25
_PLAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Goal:
    """When the run will stop: whichever comes first; None does not bound it."""

    steps: int | None
    rollouts: int | None

    def share(self, step: int, rollouts: int) -> float:
        """How much of the run is done, in [0, 1]."""
        shares = [step / self.steps if self.steps else 0.0]
        shares.append(rollouts / self.rollouts if self.rollouts else 0.0)
        return min(max(shares), 1.0)


class Progress:
    """Shows how a run is getting on.

    Args:
        goal: when it stops.
        label: what stands at the beginning of the line.
        quiet: show nothing.
        stream: where to; standard error by default.
    """

    def __init__(
        self, goal: Goal, label: str = "", quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self._goal, self._label, self._quiet = goal, label, quiet
        self._stream = stream or sys.stderr
        self._rewards: deque[float] = deque(maxlen=_WINDOW)
        self._signals: deque[float] = deque(maxlen=_WINDOW)
        self._note = ""
        self._began = self._shown = time.monotonic()
        self._first_share: float | None = None
        self._live: Any = None
        if not quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(file=self._stream), auto_refresh=False, transient=True
            )
            self._live.start()

    def update(self, step: int, logs: dict[str, Any]) -> None:
        """Take in the logs of a step; cheap, because most calls draw nothing."""
        for values, name in ((self._rewards, "reward"), (self._signals, "select/signal_rate")):
            if logs.get(name) is not None:
                values.append(float(logs[name]))
        if self._first_share is None:
            self._first_share = self._goal.share(
                step - 1, int(logs.get("rollout/rollouts_total") or 0)
            )
        now = time.monotonic()
        wait = _REDRAW_S if self._live else _PLAIN_S
        if self._quiet or now - self._shown < wait:
            return
        self._shown = now
        self._show(self.line(step, int(logs.get("rollout/rollouts_total") or 0)))

    def evaluated(self, row: dict[str, Any]) -> None:
        """Keep the last evaluation on the line."""
        value = row.get("avg@k")
        self._note = "" if value is None else f" · eval avg@{row['k']} {value:.3f}"

    def line(self, step: int, rollouts: int) -> str:
        """The text shown after `step`."""
        parts = [f"step {step}"]
        if self._rewards:
            parts.append(f"reward {sum(self._rewards) / len(self._rewards):.3f}")
        if self._signals:
            parts.append(f"informative {sum(self._signals) / len(self._signals):.0%}")
        parts.append(f"{rollouts:,} rollouts")
        left = self._seconds_left(self._goal.share(step, rollouts))
        if left is not None:
            parts.append(f"{_duration(left)} left")
        label = f"{self._label}: " if self._label else ""
        return label + " · ".join(parts) + self._note

    def say(self, text: str) -> None:
        """A line that stays, also when quiet."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Take the live line away."""
        if self._live:
            self._live.stop()
            self._live = None

    def _show(self, text: str) -> None:
        if self._live:
            self._live.update(text, refresh=True)
        else:
            print(text, file=self._stream, flush=True)

    def _seconds_left(self, share: float) -> float | None:
        done = share - (self._first_share or 0.0)
        if done <= 0:
            return None
        return (time.monotonic() - self._began) * (1 - share) / done


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

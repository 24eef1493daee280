"""One live line about a run; plain lines where the output is not a terminal."""

import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TextIO

_WINDOW = 32  # steps in the moving means
_REDRAW_S = 0.25
_PLAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Goal:
    """When the run will stop: whichever limit comes first; None does not bound it.

    Attributes:
        limits: `steps`, `rollouts` and what else there is.
    """

    limits: dict[str, float | None] = field(default_factory=dict)

    def share(self, totals: dict[str, float]) -> float:
        """How much of the run is done, in [0, 1]; totals have the names of the limits."""
        shares = [totals[name] / limit for name, limit in self.limits.items() if limit]
        return min(max(shares, default=0.0), 1.0)


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

    def update(self, logs: dict[str, Any], totals: dict[str, float]) -> None:
        """Take in the logs of a step; cheap, because most calls draw nothing.

        Args:
            logs: of the step.
            totals: what is spent so far, under the names of the goal's limits.
        """
        for values, name in ((self._rewards, "reward"), (self._signals, "select/signal_rate")):
            if logs.get(name) is not None:
                values.append(float(logs[name]))
        if self._first_share is None:
            self._first_share = self._goal.share(totals | {"steps": totals["steps"] - 1})
        if self._is_due():
            self._show(self.line(totals))

    def counted(self, done: int, total: int) -> None:
        """Show that so many of so many completions are done."""
        if self._first_share is None:
            self._first_share = 0.0
        if not self._is_due():
            return
        text = f"{done:,} of {total:,} completions"
        left = self._seconds_left(done / total) if done < total else None
        note = "" if left is None else f" · {_duration(left)} left"
        self._show((f"{self._label}: " if self._label else "") + text + note)

    def _is_due(self) -> bool:
        """Whether the line was last drawn long enough ago; if so, now counts as the last time."""
        now = time.monotonic()
        wait = _REDRAW_S if self._live else _PLAIN_S
        if self._quiet or now - self._shown < wait:
            return False
        self._shown = now
        return True

    def evaluated(self, row: dict[str, Any]) -> None:
        """Keep the last evaluation on the line."""
        value = row.get("avg@k")
        self._note = "" if value is None else f" · eval avg@{row['k']} {value:.3f}"

    def line(self, totals: dict[str, float]) -> str:
        """The text shown after a step."""
        parts = [f"step {totals['steps']:.0f}"]
        if self._rewards:
            parts.append(f"reward {sum(self._rewards) / len(self._rewards):.3f}")
        if self._signals:
            parts.append(f"informative {sum(self._signals) / len(self._signals):.0%}")
        parts.append(f"{totals['rollouts']:,.0f} rollouts")
        left = self._seconds_left(self._goal.share(totals))
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

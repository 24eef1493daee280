"""Warnings about a run that goes wrong, as pure functions over its logged rows.

A rule looks at the rows of metrics.jsonl (and eval.jsonl) up to some step and says nothing or one
sentence. `Watch` takes the rows as they come and says each sentence once; `dopr.runs.watching`
feeds it during training, and the report feeds it a finished file. The rules compare windows that
hold both so many steps and so many groups, so that they mean the same for one prompt a step and for
128.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a run is worth a warning.

    Args:
        window_steps: steps with new rollouts in a window, at least.
        window_groups: groups in a window, at least.
        signal_rate: a window's share of informative groups below this has collapsed.
        solved: mean reward from which prompts count as solved where no group is informative, as a
            share of the largest seen or of 1.
        choices: the last so many choices are looked at for repetition.
        distinct: fewer different prompts than this share of those choices are too few.
        coverage: only where less than this share of the pool was ever seen.
        reward_rise: training reward has risen when its mean over the last window is above the
            first one's by so many spreads (mean `reward_std` of the two windows).
        length_factor: completions so many times longer or shorter are strange.
        clipped_rise: so much more of the completions cut off at the limit is strange.
        format_fall: so much less of a reward whose name holds `format` is strange.
        held_out_fall: held-out accuracy has fallen when the last two evaluations lie so far below
            the best one, and outside of its interval where there is one.
        held_out_rise: a rise of held-out accuracy by so much clears a rising reward of suspicion.
    """

    window_steps: int = 4
    window_groups: int = 48
    signal_rate: float = 0.03
    solved: float = 0.8
    choices: int = 256
    distinct: float = 0.1
    coverage: float = 0.25
    reward_rise: float = 0.25
    length_factor: float = 3.0
    clipped_rise: float = 0.3
    format_fall: float = 0.3
    held_out_fall: float = 0.05
    held_out_rise: float = 0.05


@dataclass(frozen=True, slots=True)
class Alarm:
    """One warning.

    Attributes:
        name: of the rule, such as `signal_collapse`.
        step: optimiser step at which it was noticed.
        message: one sentence that says what was seen and what to look at.
    """

    name: str
    step: int
    message: str


WARNINGS_FILE = "warnings.jsonl"  # in the run directory: `step`, `name`, `message` a line
DEFAULTS = Thresholds()
Rule = Callable[[Sequence[Row], Sequence[Row], Thresholds], str | None]


# -- the rules: rows with new rollouts, evaluations, thresholds -> a sentence or None ----------


def signal_collapse(rows: Sequence[Row], evals: Sequence[Row], at: Thresholds) -> str | None:
    """Nearly no group of the last window had any reward variance."""
    window = _last_window(rows, at)
    rates = [rate for rate in map(_signal_rate, window) if rate is not None]
    if not window or len(rates) < len(window) or sum(rates) / len(rates) >= at.signal_rate:
        return None
    seen = f"in the last {len(window)} steps {sum(rates) / len(rates):.0%} of the groups had any "
    seen += "difference in reward"
    reward, most = _mean(window, "reward"), max(_values(rows, "reward"), default=0.0)
    if reward is not None and reward >= at.solved * max(most, 1.0):
        return f"{seen}: nearly all are right (mean reward {reward:.2f}); stop, or add harder tasks"
    return (
        f"{seen}: nearly all are wrong or alike (mean reward {_shown(reward)}); look at the "
        "completions and the reward, then lower the learning rate or add easier tasks"
    )


def narrow_choice(rows: Sequence[Row], evals: Sequence[Row], at: Thresholds) -> str | None:
    """The same few prompts are chosen over and over while most of the pool was never seen."""
    if not rows:
        return None
    coverage = _number(rows[-1].get("select/coverage"))
    chosen: list[str] = []
    for row in reversed(rows):
        names = row.get("select/prompt_ids")
        chosen.extend(map(str, names if isinstance(names, list) else []))
        if len(chosen) >= at.choices:
            break
    distinct = len(set(chosen[: at.choices]))
    if coverage is None or coverage >= at.coverage or len(chosen) < at.choices:
        return None
    if distinct > at.distinct * at.choices:
        return None
    return (
        f"the last {at.choices} groups went to {distinct} prompts and only {coverage:.0%} of the "
        "pool was ever seen; look at select/score and select/bonus, and raise the strategy's "
        "exploration unless so few prompts are meant"
    )


def reward_hacked(rows: Sequence[Row], evals: Sequence[Row], at: Thresholds) -> str | None:
    """Training reward rises while the completions' length, ends or form go strange."""
    first, last = _first_window(rows, at), _last_window(rows, at)
    if len(first) + len(last) > len(rows) or not _rises(first, last, at):
        return None
    held_out = _values(evals, "avg@k")
    if len(held_out) > 1 and held_out[-1] >= held_out[0] + at.held_out_rise:
        return None
    strange = _strange_ends(first, last, at) or _strange_length(first, last, at)
    if strange is None:
        return None
    before, now = _mean(first, "reward"), _mean(last, "reward")
    return (
        f"training reward rose from {_shown(before)} to {_shown(now)} while {strange}; read the "
        "latest completions for a way around the reward, and evaluate on held-out prompts"
    )


def held_out_falls(rows: Sequence[Row], evals: Sequence[Row], at: Thresholds) -> str | None:
    """Training reward rises while accuracy on held-out prompts falls."""
    measured = [row for row in evals if _number(row.get("avg@k")) is not None]
    if len(measured) < 3:
        return None
    best = max(measured[:-2], key=lambda row: row["avg@k"])
    latest = measured[-2:]
    ceiling = min(best["avg@k"] - at.held_out_fall, _number(best.get("avg@k_low")) or math.inf)
    if any((_number(row.get("avg@k_high")) or row["avg@k"]) >= ceiling for row in latest):
        return None
    before = _last_window([row for row in rows if row["step"] <= best["step"]], at)
    before = before or _first_window(rows, at)
    now = _last_window(rows, at)
    if not before or not now or not _rises(before, now, at):
        return None
    return (
        f"held-out accuracy fell from {best['avg@k']:.3f} at step {best['step']} to "
        f"{latest[-1]['avg@k']:.3f} while training reward rose from "
        f"{_shown(_mean(before, 'reward'))} to {_shown(_mean(now, 'reward'))}; compare completions "
        "of the two steps, and take the checkpoint of the best evaluation"
    )


RULES: dict[str, Rule] = {
    "signal_collapse": signal_collapse,
    "narrow_choice": narrow_choice,
    "reward_hacked": reward_hacked,
    "held_out_falls": held_out_falls,
}


# -- a run, row by row -----------------------------------------------------------------------


@dataclass
class Watch:
    """Takes in a run's rows in order and gives each warning once.

    Args:
        thresholds: when to warn.
        every: rows with new rollouts between two looks.
        given: names of warnings that were given already, which stay silent.
    """

    thresholds: Thresholds = DEFAULTS
    every: int = 8
    given: set[str] = field(default_factory=set)
    _rows: list[Row] = field(default_factory=list)
    _evals: list[Row] = field(default_factory=list)

    def evaluated(self, row: Row) -> None:
        """Take in a line of eval.jsonl; it counts from its own step on, so it may come early."""
        self._evals.append(row)

    def logged(self, row: Row) -> list[Alarm]:
        """Take in a line of metrics.jsonl; what is new about the run, usually nothing."""
        if _number(row.get("reward")) is None:
            return []  # a step that reused its rollouts says nothing new
        self._rows.append({name: row[name] for name in row if _is_needed(name)})
        return [] if len(self._rows) % self.every else self.look()

    def look(self) -> list[Alarm]:
        """Ask all rules now."""
        if not self._rows:
            return []
        found, step = [], int(self._rows[-1]["step"])
        evals = [row for row in self._evals if row["step"] <= step]
        for name, rule in RULES.items():
            message = None if name in self.given else rule(self._rows, evals, self.thresholds)
            if message is not None:
                self.given.add(name)
                found.append(Alarm(name, step, message))
        return found


def find_alarms(
    rows: Iterable[Row], evals: Sequence[Row], thresholds: Thresholds = DEFAULTS
) -> list[Alarm]:
    """What a run would have been warned of, in order of step.

    Args:
        rows: of metrics.jsonl, each with `step`.
        evals: of eval.jsonl, each with `step`.
    """
    watch = Watch(thresholds)
    for row in evals:
        watch.evaluated(row)
    found = [alarm for row in rows for alarm in watch.logged(row)]
    return found + watch.look()


# -- windows and means -----------------------------------------------------------------------

_LARGEST = 1e300  # beyond it, sums of floats and whole numbers in JSON overflow
_NEEDED = {
    *("step", "reward", "reward_std", "frac_reward_zero_std"),
    *("completions/mean_length", "completions/clipped_ratio"),
    *("select/signal_rate", "select/coverage", "select/prompt_ids"),
}


def _is_needed(name: str) -> bool:
    return name in _NEEDED or _is_format(name)


def _is_format(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean") and "format" in name.lower()


def _first_window(rows: Sequence[Row], at: Thresholds) -> Sequence[Row]:
    return rows[: _window_length(rows, at)]


def _last_window(rows: Sequence[Row], at: Thresholds) -> Sequence[Row]:
    length = _window_length(reversed(rows), at)
    return rows[len(rows) - length :]


def _window_length(rows: Iterable[Row], at: Thresholds) -> int:
    """Rows from the beginning that make a window; 0 where there are too few."""
    groups = 0
    for number, row in enumerate(rows, start=1):
        names = row.get("select/prompt_ids")
        groups += len(names) if isinstance(names, list) else 1
        if number >= at.window_steps and groups >= at.window_groups:
            return number
    return 0


def _rises(first: Sequence[Row], last: Sequence[Row], at: Thresholds) -> bool:
    """Whether the reward rose from one window to the other by more than its spread explains."""
    before, now = _mean(first, "reward"), _mean(last, "reward")
    spread = _mean([*first, *last], "reward_std")
    if before is None or now is None:
        return False
    return now > before and now - before >= at.reward_rise * (spread or 0.0)


def _strange_ends(first: Sequence[Row], last: Sequence[Row], at: Thresholds) -> str | None:
    clipped = _mean(first, "completions/clipped_ratio"), _mean(last, "completions/clipped_ratio")
    before, now = clipped
    if before is not None and now is not None and now - before >= at.clipped_rise:
        return f"completions cut off at the limit went from {before:.0%} to {now:.0%}"
    for name in filter(_is_format, last[-1]):
        before, now = _mean(first, name), _mean(last, name)
        if before is not None and now is not None and before - now >= at.format_fall:
            return f"{name} fell from {before:.2f} to {now:.2f}"
    return None


def _strange_length(first: Sequence[Row], last: Sequence[Row], at: Thresholds) -> str | None:
    before = _mean(first, "completions/mean_length")
    now = _mean(last, "completions/mean_length")
    if not before or now is None or before / at.length_factor < now < before * at.length_factor:
        return None
    return f"mean completion length went from {before:.0f} to {now:.0f} tokens"


def _signal_rate(row: Row) -> float | None:
    """The share of informative groups; TRL's share of the others gives it where need be."""
    rate, blank = _number(row.get("select/signal_rate")), _number(row.get("frac_reward_zero_std"))
    return rate if rate is not None else None if blank is None else 1 - blank


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and abs(value) <= _LARGEST else None  # NaN is not


def _values(rows: Iterable[Row], name: str) -> list[float]:
    return [value for row in rows if (value := _number(row.get(name))) is not None]


def _mean(rows: Iterable[Row], name: str) -> float | None:
    values = _values(rows, name)
    return sum(values) / len(values) if values else None


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"

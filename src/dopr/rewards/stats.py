"""Counts of checks that gave no verdict, so that none of them is a silent zero."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from dopr.rewards.sandbox import Outcome

logger = logging.getLogger(__name__)

LogMetric = Callable[[str, float], None]

_KINDS = {"timeout": "timeouts", "crash": "crashes", "error": "errors"}
_counts: Counter[str] = Counter()
_lock = threading.Lock()


def checker_stats() -> dict[str, int]:
    """How many checks this process has asked for, and how many gave no verdict.

    Returns:
        "checks", "timeouts" (stopped at the time limit), "crashes" (the checking process died),
        "errors" (the check raised an exception), "not_finite" (a user's reward gave NaN or
        infinity).
    """
    with _lock:
        return {name: _counts[name] for name in ("checks", *_KINDS.values(), "not_finite")}


def count(name: str, number: int) -> None:
    """Add to one of the counters of `checker_stats`."""
    with _lock:
        _counts[name] += number


def record(reward: str, outcomes: Sequence[Outcome], log_metric: LogMetric | None) -> None:
    """Count a batch's outcomes, log those without a verdict, and pass the counts to the trainer.

    Args:
        reward: the reward's name, for the log line.
        outcomes: one a check.
        log_metric: TRL's `log_metric`; receives `checker/timeouts`, `checker/crashes` and
            `checker/errors`, the numbers in this batch.
    """
    found = Counter(outcome.status for outcome in outcomes)
    count("checks", len(outcomes))
    for status, name in _KINDS.items():
        number = found[status]  # type: ignore[index]
        count(name, number)
        if log_metric is not None:
            log_metric(f"checker/{name}", float(number))
    failed = len(outcomes) - found["ok"]
    if failed:
        logger.warning(
            "%s: %d of %d checks gave no verdict (%s)",
            reward,
            failed,
            len(outcomes),
            ", ".join(f"{found[s]} {n}" for s, n in _KINDS.items() if found[s]),  # type: ignore[index]
        )

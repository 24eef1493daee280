"""Several strategies, several seeds, on equal terms: from a description to comparison.json."""

from typing import TYPE_CHECKING, Any

from dopr.compare.comparison import Comparison

if TYPE_CHECKING:
    from dopr.compare.jobs import missing_runs, run_one_of, run_side_by_side, work
    from dopr.compare.run import run_comparison

_JOBS = ("missing_runs", "run_one_of", "run_side_by_side", "work")
__all__ = [
    "Comparison",
    "missing_runs",
    "run_comparison",
    "run_one_of",
    "run_side_by_side",
    "work",
]


def __getattr__(name: str) -> Any:
    # Running pulls in torch and TRL, which describing a comparison can do without.
    if name == "run_comparison":
        from dopr.compare.run import run_comparison

        return run_comparison
    if name in _JOBS:
        from dopr.compare import jobs

        return getattr(jobs, name)
    raise AttributeError(f"module 'dopr.compare' has no attribute {name!r}")

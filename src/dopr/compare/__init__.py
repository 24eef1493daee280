"""Several strategies, several seeds, on equal terms: from a plan to comparison.json."""

from typing import TYPE_CHECKING, Any

from dopr.compare.plan import ComparePlan

if TYPE_CHECKING:
    from dopr.compare.run import run_comparison

__all__ = ["ComparePlan", "run_comparison"]


def __getattr__(name: str) -> Any:
    # Running pulls in torch and TRL, which a plan can do without.
    if name == "run_comparison":
        from dopr.compare.run import run_comparison

        return run_comparison
    raise AttributeError(f"module 'dopr.compare' has no attribute {name!r}")

"""dopr: reinforcement learning with verifiable rewards for a fraction of the rollouts."""

from typing import TYPE_CHECKING, Any

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, Measure, Request, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates
from dopr.strategies import make_strategy

if TYPE_CHECKING:
    from dopr.engines.trl.config import DoPRConfig
    from dopr.engines.trl.trainer import DoPRTrainer

__version__ = "0.1.0"

__all__ = [
    "DoPRConfig",
    "DoPRTrainer",
    "Group",
    "Ledger",
    "Measure",
    "PromptStream",
    "Request",
    "StepPlan",
    "Strategy",
    "UserError",
    "make_strategy",
    "require",
    "success_rates",
]


def __getattr__(name: str) -> Any:
    # The trainer pulls in torch and TRL, which strategies and replay can do without.
    if name == "DoPRTrainer":
        from dopr.engines.trl.trainer import DoPRTrainer

        return DoPRTrainer
    if name == "DoPRConfig":
        from dopr.engines.trl.config import DoPRConfig

        return DoPRConfig
    raise AttributeError(f"module 'dopr' has no attribute {name!r}")

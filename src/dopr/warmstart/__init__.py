"""The warm start: how the tiny model that comes with the package was made, and how to make others.

`dopr.warmstart.families` reads and solves problems, `habits` answers them well or badly, `mixture`
makes the supervised rows, `train` the model, `describe` measures it on the pools of `pools`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dopr.warmstart.finetune import WarmstartConfig, run_warmstart

__all__ = ["WarmstartConfig", "run_warmstart"]


def __getattr__(name: str) -> Any:
    # Training pulls in torch and TRL, which the pools can do without.
    if name in __all__:
        from dopr.warmstart import train

        return getattr(train, name)
    raise AttributeError(f"module 'dopr.warmstart' has no attribute {name!r}")

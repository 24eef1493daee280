"""The warm start: how the tiny model that comes with the package was made, and how to make others.

`dopr.warmstart.families` reads and solves problems, `habits` answers them well or badly, `mixture`
makes the supervised rows, `curate` takes them from solutions instead, `finetune` makes the model,
`describe` measures it on the pools of `dopr.tasks.tiny_pools`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dopr.warmstart.finetune import WarmstartSettings, run_warmstart

__all__ = ["WarmstartSettings", "run_warmstart"]


def __getattr__(name: str) -> Any:
    # Finetuning pulls in torch and TRL, which the pools can do without.
    if name in __all__:
        from dopr.warmstart import finetune

        return getattr(finetune, name)
    raise AttributeError(f"module 'dopr.warmstart' has no attribute {name!r}")

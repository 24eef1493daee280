"""The warm start: how the tiny model that comes with the package was made, and how to make others.

`dopr.warmstart.families` reads and solves problems, `habits` answers them well or badly, `mixture`
makes the supervised rows, `train` the model, `describe` measures it on the pools of `pools`.
"""

from dopr.warmstart.train import WarmstartConfig, run_warmstart

__all__ = ["WarmstartConfig", "run_warmstart"]

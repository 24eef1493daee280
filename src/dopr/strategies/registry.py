"""Every strategy by name, and the presets made of them."""

import dataclasses
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.core.preparation import check_options
from dopr.core.strategy import Strategy
from dopr.strategies.methods.ar3po import AR3PO
from dopr.strategies.methods.bots import BOTS
from dopr.strategies.methods.cero import CERO
from dopr.strategies.methods.coba_rl import CobaRL
from dopr.strategies.methods.cures import CurES
from dopr.strategies.methods.dapo import DAPO
from dopr.strategies.methods.dopr import DoPR
from dopr.strategies.methods.dopr_paper import DoPRPaper
from dopr.strategies.methods.dots import DOTS
from dopr.strategies.methods.gps import GPS
from dopr.strategies.methods.graph import Graph
from dopr.strategies.methods.greso import GRESO
from dopr.strategies.methods.history_variance import HistoryVariance
from dopr.strategies.methods.knapsack import Knapsack
from dopr.strategies.methods.lilo import LILO
from dopr.strategies.methods.limr import LIMR
from dopr.strategies.methods.mopps import MoPPS
from dopr.strategies.methods.one_shot import OneShot
from dopr.strategies.methods.oracle import Oracle
from dopr.strategies.methods.pcl import PCL
from dopr.strategies.methods.pilot_commit import PilotCommit
from dopr.strategies.methods.pods import PODS
from dopr.strategies.methods.prepo import PREPO
from dopr.strategies.methods.reinforce_ada import ReinforceAda
from dopr.strategies.methods.sec import SEC
from dopr.strategies.methods.speed import SPEED
from dopr.strategies.methods.uniform import Uniform
from dopr.strategies.methods.vcrl import VCRL
from dopr.strategies.methods.vigor import VIGOR
from dopr.strategies.methods.vip import VIP
from dopr.strategies.methods.xrpo import XRPO

_CLASSES: tuple[type[Strategy], ...] = (
    Uniform,
    OneShot,
    DoPR,
    DoPRPaper,
    DAPO,
    GRESO,
    MoPPS,
    SPEED,
    PilotCommit,
    LILO,
    PCL,
    DOTS,
    ReinforceAda,
    AR3PO,
    PODS,
    VCRL,
    CobaRL,
    CurES,
    Knapsack,
    VIP,
    PREPO,
    BOTS,
    Graph,
    CERO,
    VIGOR,
    XRPO,
    GPS,
    SEC,
    LIMR,
    HistoryVariance,
    Oracle,
)
STRATEGIES: dict[str, type[Strategy]] = {cls.name: cls for cls in _CLASSES}

# A preset is a strategy with some options set; the table of `dopr strategies` lists it too.
PRESETS: dict[str, tuple[str, dict[str, Any], str]] = {
    "uniform-1": ("uniform", {"prompts_per_step": 1}, "one random prompt a step"),
}


def make_strategy(name: str, /, **options: Any) -> Strategy:
    """Build a strategy by name.

    Args:
        name: one of `STRATEGIES` or `PRESETS`, or `path/to/file.py:ClassName`.
        options: the strategy's options; they override a preset's.

    Raises:
        UserError: unknown name or option (the nearest known one is offered), or a bad value.
    """
    cls: type[Strategy]
    if name in PRESETS:
        base, defaults, _ = PRESETS[name]
        cls, options = STRATEGIES[base], defaults | options
    elif name in STRATEGIES:
        cls = STRATEGIES[name]
    elif ".py:" in name:
        from dopr.core.user_objects import load_object

        cls = load_object(name, "strategy")
        if not (isinstance(cls, type) and issubclass(cls, Strategy)):
            raise UserError(f"{name!r} is not a Strategy class; derive it from dopr.Strategy")
    else:
        raise unknown_name("strategy", name, [*STRATEGIES, *PRESETS])
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of strategy {name!r}:", option, known)
    check_options(cls, options)
    try:
        return cls(**options)
    except TypeError as error:
        raise UserError(f"strategy {name!r} cannot take these options: {error}") from None


def describe_strategies() -> list[dict[str, str]]:
    """Rows of `dopr strategies`: name, summary, source, mark, and when the method pays."""
    rows = [
        {"name": c.name, "summary": c.summary, "source": c.source, "mark": c.mark, "pays": c.pays}
        for c in STRATEGIES.values()
    ]
    for name, (base, _, summary) in PRESETS.items():
        cls = STRATEGIES[base]
        rows.append(
            {
                "name": name,
                "summary": summary,
                "source": cls.source,
                "mark": cls.mark,
                "pays": cls.pays,
            }
        )
    return sorted(rows, key=lambda row: row["name"])

"""The trainer's settings: TRL's, plus how prompts are chosen."""

from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from dopr.core.advantages import ESTIMATORS
from dopr.core.errors import UserError, unknown_name
from dopr.core.ledger import check_discount
from dopr.engines.trl.objectives import check_ibro, fill_config

EMPTY_UPDATES = ("take", "skip")


@dataclass
class DoPRConfig(GRPOConfig):
    """GRPOConfig with the choice of prompts.

    Args:
        strategy: name of a strategy (`dopr strategies` lists them) or `path/to/file.py:Class`.
        strategy_args: the strategy's options.
        advantage_estimator: `group` (TRL's own), `leave_one_out`, `dbb` or `zvp`; see
            `dopr.core.advantages`. `scale_rewards` does not apply to `dbb`.
        empty_update: what to do in a step whose groups all lack reward variance. `take` the
            optimiser step on what there is, as TRL does (momentum and decay still act), or `skip`
            it. A step with nothing to train on at all is always skipped.
        rollout_budget: the learning rate's schedule runs over so many rollouts instead of over
            optimiser steps, so that strategies whose steps cost unequally end it together; warmup
            is then counted in rollouts too. None leaves the schedule alone.
        ledger_discount: factor in (0, 1] on a prompt's older rewards at each visit, in what
            strategies and the advantages of `dbb` know of it (there it is lambda). None takes the
            strategy's, which is 1 for most.
        max_rounds: a strategy that asks for rollouts more often within one step is stopped, and the
            step is taken on what it has.
        fast_decoding: sample with our own decoding loop where the model allows
            (`dopr.policy.decoding`); it spends less between the tokens.
        objective: a named preset of the loss (`dopr.engines.trl.objectives`); fields that differ
            from TRL's defaults win over it. None leaves the loss alone.
        ibro_coefficient: weight of the advantage-weighted token entropy; None takes the
            objective's, which is 0 for all but `ibro`.
        ibro_schedule: `constant`, or `linear` down to 0 at the end of the run.

    Raises:
        UserError: unknown estimator, objective, or value of `empty_update`.
    """

    # An annotation would make it a field of the dataclass, or clash with TRL's own.
    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "strategy_args"]  # noqa: RUF012

    strategy: str = field(default="dopr", metadata={"help": "How prompts are chosen."})
    strategy_args: dict[str, Any] | str | None = field(
        default_factory=dict, metadata={"help": "Options of the strategy."}
    )
    advantage_estimator: str = field(
        default="group", metadata={"help": "group, leave_one_out, dbb or zvp."}
    )
    empty_update: str = field(
        default="take", metadata={"help": "take or skip updates of steps without reward variance."}
    )
    rollout_budget: int | None = field(
        default=None, metadata={"help": "Run the learning rate's schedule over so many rollouts."}
    )
    ledger_discount: float | None = field(
        default=None, metadata={"help": "Factor on a prompt's older rewards at each visit."}
    )
    max_rounds: int = field(
        default=64, metadata={"help": "Most rounds of rollouts a strategy may ask for in a step."}
    )
    fast_decoding: bool = field(
        default=True, metadata={"help": "Sample with our own decoding loop where possible."}
    )
    objective: str | None = field(
        default=None, metadata={"help": "A named preset of the loss settings."}
    )
    ibro_coefficient: float | None = field(
        default=None, metadata={"help": "Weight of the advantage-weighted token entropy."}
    )
    ibro_schedule: str = field(default="constant", metadata={"help": "constant or linear."})

    def __post_init__(self) -> None:
        fill_config(self)
        super().__post_init__()
        check_ibro(self.ibro_coefficient, self.ibro_schedule)
        if self.advantage_estimator not in ESTIMATORS:
            raise unknown_name("advantage_estimator", self.advantage_estimator, ESTIMATORS)
        if self.empty_update not in EMPTY_UPDATES:
            raise unknown_name("empty_update", self.empty_update, EMPTY_UPDATES)
        if self.rollout_budget is not None and self.rollout_budget < 1:
            raise UserError(f"rollout_budget is {self.rollout_budget}; it must be at least 1")
        check_discount(self.ledger_discount)


@dataclass(frozen=True)
class Selection:
    """The part of the settings that is ours; a plain GRPOConfig gives the defaults."""

    strategy: str = "dopr"
    strategy_args: dict[str, Any] | str | None = None
    advantage_estimator: str = "group"
    empty_update: str = "take"
    rollout_budget: int | None = None
    ledger_discount: float | None = None
    max_rounds: int = 64
    fast_decoding: bool = True
    ibro_coefficient: float | None = None
    ibro_schedule: str = "constant"

    @classmethod
    def of(cls, args: Any) -> "Selection":
        """The settings that `args` has; defaults for the others, as for a plain `GRPOConfig`."""
        names = [f.name for f in fields(cls) if hasattr(args, f.name)]
        return cls(**{name: getattr(args, name) for name in names})

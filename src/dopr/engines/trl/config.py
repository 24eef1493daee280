"""The trainer's settings: TRL's, plus how prompts are chosen."""

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from dopr.engines.trl.objectives import fill_config
from dopr.engines.trl.selection import Selection, check_selection


@dataclass
class DoPRConfig(Selection, GRPOConfig):
    """GRPOConfig with what `Selection` and `MethodSettings` add: how prompts are chosen.

    Beside an `objective`, fields that differ from TRL's defaults win over it.

    Raises:
        UserError: an unknown choice, or a number outside its limits.
    """

    # An annotation would make it a field of the dataclass, or clash with TRL's own.
    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "strategy_args"]  # noqa: RUF012

    # On a command line a mapping is text, which TRL reads as JSON.
    strategy_args: dict[str, Any] | str | None = field(  # type: ignore[assignment]
        default_factory=dict, metadata={"help": "Options of the strategy."}
    )

    def __post_init__(self) -> None:
        fill_config(self)
        super().__post_init__()
        check_selection(self)

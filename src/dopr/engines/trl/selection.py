"""What is ours among the settings of a training run, told once.

`DoPRConfig` adds it to TRL's settings and `dopr train` to those of a run directory; both check it
by the same rules. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from dopr.core.advantages import ESTIMATORS
from dopr.core.configuration import at_least, at_most, check_choices
from dopr.core.driver import MAX_DELAY, MAX_ROUNDS
from dopr.core.ledger import check_discount
from dopr.engines.trl.objectives import IBRO_SCHEDULES, OBJECTIVES


@dataclass
class MethodSettings:
    """How prompts are chosen, and what an update makes of their rollouts.

    Args:
        strategy: how prompts are chosen: a name (`dopr strategies` lists them) or
            `path/to/file.py:Class`.
        strategy_args: the strategy's options.
        answer_column: where a strategy that reads reference answers (`answers` of `dopr`) finds
            what a right completion says: another column than `answer` if that is a bare result and
            the policy writes how it gets there. Rewards go by `answer` all the same.
        objective: a named preset of the loss (`dopr.engines.trl.objectives`); what is set beside it
            wins. None leaves the loss alone.
        ibro_coefficient: weight of the advantage-weighted token entropy; None takes the
            objective's, which is 0 for all but `ibro`.
        ibro_schedule: `constant`, or `linear` down to 0 at the end of the run.
        advantage_estimator: what rewards are held against: `forecast`, what the strategy expects of
            the prompt (`dopr` does; TRL's own where it expects nothing), `group` (TRL's own),
            `leave_one_out`, `dbb` or `zvp`; see `dopr.core.advantages`. `scale_rewards` does not
            apply to `dbb`. None is `forecast`, and `group` where TRL keeps rewards apart
            (`multi_objective_aggregation`).
        ledger_discount: factor in (0, 1] on a prompt's older rewards at each visit, in what
            strategies and the advantages of `dbb` know of it (there it is lambda). None takes the
            strategy's, which is 1 for most; with `dbb` 0.5 takes the place of such a 1.
        empty_update: what to do in a step without any advantage, such as one whose groups all lack
            reward variance and are held against their own means. `take` the optimiser step on what
            there is, as TRL does (momentum and decay still act), or `skip` it. A step with nothing
            to train on at all is always skipped.
        feedback_delay: choose so many batches of rollouts ahead, as an engine must that generates
            while it trains: what is rolled out is decided while the rewards of so many batches
            before it are not known yet. What is chosen in the loader's order rests on no reward,
            and is not chosen ahead. For studies of such engines; 0 knows all there is.
        withhold_in_flight: do not offer prompts that are chosen and whose rewards are not in.
        fast_decoding: sample with our own decoding loop where the model allows
            (`dopr.policy.decoding`); it spends less between the tokens.
        share_prefixes: in the update, read each prompt once for all its rollouts where the model
            allows (`dopr.policy.shared_prefixes`). Losses and gradients stay equal up to rounding,
            so uniform choice that promises TRL's own result goes without.
    """

    strategy: str = field(default="dopr", metadata={"help": "How prompts are chosen."})
    strategy_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the strategy."}
    )
    answer_column: str = field(
        default="answer", metadata={"help": "Column that says what a right completion is like."}
    )
    objective: str | None = field(
        default=None,
        metadata={"help": "A named preset of the loss settings.", "choices": tuple(OBJECTIVES)},
    )
    ibro_coefficient: float | None = field(
        default=None, metadata={"help": "Weight of the advantage-weighted token entropy."}
    )
    ibro_schedule: str = field(
        default="constant",
        metadata={"help": "Of that weight over the run.", "choices": IBRO_SCHEDULES},
    )
    advantage_estimator: str | None = field(
        default=None,
        metadata={"help": "Rewards to advantages.", "choices": tuple(ESTIMATORS)},
    )
    ledger_discount: float | None = field(
        default=None, metadata={"help": "Factor on a prompt's older rewards at each visit."}
    )
    empty_update: str = field(
        default="take",
        metadata={"help": "Updates of steps without any advantage.", "choices": ("take", "skip")},
    )
    feedback_delay: int = field(
        default=0, metadata={"help": "Choose so many batches of rollouts ahead."}
    )
    withhold_in_flight: bool = field(
        default=True, metadata={"help": "Do not offer prompts whose rewards are not in."}
    )
    fast_decoding: bool = field(
        default=True, metadata={"help": "Sample with our own decoding loop where possible."}
    )
    share_prefixes: bool = field(
        default=True,
        metadata={"help": "Read a prompt once for all its rollouts in the update, where possible."},
    )


def check_method(settings: MethodSettings) -> None:
    """Refuse what cannot be.

    Raises:
        UserError: an unknown choice or a number outside its limits.
    """
    check_choices(settings, MethodSettings)
    check_discount(settings.ledger_discount)
    at_least(settings, 0, "feedback_delay", "ibro_coefficient")
    at_most(settings, MAX_DELAY, "feedback_delay")


@dataclass
class Selection(MethodSettings):
    """All that a trainer knows beyond TRL's settings; a plain GRPOConfig gives the defaults.

    Args:
        rollout_budget: the learning rate's schedule runs over so many rollouts instead of over
            optimiser steps, so that strategies whose steps cost unequally end it together; warmup
            is then counted in rollouts too. None leaves the schedule alone.
        max_rounds: a strategy that asks for rollouts more often within one step is stopped, and the
            step is taken on what it has.
        stream_window: rows of a streaming dataset that are held to choose among; the next ones take
            their place when all were offered once.
    """

    rollout_budget: int | None = field(
        default=None, metadata={"help": "Run the learning rate's schedule over so many rollouts."}
    )
    max_rounds: int = field(
        default=MAX_ROUNDS,
        metadata={"help": "Most rounds of rollouts a strategy may ask for in a step."},
    )
    stream_window: int = field(
        default=4096, metadata={"help": "Rows of a streaming dataset to choose among at a time."}
    )

    @classmethod
    def of(cls, args: Any) -> "Selection":
        """What stands in a trainer's settings, of whatever class."""
        names = [f.name for f in fields(cls) if hasattr(args, f.name)]
        return cls(**{name: getattr(args, name) for name in names})


def check_selection(settings: Selection) -> None:
    """Refuse what cannot be.

    Raises:
        UserError: an unknown choice or a number outside its limits.
    """
    check_method(settings)
    at_least(settings, 1, "rollout_budget", "max_rounds", "stream_window")

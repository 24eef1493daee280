"""Learning-rate schedules that follow the rollouts spent instead of the optimiser's steps."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerState

from dopr.core.errors import UserError


def run_over_rollouts(scheduler: Any, spent: Callable[[], int], budget: int) -> None:
    """Make a schedule over `budget` steps one over so many rollouts, in place.

    Args:
        scheduler: as transformers made it, for `budget` steps.
        spent: tells the rollouts so far.
        budget: at which the schedule ends.

    Raises:
        UserError: the schedule is not a function of the step alone.
    """
    if not isinstance(scheduler, LambdaLR):
        raise UserError(
            f"a {type(scheduler).__name__} schedule cannot run over rollouts; choose linear, "
            "cosine or constant as lr_scheduler_type"
        )

    def follow(schedule: Callable[[int], float]) -> Callable[[int], float]:
        return lambda _step: schedule(min(spent(), budget))

    scheduler.lr_lambdas = [follow(schedule) for schedule in scheduler.lr_lambdas]


def share_over(state: TrainerState, spent: int, budget: int | None) -> float:
    """Which share of a run is over: 0 at its start, 1 at its end.

    Args:
        state: transformers' count of steps.
        spent: rollouts so far.
        budget: rollouts at which the run ends; None where its steps end it.
    """
    if budget is not None:
        return spent / max(budget, 1)
    return state.global_step / max(state.max_steps, 1)

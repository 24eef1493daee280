"""Learning-rate schedules that follow the rollouts spent instead of the optimiser's steps."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from dopr.driver import Driver
from dopr.errors import UserError


def run_over_rollouts(scheduler: Any, driver: Driver, budget: int) -> None:
    """Make a schedule over `budget` steps one over so many rollouts, in place.

    Args:
        scheduler: as transformers made it, for `budget` steps.
        driver: counts the rollouts.
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
        return lambda _step: schedule(min(driver.spent.rollouts, budget))

    scheduler.lr_lambdas = [follow(schedule) for schedule in scheduler.lr_lambdas]

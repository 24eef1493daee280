"""A chooser for engines that do not wait: they ask for jobs, and tell what came of them, any time.

A job is one prompt to be rolled out so many times. Every job belongs to a step of the driver; steps
overlap as the engines like. Nothing here knows how the engines are reached: `chooser_journal` keeps
what came in on disk, `chooser_server` listens to them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.driver import Driver, Flight, StepOutcome
from dopr.core.strategy import Group, Request


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to roll out.

    Attributes:
        number: its name; no two jobs have the same.
        prompt_id: row number of the prompt in the pool.
        num_rollouts: how often.
    """

    number: int
    prompt_id: int
    num_rollouts: int


class Chooser:
    """Hands out jobs and takes in what came of them.

    Args:
        driver: of a strategy that needs rollouts alone. Its steps are begun as jobs are asked for.

    Attributes:
        driver: with its ledger and its totals.
        outcomes: of the steps that are finished, for whoever trains on them; the handle of a kept
            group is the numbers of its jobs.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.outcomes: deque[StepOutcome] = deque()
        # Handed out, or waiting for it: with the step, and the place of the request in its round.
        self._jobs: dict[int, tuple[Flight, Request, int]] = {}
        self._waiting: deque[int] = deque()
        self._again: set[int] = set()  # of those waiting, the ones an engine may still be at
        self._next = 0

    @property
    def handed_out(self) -> list[int]:
        """Numbers of the jobs that engines have and have told nothing of yet."""
        waiting = set(self._waiting)
        return [number for number in self._jobs if number not in waiting]

    def ask(self, count: int) -> list[Job]:
        """The next jobs; steps are begun for them as needed."""
        self._begin_together(count - len(self._waiting))
        while len(self._waiting) < count:
            flight = self.driver.begin()
            if flight.outcome is None:
                self._line_up(flight)
            else:  # a step that needs no rollouts at all
                self.outcomes.append(self.driver.finish(flight))
        numbers = [self._waiting.popleft() for _ in range(count)]
        self._again.difference_update(numbers)
        return [self._job(number) for number in numbers]

    def ask_for_stalled(self) -> list[Job]:
        """Jobs that steps stand still for: groups have come, and nothing else is under way.

        Such a step is in a later round, or larger than what was asked for at a time.
        """
        moving = {self._jobs[number][0].index for number in self.handed_out}
        stalled = [number for number in self._waiting if self._stands_still(number, moving)]
        gone = set(stalled)
        self._waiting = deque(number for number in self._waiting if number not in gone)
        self._again -= gone
        return [self._job(number) for number in stalled]

    def _stands_still(self, number: int, moving: set[int]) -> bool:
        flight = self._jobs[number][0]
        return flight.index not in moving and bool(flight.generated or any(flight.arrived))

    def job(self, number: int) -> Job | None:
        """A job that nobody has told of yet; None where there is no such."""
        return self._job(number) if number in self._jobs else None

    def _job(self, number: int) -> Job:
        request = self._jobs[number][1]
        return Job(number, request.prompt_id, request.num_rollouts)

    def _begin_together(self, count: int) -> None:
        """Begin steps of one prompt at once, where the strategy can choose so."""
        strategy, driver = self.driver.strategy, self.driver
        choose = getattr(strategy, "choose_many", None)
        if choose is None or count < 2:
            return
        chosen = choose(driver.stream, driver.ledger, count)
        for prompt in () if chosen is None else chosen.tolist():
            flight = driver.begin_chosen([Request(prompt, strategy.num_generations)])
            self._line_up(flight)

    def tell_all(
        self, numbers: Sequence[int], rewards: NDArray[np.float64], tokens: NDArray[np.int64]
    ) -> None:
        """Take in the rollouts of several jobs; see `tell`.

        Args:
            numbers: of the jobs, k of them.
            rewards, tokens: shape (k, n).
        """
        size, found = rewards.shape[1], [self._jobs.get(number) for number in numbers]
        together = len(set(numbers)) == len(numbers) and all(
            job is not None and job[0].single and job[1].num_rollouts == size for job in found
        )
        if not together:
            for number, mine, spent in zip(numbers, rewards, tokens, strict=True):
                self.tell(number, mine, spent)
            return
        self.hold(numbers)
        flights, groups = [], []
        for number, mine, spent in zip(numbers, _scored(rewards), tokens, strict=True):
            flight, request, _ = self._jobs.pop(number)
            flights.append(flight)
            groups.append(Group(request.prompt_id, mine, spent, flight.index, handle=(number,)))
        self.driver.deliver_to(flights, groups)
        self.outcomes.extend(self.driver.finish(flight) for flight in flights)

    def tell(self, number: int, rewards: NDArray[np.float64], tokens: NDArray[np.int64]) -> bool:
        """Take in the rollouts of a job.

        Args:
            number: the job's.
            rewards, tokens: shape (n,), of its rollouts; NaN, or what is not finite, where one
                could not be scored. Where they are fewer than was asked for the rest is a job anew;
                more are surplus.

        Returns:
            Whether anybody waited for it. What is told twice counts once.
        """
        if number not in self._jobs:
            return False
        self.hold([number])
        flight, request, place = self._jobs.pop(number)
        rewards = _scored(rewards)
        wanted, spent = request.num_rollouts, self.driver.spent
        if len(rewards) > wanted:
            spent.rollouts += len(rewards) - wanted
            spent.surplus_rollouts += len(rewards) - wanted
            rewards, tokens = rewards[:wanted], tokens[:wanted]
        elif len(rewards) < wanted:
            rest = Request(request.prompt_id, wanted - len(rewards))
            spent.asked_again += rest.num_rollouts
            self._add(flight, rest, place)
            if not len(rewards):
                return True
        group = Group(request.prompt_id, rewards, tokens, flight.index, handle=(number,))
        if self.driver.deliver(flight, [group], place=place):
            self._line_up(flight)
        if flight.outcome is not None:
            self.outcomes.append(self.driver.finish(flight))
        return True

    def lose(self, numbers: Sequence[int]) -> None:
        """Hand jobs out again, before all others: the engines that had them are gone."""
        for number in reversed(numbers):
            if number in self._jobs and number not in self._waiting:
                self.driver.spent.asked_again += self._jobs[number][1].num_rollouts
                self._waiting.appendleft(number)
                self._again.add(number)

    def hold(self, numbers: Sequence[int]) -> None:
        """Hand jobs out no more: an engine that was thought to be gone is at them, or was."""
        back = self._again.intersection(numbers)
        if back:
            self._waiting = deque(number for number in self._waiting if number not in back)
            self._again -= back

    def _line_up(self, flight: Flight) -> None:
        """Make jobs of a round that has just begun."""
        for place, request in enumerate(flight.asked):
            self._add(flight, request, place)

    def _add(self, flight: Flight, request: Request, place: int) -> None:
        self._jobs[self._next] = flight, request, place
        self._waiting.append(self._next)
        self._next += 1

    # -- saving -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain values and arrays: the driver's state, and which job belongs to which step."""
        jobs = [
            (number, flight.index, request.prompt_id, request.num_rollouts, place)
            for number, (flight, request, place) in self._jobs.items()
        ]
        return {
            "driver": self.driver.state_dict(list),
            "jobs": np.array(jobs, dtype=np.int64).reshape(len(jobs), 5),
            "waiting": np.array(self._waiting, dtype=np.int64),
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the saved chooser stood, its outcomes aside: jobs keep their numbers."""
        self.driver.load_state_dict(state["driver"])
        flights = {flight.index: flight for flight in self.driver.flights}
        self._jobs = {
            number: (flights[index], Request(prompt, count), place)
            for number, index, prompt, count, place in state["jobs"].tolist()
        }
        self._waiting = deque(state["waiting"].tolist())
        self._again = set(self._waiting)  # which of them had been handed out is not saved
        self._next = int(state["next"])
        self.outcomes.clear()


def _scored(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where a reward is not finite: one such number would be in all that is learned after."""
    return np.where(np.isfinite(rewards), rewards, np.nan)

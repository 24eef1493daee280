"""What happens inside a step in flight: the strategy is run on, what comes is noted and counted."""

import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.flight import Flight, Seen
from dopr.core.ledger import Ledger
from dopr.core.ledger_past import LedgerPast
from dopr.core.outcome import Spent, StepOutcome
from dopr.core.strategy import Group, Measure, Request, Strategy
from dopr.core.stream import PromptStream

logger = logging.getLogger("dopr.core.driver")

MAX_ROUNDS = 64  # of rollouts in one step, unless a setting says otherwise

Answer = Callable[[Measure], tuple[NDArray[np.float64], int]]


class StepRunner:
    """The half of `dopr.core.driver.Driver` that is not called from outside."""

    max_rounds = MAX_ROUNDS

    def __init__(
        self, strategy: Strategy, stream: PromptStream, ledger: Ledger, withhold_in_flight: bool
    ) -> None:
        self.strategy = strategy
        self.spent = Spent(rollouts=strategy.prepaid_rollouts)
        self.withhold_in_flight = withhold_in_flight
        self._flights: dict[int, Flight] = {}  # by their index, the oldest first
        self._take_pool(stream, ledger)

    def _take_pool(self, stream: PromptStream, ledger: Ledger) -> None:
        self.stream, self.ledger = stream, ledger
        self._past: LedgerPast | None = None
        self._speaker: Flight | None = None
        if self.withhold_in_flight:
            stream.withheld = ledger.in_flight

    @property
    def flights(self) -> list[Flight]:
        """The steps in flight, the oldest first."""
        return list(self._flights.values())

    def _turn_to(self, flight: Flight) -> int:
        """Let the ledger's step be that of the flight, and what is said of a choice be its own.

        Returns what the ledger's step is to be afterwards.
        """
        others = len(self._flights) > 1 or flight.explained is not None
        if others and self._speaker is not flight:
            if self._speaker is not None:
                self._speaker.explained = self.strategy._last
            said = flight.explained
            self.strategy._last = self.strategy._last.copy() if said is None else said
        self._speaker = flight
        begun, self.ledger.step = self.ledger.step, flight.index
        return begun

    def _begin(self, measure: Answer | None, saved: bool) -> Flight:
        if saved and self._past is None:
            self._past = LedgerPast(self.ledger)
        plan = self.strategy.step(self.stream, self.ledger)
        if not isinstance(plan, Generator):
            raise self._misbehaved("`step` has no `yield`; it must yield what to roll out")
        flight = Flight(self.ledger.step, plan)
        self._flights[flight.index] = flight
        self._turn_to(flight)
        try:
            self._run_on(flight, None, measure, saved)
        except BaseException:
            del self._flights[flight.index]
            raise
        self.ledger.step += 1
        return flight

    def _answer(self, flight: Flight, groups: list[Group], measure: Answer | None) -> None:
        """Give the strategy its round's groups, whatever they are, and run it on."""
        for request in flight.asked:
            self._awaits(request.prompt_id, -request.num_rollouts)
        self._note(flight, groups)
        flight.generated.extend(groups)
        self._run_on(flight, groups, measure, bool(flight.seen))

    def _go_on(self, flight: Flight, measure: Answer | None) -> list[Request]:
        groups = flight.round_groups()
        flight.generated.extend(group for group in groups if group.num_rollouts)
        self._run_on(flight, groups, measure, bool(flight.seen))
        return flight.open

    def _run_on(
        self, flight: Flight, groups: list[Group] | None, measure: Answer | None, saved: bool
    ) -> None:
        """Run the strategy until it asks for rollouts or returns."""
        if flight.only_round:
            self._complete(flight, list(flight.generated))
            return
        seen = self._look(flight, groups) if saved else None
        flight.ask([])
        answer: Any = groups
        for _ in range(self.max_rounds + MAX_ROUNDS):  # what is measured is no round of rollouts
            try:
                asked = flight.plan.send(answer)
            except StopIteration as stop:
                kept = [] if stop.value is None else stop.value
                if not _all_are(kept, Group):
                    raise self._misbehaved(f"`step` returned {kept!r}, not groups") from None
                self._complete(flight, list(kept))
                return
            if isinstance(asked, Measure):
                assert measure is not None  # checked against `measures` at set-up
                answer, tokens = measure(asked)
                self.spent.measured_tokens += tokens
                if seen is not None:
                    seen.measured.append(answer)
            elif not _all_are(asked, Request):
                raise self._misbehaved(f"`step` yielded {asked!r}, not requests or a `Measure`")
            elif flight.rounds == self.max_rounds:
                break
            else:
                flight.rounds += 1
                if asked:
                    self._ask(flight, list(asked))
                    return
                answer = []
        self._stop(flight)

    def _misbehaved(self, how: str) -> UserError:
        return UserError(f"strategy {self.strategy.name!r} is no strategy as it stands: {how}")

    def _look(self, flight: Flight, groups: list[Group] | None) -> Seen:
        assert self._past is not None
        flying = dict(self.ledger.in_flight)
        states = self.strategy.state_dict(), self.stream.state_dict()
        flight.seen.append(Seen(*states, self._past.now, flying, groups))
        return flight.seen[-1]

    def _ask(self, flight: Flight, requests: list[Request]) -> None:
        size = self.stream.size
        for request in requests:
            if not 0 <= request.prompt_id < size or request.num_rollouts < 1:
                raise UserError(
                    f"strategy {self.strategy.name!r} made an impossible request: {request}; "
                    f"prompt ids run from 0 to {size - 1} and rollouts from 1"
                )
        flight.ask(requests)
        for request in requests:
            self._awaits(request.prompt_id, request.num_rollouts)

    def _awaits(self, prompt: int, change: int) -> None:
        flying = self.ledger.in_flight
        left = flying.get(prompt, 0) + change
        if left > 0:
            flying[prompt] = left
        else:
            flying.pop(prompt, None)

    def _note(self, flight: Flight, groups: list[Group]) -> None:
        self.ledger.observe(groups, flight.prompts)
        for group in groups:
            self._count(group)

    def _count(self, group: Group) -> None:
        spent = self.spent
        spent.groups += 1
        spent.informative_groups += group.informative
        spent.rollouts += group.num_rollouts
        spent.generated_tokens += sum(group.tokens.tolist())

    def _stop(self, flight: Flight) -> None:
        flight.plan.close()
        kept = [g for g in flight.generated if g.informative] or flight.generated[-1:]
        self.spent.abandoned_steps += 1
        logger.warning(
            "strategy %s asked for more than %d rounds in one step; training on the %d groups "
            "at hand",
            self.strategy.name,
            self.max_rounds,
            len(kept),
        )
        self._complete(flight, kept)

    def _complete(self, flight: Flight, kept: list[Group]) -> None:
        if flight.lossy:
            kept = [group for group in kept if group.num_rollouts]
        self.spent.kept += sum(group.num_kept for group in kept)
        if not any(group.informative for group in kept):
            self.spent.empty_steps += 1
        alone = len(self._flights) == 1 or flight.only_round
        said = None if alone else self.strategy.metrics()
        flight.outcome = StepOutcome(kept, flight.generated, flight.index, said)
        flight.seen.clear()

    def _lose(self, flight: Flight) -> None:
        for request in flight.open:
            self.spent.lost_rollouts += request.num_rollouts
            self._awaits(request.prompt_id, -request.num_rollouts)

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.index]
        if flight.outcome is None:
            flight.plan.close()
            for request in flight.open:
                self._awaits(request.prompt_id, -request.num_rollouts)
        if self._past is not None:
            looks = (other.seen[0].ledger for other in self._flights.values() if other.seen)
            self._past.forget_before(next(looks, self._past.now))  # the oldest comes first


def _all_are(values: Any, kind: type) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, kind) for value in values)

"""Runs a strategy: sends its requests out, keeps the ledger, counts every rollout and token.

The trainer, the replay of histories and other engines differ only in the function that turns
requests into groups; everything a strategy may rely on is here.

An engine that waits for its rollouts calls `step`. One that does not begins steps, hands out what
they ask for, and delivers what comes, in any order:

    flight = driver.begin()
    send(flight.open)
    ...
    send(driver.deliver(flight, groups))  # some groups or all; perhaps there is a further round
    if flight.outcome is not None:
        train_on(driver.finish(flight).kept)
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import numpy as np

from dopr.core.errors import UserError
from dopr.core.flight import Flight
from dopr.core.ledger import Ledger, check_discount
from dopr.core.moves import Moves
from dopr.core.outcome import Spent, StepOutcome
from dopr.core.packing import Handles, pack_groups, unpack_groups
from dopr.core.restart import ENDED, pack_flights, restarted
from dopr.core.step_runner import MAX_ROUNDS, Answer, StepRunner
from dopr.core.strategy import Group, Request, Strategy
from dopr.core.stream import PromptStream

__all__ = ["MAX_DELAY", "MAX_ROUNDS", "Driver", "Flight", "Spent", "StepOutcome"]

MAX_DELAY = 4096  # steps chosen ahead at most: each of them is held in memory

Rollout = Callable[[list[Request]], list[Group]]


class Driver(StepRunner):
    """Keeps one strategy, its stream of prompts and its ledger together.

    Args:
        strategy: what decides. The driver runs this very object and tells it what can be measured;
            engines give it a copy of their user's, see `dopr.core.preparation`.
        stream: the order in which prompts are offered.
        max_rounds: a strategy that asks for rollouts more often than this within a step is stopped,
            and the step goes on with the informative groups it has paid for.
        can_measure: quantities that `measure` will be able to answer.
        discount: factor on a prompt's older rewards at each visit; None takes the strategy's
            `ledger_discount`.
        feedback_delay: `step` chooses so many steps ahead, as an engine must that generates while
            it trains: what a step rolls out is decided when the groups of that many steps before
            it are not known yet.
        withhold_in_flight: the stream does not offer prompts whose rollouts are on their way.
        restorable: steps in flight are saved so that their strategy can go on with them, at the
            cost of a copy of its state and of the rest of the epoch for each of them. Else the
            groups of such a step are trained on as they come once the state is loaded.

    Attributes:
        strategy: with all that it has learned.
        ledger: what is known about each prompt.
        spent: totals.
        flights: the steps in flight, the oldest first.

    Raises:
        UserError: the strategy needs a quantity that this driver cannot measure, or a
            `ledger_discount` outside (0, 1].
    """

    def __init__(
        self,
        strategy: Strategy,
        stream: PromptStream,
        *,
        max_rounds: int = MAX_ROUNDS,
        can_measure: frozenset[str] = frozenset(),
        discount: float | None = None,
        feedback_delay: int = 0,
        withhold_in_flight: bool = True,
        restorable: bool = True,
    ) -> None:
        _check_measures(strategy, can_measure)
        strategy.can_measure = can_measure
        faded = strategy.ledger_discount if discount is None else discount
        check_discount(faded)
        super().__init__(strategy, stream, Ledger(stream.size, faded), withhold_in_flight)
        self._untouched = deepcopy(strategy)
        self.max_rounds = max_rounds
        self.feedback_delay = feedback_delay
        self.restorable = restorable

    def change_pool(self, stream: PromptStream, can_measure: frozenset[str] | None = None) -> None:
        """Go on with other prompts: what was known of the old ones is forgotten, the totals stay.

        Steps in flight are dropped.

        Args:
            stream: of the new pool.
            can_measure: what will be answered of it; None where that is as before.

        Raises:
            UserError: the strategy needs a quantity that is not there any more.
        """
        if can_measure is not None:
            _check_measures(self._untouched, can_measure)
            self._untouched.can_measure = can_measure
        for flight in self.flights:
            self.drop(flight)
        old = self.ledger
        self.strategy = deepcopy(self._untouched)
        self._take_pool(stream, Ledger(stream.size, discount=old.discount))
        self.ledger.step = old.step
        self.ledger.policy_entropy = old.policy_entropy
        self.ledger.initial_entropy = old.initial_entropy

    # -- one step after the other -----------------------------------------------------------

    def step(self, rollout: Rollout, measure: Answer | None = None) -> StepOutcome:
        """Run the strategy for one optimiser step.

        With a `feedback_delay` the step was chosen that many steps ago, and another one is chosen
        first; what it rolls out, it rolls out now.

        Args:
            rollout: turns requests into finished groups, in the same order.
            measure: answers a `Measure` with one value per prompt, and says how many tokens
                it read for that.
        """
        while len(self._flights) <= self.feedback_delay:
            self._begin(measure, saved=self.restorable and self.feedback_delay > 0)
        flight = next(iter(self._flights.values()))
        begun = self._turn_to(flight)
        try:
            while flight.outcome is None:
                if any(flight.arrived):  # a part of it had come before the run was resumed
                    self.deliver(flight, rollout(flight.open), measure)
                else:
                    self._answer(flight, rollout(flight.asked), measure)
        except BaseException:
            if not self.feedback_delay:  # another try is to begin where this one did
                self._remove(flight)
                begun = flight.index
            raise
        finally:
            self.ledger.step = begun
        return self.finish(flight)

    @property
    def steps_done(self) -> int:
        """Steps that `step` has finished; with a `feedback_delay` more were begun."""
        return next(iter(self._flights), self.ledger.step)

    # -- several steps at once --------------------------------------------------------------

    def begin(self, measure: Answer | None = None) -> Flight:
        """Begin another step, however many are in flight; its `open` is what it asks for.

        Args:
            measure: as in `step`.
        """
        return self._begin(measure, saved=self.restorable)

    def deliver(
        self,
        flight: Flight,
        groups: Iterable[Group],
        measure: Answer | None = None,
        place: int | None = None,
    ) -> list[Request]:
        """Hand over finished groups of a step in flight, in any order.

        The ledger notes them at once; the strategy goes on when its round is complete. A group may
        be a part of what was asked for, the rest is still awaited. Rollouts that nobody waits for
        are counted as surplus and noted nowhere.

        Args:
            flight: the step they were asked for.
            groups: finished ones.
            measure: as in `step`.
            place: of the request that they are of, see `Flight.take`.

        Returns:
            The requests of the next round, where there is one.
        """
        begun = self._turn_to(flight)
        try:
            for group in groups:
                if flight.outcome is None and flight.take(group, place):
                    self._awaits(group.prompt_id, -group.num_rollouts)
                    self._note(flight, [group])
                else:
                    self._count(group)
                    self.spent.surplus_rollouts += group.num_rollouts
            done = flight.outcome is not None or flight.open
            return [] if done else self._go_on(flight, measure)
        finally:
            self.ledger.step = begun

    def begin_chosen(self, requests: list[Request]) -> Flight:
        """Begin a step of one round that is chosen already, and that keeps what comes.

        Args:
            requests: of the round.
        """
        flight = Flight(self.ledger.step, ENDED, rounds=1, only_round=True)
        self._flights[flight.index] = flight
        self.ledger.step += 1
        self._ask(flight, requests)
        return flight

    def deliver_to(self, flights: Sequence[Flight], groups: Sequence[Group]) -> None:
        """Hand over the whole groups of several different steps that are `single`.

        As `deliver`, and faster than one by one.
        """
        self.ledger.observe_steps(groups, np.array([flight.index for flight in flights]))
        for flight, group in zip(flights, groups, strict=True):
            self._awaits(group.prompt_id, -group.num_rollouts)
            self._count(group)
            flight.arrived[0] = group
            flight.generated.append(group)
            self._complete(flight, [group])

    def ask_again(self, flight: Flight) -> list[Request]:
        """What has not come of a step, to be sent out once more; it is counted."""
        self.spent.asked_again += sum(request.num_rollouts for request in flight.open)
        return flight.open

    def give_up(self, flight: Flight, measure: Answer | None = None) -> list[Request]:
        """Wait no longer for what is still open in a step: the strategy goes on without it.

        Where a part of a group has come, that part is the group; where nothing has, the strategy
        gets a group without rollouts, which is trained on nowhere.

        Returns:
            The requests of the next round, where there is one.
        """
        flight.lossy = True
        self._lose(flight)
        begun = self._turn_to(flight)
        try:
            return self._go_on(flight, measure)
        finally:
            self.ledger.step = begun

    def finish(self, flight: Flight) -> StepOutcome:
        """Take a step's outcome; steps may be finished in any order.

        Raises:
            ValueError: it still waits for rollouts.
        """
        if flight.outcome is None:
            raise ValueError(f"step {flight.index} still waits for {flight.open}")
        self._remove(flight)
        return flight.outcome

    def drop(self, flight: Flight) -> None:
        """Give up a step as a whole; what has not come of it is offered again before the rest."""
        if flight.outcome is None:
            self.stream.put_back([request.prompt_id for request in flight.open])
            self._lose(flight)
            flight.ask([])  # it waits for nothing any more
        self.spent.dropped_steps += 1
        self._remove(flight)

    # -- saving -----------------------------------------------------------------------------

    def state_dict(self, pack: Handles = tuple) -> dict[str, Any]:
        """Plain values and arrays.

        Args:
            pack: makes them of the handles of groups that the strategy holds.
        """
        state = {
            "strategy_name": self.strategy.name,
            "strategy": pack_groups(self.strategy.state_dict(), pack),
            "stream": self.stream.state_dict(),
            "ledger": self.ledger.state_dict(),
            "spent": asdict(self.spent),
        }
        if self._flights:
            state["flights"] = pack_groups(pack_flights(self.flights, self._past), pack)
        return state

    def load_state_dict(
        self, state: dict[str, Any], unpack: Handles = tuple, moves: Moves | None = None
    ) -> None:
        """Continue where the saved driver stood.

        Steps that were in flight are in flight again, and wait for what had not come; the engine
        asks for it again (`ask_again`), or `step` does. Where the strategy cannot go on with a step
        its groups are trained on as they come; where prompts have moved the step is dropped.

        Args:
            unpack: makes handles of what `pack` gave.
            moves: where the prompts of the saved pool are now; None where all are in their rows.

        Raises:
            UserError: the checkpoint was made by another strategy or on another pool, or the
                strategy's state cannot follow the moves.
        """
        if state["strategy_name"] != self.strategy.name:
            raise UserError(
                f"the checkpoint was made by strategy {state['strategy_name']!r}, not "
                f"{self.strategy.name!r}; resume with the same strategy"
            )
        self.stream.load_state_dict(state["stream"], moves)
        self.ledger.load_state_dict(state["ledger"])
        self.strategy.load_state_dict(unpack_groups(state["strategy"], unpack))
        if moves is not None:
            self.ledger.move(moves)
            self.strategy.move(moves)
        self.spent = Spent(**state["spent"])
        self._flights, self._speaker = {}, None
        self.ledger.in_flight.clear()
        saved = unpack_groups(state.get("flights", []), unpack)
        found, self._past = restarted(saved, self.strategy, self.stream, self.ledger, moves)
        for flight in found:
            self._flights[flight.index] = flight
            for request in flight.open:
                self._awaits(request.prompt_id, request.num_rollouts)
            if moves is not None and flight.outcome is None:
                self.drop(flight)
            else:
                self.spent.plain_steps += flight.plain


def _check_measures(strategy: Strategy, can_measure: frozenset[str]) -> None:
    missing = strategy.measures - can_measure
    if missing:
        raise UserError(
            f"strategy {strategy.name!r} needs {', '.join(sorted(missing))} of the policy, "
            "which this engine cannot measure; choose another strategy"
        )

"""Steps in flight as plain values, and their generators run again up to where they were."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dopr.core.flight import Flight, Seen
from dopr.core.ledger import Ledger
from dopr.core.ledger_past import LedgerPast
from dopr.core.moves import Moves
from dopr.core.outcome import StepOutcome
from dopr.core.strategy import Group, Measure, Request, StepPlan, Strategy
from dopr.core.stream import PromptStream

logger = logging.getLogger(__name__)


def _ended() -> StepPlan:
    return []
    yield []


ENDED: StepPlan = _ended()  # the plan of a step that asks no generator
ENDED.close()


class _Strays(Exception):
    """A strategy does not ask for what it asked for before."""


def pack_flights(flights: Sequence[Flight], past: LedgerPast | None) -> list[dict[str, Any]]:
    """Plain values, arrays and groups.

    Args:
        flights: in the order in which they were begun.
        past: of the ledger, where they can be run again.
    """
    return [_pack_flight(flight, past) for flight in flights]


def _pack_flight(flight: Flight, past: LedgerPast | None) -> dict[str, Any]:
    outcome = flight.outcome
    return {
        "index": flight.index,
        "asked": [[request.prompt_id, request.num_rollouts] for request in flight.asked],
        "arrived": flight.arrived,
        "generated": flight.generated,
        "prompts": sorted(flight.prompts),
        "rounds": flight.rounds,
        "lossy": flight.lossy,
        "plain": flight.plain,
        "only_round": flight.only_round,
        "explained": flight.explained,
        "outcome": None if outcome is None else {"kept": outcome.kept, "metrics": outcome.metrics},
        "seen": [_pack_seen(seen, past) for seen in flight.seen],
    }


def _pack_seen(seen: Seen, past: LedgerPast | None) -> dict[str, Any]:
    assert past is not None
    ids, rows = past.since(seen.ledger)
    return {
        "strategy": seen.strategy,
        "stream": seen.stream,
        "ledger": {"position": seen.ledger, "ids": ids, "rows": rows},
        "in_flight": [list(pair) for pair in seen.in_flight.items()],
        "answer": seen.answer,
        "measured": seen.measured,
    }


def restarted(
    saved: Sequence[dict[str, Any]],
    strategy: Strategy,
    stream: PromptStream,
    ledger: Ledger,
    moves: Moves | None,
) -> tuple[list[Flight], LedgerPast | None]:
    """The saved steps, and the ledger's past that those rest on with which the strategy goes on.

    Strategy, stream and ledger are taken back to where each step was begun, and are then again as
    they are given.

    Args:
        saved: what `pack_flights` gave, its groups unpacked.
        strategy, stream, ledger: as they were when it was saved.
        moves: prompts that have moved since: the strategy cannot go on with any step then.
    """
    ledger.before_change = None
    if not saved:
        return [], None
    now = strategy.state_dict(), stream.state_dict(), ledger.state_dict()
    found = []
    for values in saved:
        flight = _unpack_flight(values)
        if flight.outcome is None and moves is None and not flight.only_round:
            try:
                flight.plan = _run_again(values["seen"], flight, strategy, stream, ledger, now[2])
            except _Strays:
                flight.plain = flight.only_round = True
        if moves is not None:
            _follow(flight, moves)
        found.append(flight)
    strategy.load_state_dict(now[0])
    stream.load_state_dict(now[1])
    ledger.load_state_dict(now[2])
    ledger.in_flight.clear()
    plain = sum(flight.plain for flight in found)
    if plain:
        logger.warning("of %d steps in flight the groups are trained on as they come", plain)
    return found, _join_pasts(saved, found, ledger)


def _unpack_flight(values: dict[str, Any]) -> Flight:
    flight = Flight(values["index"], ENDED)
    flight.asked = [Request(prompt, count) for prompt, count in values["asked"]]
    flight.arrived = list(values["arrived"])
    flight.generated = list(values["generated"])
    flight.prompts = set(values["prompts"])
    flight.rounds, flight.lossy = values["rounds"], values["lossy"]
    flight.plain, flight.only_round = values["plain"], values["only_round"]
    flight.explained = values["explained"]
    if values["outcome"] is not None:
        kept, said = values["outcome"]["kept"], values["outcome"]["metrics"]
        flight.outcome = StepOutcome(kept, flight.generated, flight.index, said)
    return flight


def _run_again(
    seen: Sequence[dict[str, Any]],
    flight: Flight,
    strategy: Strategy,
    stream: PromptStream,
    ledger: Ledger,
    now: dict[str, Any],
) -> StepPlan:
    """A generator that stands where the saved one stood.

    Raises:
        _Strays: it asks for something else.
    """
    plan, asked = strategy.step(stream, ledger), None
    for look in seen:
        strategy.load_state_dict(look["strategy"])
        stream.load_state_dict(look["stream"])
        ledger.load_state_dict(now)
        ledger.load_rows(look["ledger"]["ids"], look["ledger"]["rows"])
        ledger.step = flight.index
        ledger.in_flight.clear()
        ledger.in_flight.update(dict(look["in_flight"]))
        asked = _next_requests(plan, look["answer"], list(look["measured"]))
    if asked is None or asked != flight.asked:
        raise _Strays
    return plan


def _next_requests(plan: StepPlan, answer: Any, measured: list[Any]) -> list[Request]:
    try:
        while True:
            asked = plan.send(answer)
            if isinstance(asked, Measure):
                if not measured:
                    raise _Strays
                answer = np.asarray(measured.pop(0))
            elif asked:
                return asked
            else:
                answer = []
    except StopIteration:
        raise _Strays from None


def _follow(flight: Flight, moves: Moves) -> None:
    """Let a step say in the rows of now what it waits for, or what came of it."""
    pairs = [
        (Request(int(moves.row[request.prompt_id]), request.num_rollouts), group)
        for request, group in zip(flight.asked, flight.arrived, strict=True)
    ]
    there = [(request, group) for request, group in pairs if request.prompt_id >= 0]
    flight.asked = [request for request, _ in there]
    flight.arrived = [group for _, group in there]
    flight.generated = _moved(flight.generated, moves)
    if flight.outcome is not None:
        kept = _moved(flight.outcome.kept, moves)
        flight.outcome = replace(flight.outcome, kept=kept, generated=flight.generated)


def _moved(groups: Sequence[Group], moves: Moves) -> list[Group]:
    """In the rows of now; without those whose prompts are gone."""
    rows = [int(moves.row[group.prompt_id]) for group in groups]
    return [
        replace(group, prompt_id=row) for group, row in zip(groups, rows, strict=True) if row >= 0
    ]


def _join_pasts(
    saved: Sequence[dict[str, Any]], found: Sequence[Flight], ledger: Ledger
) -> LedgerPast | None:
    """One past for all steps that go on, and what each of them has seen as positions in it."""
    looks = [
        (look["ledger"]["position"], look, flight)
        for values, flight in zip(saved, found, strict=True)
        for look in values["seen"]
        if flight.outcome is None and not flight.only_round
    ]
    looks.sort(key=lambda entry: entry[0])
    changes = []
    for position, (_, look, flight) in enumerate(looks):
        # Each holds all that has changed since, so that the first to hold a row knows it best.
        changes.append((look["ledger"]["ids"], look["ledger"]["rows"]))
        flying = dict(look["in_flight"])
        states = look["strategy"], look["stream"]
        flight.seen.append(Seen(*states, position, flying, look["answer"], look["measured"]))
    return LedgerPast(ledger, changes) if looks else None

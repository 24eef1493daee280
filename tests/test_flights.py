"""Several steps of a driver in flight at once: what is known, counted, saved and lost."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.driver import Driver, Flight
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import Group, Request, Strategy, make_strategy
from dopr.strategies.registry import STRATEGIES
from pools import group
from scripted_engine import Engine, needs_no_files, new_driver

# Those whose steps take several rounds.
ROUNDS = [n for n in needs_no_files() if STRATEGIES.get(n) and STRATEGIES[n].pays == "post"]


class Two(Strategy):
    """Two rounds of one rollout on the next prompt; notes the steps it saw."""

    def step(self, prompts: PromptStream, ledger: Ledger) -> Any:
        begun = ledger.step
        i = int(prompts.draw(1)[0])
        first = yield [Request(i, 2)]
        assert ledger.step == begun
        second = yield [Request(i, 2)]
        return [first[0].join(second[0])]


def driver_of(strategy: Strategy, size: int = 8, **options: Any) -> Driver:
    return Driver(strategy, PromptStream(size, shuffle=False), **options)


def answers(flight: Flight, reward: float = 0.0) -> list[Group]:
    return [group(r.prompt_id, [reward] * r.num_rollouts) for r in flight.open]


def test_steps_are_finished_in_any_order_and_each_waits_for_its_own_rounds() -> None:
    driver = driver_of(Two())
    first, second, third = (driver.begin() for _ in range(3))
    assert [f.index for f in driver.flights] == [0, 1, 2] and driver.ledger.step == 3
    assert driver.ledger.in_flight == {0: 2, 1: 2, 2: 2}
    assert driver.deliver(third, answers(third)) == [Request(2, 2)]
    assert driver.deliver(third, answers(third, 1.0)) == []
    assert third.outcome is not None and first.outcome is None and second.outcome is None
    outcome = driver.finish(third)
    assert outcome.step == 2 and outcome.kept[0].rewards.tolist() == [0, 0, 1, 1]
    assert driver.ledger.in_flight == {0: 2, 1: 2} and driver.flights == [first, second]
    with pytest.raises(ValueError, match="still waits"):
        driver.finish(first)
    assert driver.spent.rollouts == 4 and driver.spent.kept == 4


def test_two_rounds_of_a_step_are_one_visit_though_other_steps_came_between() -> None:
    class Same(Two):
        def step(self, prompts: PromptStream, ledger: Ledger) -> Any:
            for _ in range(2):
                yield [Request(5, 2)]
            return []

    driver = driver_of(Same())
    early, late = driver.begin(), driver.begin()
    driver.deliver(early, [group(5, [1, 1])])
    driver.deliver(late, [group(5, [0, 1], entropy=2.0)])
    driver.deliver(early, [group(5, [1, 1], entropy=3.0)])
    ledger = driver.ledger
    assert ledger.visits[5] == 2 and ledger.rollouts[5] == 6
    # What is newest is what was generated last, not what came last.
    assert ledger.last_step[5] == 1 and ledger.within[5] == 0.25 and ledger.entropy[5] == 2.0
    assert ledger.mean[5] == pytest.approx(5 / 6)


def test_a_group_may_come_in_parts_and_what_comes_too_late_is_surplus() -> None:
    driver = driver_of(make_strategy("uniform-1", num_generations=4))
    flight = driver.begin()
    assert driver.deliver(flight, [group(0, [1.0])]) == []
    assert flight.open == [Request(0, 3)] == driver.ask_again(flight)
    driver.deliver(flight, [group(0, [0, 0, 1])])
    driver.deliver(flight, [group(0, [0, 1, 1])])
    assert driver.finish(flight).kept[0].rewards.tolist() == [1, 0, 0, 1]
    spent = driver.spent
    assert (spent.rollouts, spent.asked_again, spent.surplus_rollouts) == (7, 3, 3)
    assert driver.ledger.rollouts[0] == 4 and driver.ledger.visits[0] == 1


def test_what_is_given_up_is_counted_and_not_trained_on() -> None:
    driver = driver_of(make_strategy("uniform", prompts_per_step=3, num_generations=4))
    flight = driver.begin()
    driver.deliver(flight, [group(1, [1, 0, 1, 0]), group(2, [1.0])])
    assert driver.give_up(flight) == [] and driver.ledger.in_flight == {}
    kept = driver.finish(flight).kept
    assert [(g.prompt_id, g.num_rollouts) for g in kept] == [(1, 4), (2, 1)]
    assert (driver.spent.lost_rollouts, driver.spent.rollouts, driver.spent.kept) == (7, 5, 5)
    assert driver.ledger.visits[:3].tolist() == [0, 1, 1]


def test_a_dropped_steps_prompts_are_offered_again_first() -> None:
    driver = driver_of(make_strategy("uniform", prompts_per_step=2, num_generations=2))
    first, second = driver.begin(), driver.begin()
    driver.deliver(first, [group(0, [1, 0])])
    driver.drop(first)
    assert [r.prompt_id for r in second.open] == [2, 3]
    assert [r.prompt_id for r in driver.begin().open] == [1, 4]
    assert (driver.spent.dropped_steps, driver.spent.lost_rollouts) == (1, 2)


def test_a_prompt_in_flight_is_not_offered_unless_there_is_no_other() -> None:
    stream = PromptStream(6, seed=4)
    stream.withheld = {0: 8, 1: 8}
    assert set(stream.draw(4).tolist()) == {2, 3, 4, 5}
    stream.withheld = {1: 8}
    assert stream.draw(1).tolist() == [0]
    assert sorted(stream.draw(6).tolist()) == [0, 2, 3, 4, 5]  # what is free of six
    stream.withheld = dict.fromkeys(range(6), 8)
    assert sorted(stream.draw(6).tolist()) == list(range(6))
    assert len(stream.draw(9)) == 9


@given(st.integers(1, 12), st.lists(st.integers(1, 14), min_size=1, max_size=8), st.integers(0, 99))
@settings(deadline=None)
def test_withholding_loses_no_prompt_and_repeats_none_in_a_draw(
    size: int, counts: list[int], seed: int
) -> None:
    stream, rng = PromptStream(size, seed), np.random.default_rng(seed)
    for count in counts:
        stream.withheld = dict.fromkeys(rng.integers(size, size=rng.integers(size + 1)).tolist(), 1)
        drawn = stream.draw(count).tolist()
        assert count / 2 <= len(drawn) <= count
        if count <= size:
            assert len(set(drawn)) == len(drawn)
        if count <= 2 * (size - len(stream.withheld)):
            assert not set(drawn) & stream.withheld.keys()
    stream.withheld = {}
    state = stream.state_dict()
    again = PromptStream(size, seed + 1)
    again.load_state_dict(state)
    rest = stream.draw(size).tolist()
    assert sorted(rest) == list(range(size)) and rest == again.draw(size).tolist()


def test_a_delay_of_k_chooses_without_the_last_k_steps() -> None:
    class Watching(Strategy):
        def step(self, prompts: PromptStream, ledger: Ledger) -> Any:
            known.append((ledger.step, ledger.visited_count, sorted(ledger.in_flight)))
            return (yield [Request(int(prompts.draw(1)[0]), 2)])

    known: list[tuple[int, int, list[int]]] = []
    driver = driver_of(Watching(), feedback_delay=2)
    done = [
        driver.step(lambda asked: [group(r.prompt_id, [0, 1]) for r in asked]) for _ in range(4)
    ]
    assert [outcome.step for outcome in done] == [0, 1, 2, 3]
    assert [outcome.kept[0].prompt_id for outcome in done] == [0, 1, 2, 3]
    assert known == [
        (0, 0, []),
        (1, 0, [0]),
        (2, 0, [0, 1]),
        (3, 1, [1, 2]),
        (4, 2, [2, 3]),
        (5, 3, [3, 4]),
    ]
    assert driver.spent.rollouts == 8 and driver.ledger.rollouts.sum() == 8


def test_a_step_that_fails_is_begun_anew_and_leaves_nothing_in_flight() -> None:
    def fail(asked: list[Request]) -> list[Group]:
        raise KeyboardInterrupt

    driver = driver_of(Two())
    with pytest.raises(KeyboardInterrupt):
        driver.step(fail)
    assert driver.flights == [] and driver.ledger.in_flight == {} and driver.ledger.step == 0


def scrambled(driver: Driver, engine: Engine, rng: np.random.Generator, steps: int) -> list[Any]:
    """So many steps with up to five in flight, groups coming in a random order; some get lost."""
    done: list[Any] = []
    while len(done) < steps:
        while len(driver.flights) < 5:
            driver.begin(engine.measure)
        flight = driver.flights[rng.integers(len(driver.flights))]
        if flight.outcome is None and rng.random() < 0.05:
            driver.give_up(flight, engine.measure)
        elif flight.outcome is None:
            asked = flight.open
            part = [asked[i] for i in rng.permutation(len(asked))[: rng.integers(1, 4)]]
            engine.step = flight.index
            driver.deliver(flight, engine.roll_out(part), engine.measure)
        else:
            outcome = driver.finish(flight)
            assert all(g.num_rollouts for g in outcome.kept)
            done.append((outcome.step, Engine.describe(outcome)))
    return done


@pytest.mark.parametrize("name", needs_no_files())
def test_every_strategy_runs_out_of_order_counts_right_and_resumes_in_flight(name: str) -> None:
    def start(seed: int) -> tuple[Driver, Engine, np.random.Generator]:
        return new_driver(name, 30, 4, seed), Engine(30, "verdict", 3), np.random.default_rng(5)

    driver, engine, rng = start(1)
    scrambled(driver, engine, rng, 12)
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), driver.state_dict())
        saved = load_state(Path(folder))
    flying = dict(driver.ledger.in_flight)
    copies = np.random.default_rng(), Engine(30, "verdict", 3)
    copies[0].bit_generator.state = rng.bit_generator.state
    copies[1].rng.bit_generator.state = engine.rng.bit_generator.state
    copies[1].rewards_of = list(engine.rewards_of)
    expected = scrambled(driver, engine, rng, 8)

    resumed = start(2)[0]
    resumed.load_state_dict(saved)
    assert resumed.ledger.in_flight == flying and resumed.spent.dropped_steps == 0
    assert scrambled(resumed, copies[1], copies[0], 8) == expected
    assert resumed.spent == driver.spent
    spent, made = resumed.spent, sum(map(len, engine.rewards_of))
    assert spent.rollouts - resumed.strategy.prepaid_rollouts == made
    assert resumed.ledger.rollouts.sum() == made - spent.surplus_rollouts


@pytest.mark.parametrize("name", needs_no_files())
def test_every_strategy_resumes_under_a_delay_as_if_nothing_had_been(name: str) -> None:
    def start(seed: int) -> Driver:
        driver = new_driver(name, 30, 4, seed)
        driver.feedback_delay = 3
        return driver

    def run(driver: Driver, engine: Engine, steps: int) -> list[Any]:
        return [engine.describe(driver.step(engine.roll_out, engine.measure)) for _ in range(steps)]

    driver, engine = start(1), Engine(30, "verdict", 3)
    run(driver, engine, 9)
    saved, state = driver.state_dict(), engine.rng.bit_generator.state
    expected = run(driver, engine, 9)
    resumed, engine = start(2), Engine(30, "verdict", 3)
    engine.rng.bit_generator.state = state
    resumed.load_state_dict(saved)
    again = run(resumed, engine, 9)
    # Handles are serial numbers of the engine, which has begun to count anew.
    assert [generated for generated, _ in again] == [generated for generated, _ in expected]
    assert resumed.spent == driver.spent


def test_steps_that_are_not_restorable_keep_what_comes_and_are_counted() -> None:
    def start() -> Driver:
        strategy = make_strategy("pods", prompts_per_step=2, num_generations=8)
        return driver_of(strategy, restorable=False)

    driver = start()
    flights = [driver.begin() for _ in range(2)]
    driver.deliver(flights[1], [group(2, [0, 1] * 4)])
    resumed = start()
    resumed.load_state_dict(driver.state_dict())
    spent = resumed.spent
    assert (spent.rollouts, spent.plain_steps, spent.lost_rollouts) == (8, 2, 0)
    second = resumed.flights[1]
    assert second.open == [Request(3, 8)] and resumed.ledger.in_flight == {0: 8, 1: 8, 3: 8}
    resumed.deliver(second, answers(second))
    kept = resumed.finish(second).kept
    # Not two of eight, as the strategy would have it: its code for this step is gone.
    assert [(g.prompt_id, g.num_kept) for g in kept] == [(2, 8), (3, 8)]


def test_steps_in_flight_are_dropped_where_prompts_have_moved() -> None:
    def start(size: int) -> Driver:
        strategy = make_strategy("uniform", prompts_per_step=2, num_generations=2)
        return driver_of(strategy, size)

    driver = start(8)
    first, _ = driver.begin(), driver.begin()
    driver.deliver(first, [group(0, [0, 1])])
    keys = np.arange(8, dtype=np.uint64)
    moves = Moves.between(keys, np.array([7, 6, 5, 4, 3, 2], dtype=np.uint64))
    resumed = start(6)
    resumed.load_state_dict(driver.state_dict(), moves=moves)
    # Prompts 0 and 1 are gone; 2 and 3 wait in rows 5 and 4 and are offered first.
    assert resumed.flights == [] and resumed.spent.dropped_steps == 2
    assert resumed.ledger.in_flight == {} and resumed.spent.rollouts == 2
    assert [r.prompt_id for r in resumed.begin().open] == [5, 4]


def test_a_resumed_step_rolls_out_only_what_had_not_come() -> None:
    def start() -> Driver:
        return driver_of(make_strategy("uniform", prompts_per_step=2, num_generations=4))

    driver, asked = start(), []
    flight = driver.begin()
    driver.deliver(flight, [group(0, [1, 0])])
    resumed = start()
    resumed.load_state_dict(driver.state_dict())

    def roll_out(requests: list[Request]) -> list[Group]:
        asked.extend(requests)
        return [group(r.prompt_id, [1] * r.num_rollouts) for r in requests]

    kept = resumed.step(roll_out).kept
    assert asked == [Request(0, 2), Request(1, 4)]
    assert [g.rewards.tolist() for g in kept] == [[1, 0, 1, 1], [1, 1, 1, 1]]
    assert resumed.spent.rollouts == 8


def test_groups_of_several_steps_at_once_are_noted_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    together, single = Ledger(40, 0.9), Ledger(40, 0.9)
    for begun in range(0, 180, 9):
        ids = rng.choice(40, size=9, replace=False).tolist()
        groups = [group(i, rng.integers(2, size=4), entropy=rng.random()) for i in ids]
        # Some of the steps were begun before others whose groups are there already.
        steps = begun + rng.permutation(9) - 3 * (rng.random() < 0.5)
        steps = np.maximum(steps, 0)
        together.observe_steps(groups, steps)
        for one, single.step in zip(groups, steps.tolist(), strict=True):
            single.observe([one])
        assert together.step == 0
    ours, theirs = together.state_dict(), single.state_dict()
    for column in ours.keys() - {"scalars"}:
        assert np.array_equal(ours[column], theirs[column], equal_nan=True), column


class Copies(Strategy):
    """Always the same prompt."""

    def step(self, prompts: PromptStream, ledger: Ledger) -> Any:
        return (yield [Request(0, 2)])


def test_dropping_one_of_two_steps_on_a_prompt_leaves_the_other_in_flight() -> None:
    driver = driver_of(Copies())
    first, second = driver.begin(), driver.begin()
    driver.drop(first)
    assert driver.ledger.in_flight == {0: 2} and driver.spent.lost_rollouts == 2
    driver.deliver(second, answers(second))
    driver.finish(second)
    assert not driver.ledger.in_flight


def test_a_finished_step_follows_its_prompts_to_other_rows() -> None:
    driver = driver_of(make_strategy("uniform", prompts_per_step=2, num_generations=2), size=4)
    driver.begin()  # of prompts 0 and 1, not finished
    done = driver.begin()
    driver.deliver(done, [group(2, [0, 1]), group(3, [1, 1])])
    resumed = driver_of(make_strategy("uniform", prompts_per_step=2, num_generations=2), size=2)
    resumed.load_state_dict(driver.state_dict(), moves=Moves(np.array([-1, 1, 0, -1]), 2))
    (flight,) = resumed.flights
    outcome = resumed.finish(flight)
    assert [g.prompt_id for g in outcome.kept] == [g.prompt_id for g in outcome.generated] == [0]


def test_a_pool_that_is_nearly_all_in_flight_is_not_gone_through_again_and_again() -> None:
    stream = PromptStream(8)
    stream.withheld = dict.fromkeys(range(7), 4)
    for _ in range(5):
        assert 7 in stream.draw(4).tolist()
    assert stream.epoch <= 4  # of 20 draws from 8 prompts

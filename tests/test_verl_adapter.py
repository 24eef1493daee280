"""The engine-neutral half of the verl adapter, against an engine made of a dictionary.

What needs verl itself is in tests/with_verl (`make test-verl`).
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dopr import UserError
from dopr.core.advantages import compute_advantages
from dopr.core.driver import Driver, StepOutcome
from dopr.engines.adapter import (
    EngineSettings,
    Generated,
    TrainingBatch,
    assemble,
    make_engine_driver,
    make_groups,
    read_engine_settings,
    working_strategies,
)
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import STRATEGIES, Group, Request


class Engine:
    """Rolls out prompts whose success rates are known, and stores the sequences by key."""

    def __init__(self, rates: np.ndarray, seed: int = 0) -> None:
        self.rates, self.rng = rates, np.random.default_rng(seed)
        self.store: dict[str, float] = {}
        self.rounds: list[list[Request]] = []

    def reward(self, prompt: int) -> float:
        return float(self.rng.random() < self.rates[prompt])

    def roll_out(self, requests: list[Request]) -> list[Group]:
        uids = [f"{len(self.rounds)}-{i}" for i in range(len(requests))]
        self.rounds.append(requests)
        found = [
            Generated(
                f"{uid}_{n}_0", uid, n, 0, float(self.rng.random() < self.rates[r.prompt_id]), 5
            )
            for uid, r in zip(uids, requests, strict=True)
            for n in range(r.num_rollouts)
        ]
        self.store |= {piece.key: piece.reward for piece in found}
        order = self.rng.permutation(len(found))
        return make_groups(requests, uids, [found[i] for i in order], len(self.rounds))


def driver_of(strategy: str, size: int = 40, **options: object) -> Driver:
    return make_engine_driver(
        EngineSettings(strategy, options), size, num_generations=4, prompts_per_step=6, seed=3
    )


def step(driver: Driver, engine: Engine) -> TrainingBatch:
    return assemble(driver.step(engine.roll_out), driver.ledger, "group")


# -- settings -----------------------------------------------------------------------------------


def test_settings_come_from_the_section_or_are_defaults() -> None:
    assert read_engine_settings(None) == EngineSettings()
    read = read_engine_settings(
        {"strategy": "mopps", "strategy_args": {"candidates": 9}, "seed": 4}
    )
    assert (read.strategy, read.strategy_args, read.seed) == ("mopps", {"candidates": 9}, 4)


@pytest.mark.parametrize(
    ("section", "named"),
    [({"stratgy": "dopr"}, "'strategy'"), ({"max_rounds": 0}, "max_rounds"),
     ({"strategy_args": "k=1"}, "mapping")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(section: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        read_engine_settings(section)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - set(working_strategies())))
def test_a_strategy_that_needs_more_is_refused_with_those_that_work(name: str) -> None:
    with pytest.raises(UserError) as refused:
        if name == "oracle":
            driver_of(name, samples=4)
        else:
            driver_of(name)
    assert "strategies that work with it: bots" in str(refused.value)
    assert "dopr" in str(refused.value)


def test_prompts_per_step_left_open_is_the_engines_batch() -> None:
    engine = Engine(np.full(40, 0.5))
    step(driver_of("uniform"), engine)
    assert [len(requests) for requests in engine.rounds] == [6]
    assert {request.num_rollouts for request in engine.rounds[0]} == {4}


# -- groups -------------------------------------------------------------------------------------


def test_groups_are_in_the_order_of_the_requests_whatever_arrives_first() -> None:
    found = [
        Generated("b_1_0", "b", 1, 0, 1.0, 7),
        Generated("a_0_0", "a", 0, 0, 0.5, 3),
        Generated("b_0_0", "b", 0, 0, 0.0, 6),
    ]
    groups = make_groups([Request(9, 1), Request(4, 2)], ["a", "b"], found, step=2)
    assert [group.prompt_id for group in groups] == [9, 4]
    assert [group.rewards.tolist() for group in groups] == [[0.5], [0.0, 1.0]]
    assert [group.tokens.tolist() for group in groups] == [[3], [6, 7]]


def test_a_lost_rollout_is_unscored_and_one_of_several_turns_counts_once() -> None:
    found = [
        Generated("a_2_1", "a", 2, 1, 1.0, 4),
        Generated("a_2_0", "a", 2, 0, 9.0, 3),
        Generated("a_0_0", "a", 0, 0, 0.0, 2),
    ]
    (group,) = make_groups([Request(0, 3)], ["a"], found, step=0)
    assert np.array_equal(group.rewards, [0.0, np.nan, 1.0], equal_nan=True)
    assert group.tokens.tolist() == [2, 0, 7]
    batch = assemble(StepOutcome([group], [group]), driver_of("uniform").ledger, "group")
    assert batch.keys == ["a_0_0", "a_2_0", "a_2_1"] and not batch.dropped


def test_a_reward_that_is_not_finite_is_none() -> None:
    rewards = (1.0, np.inf, -np.inf)
    found = [Generated(f"a_{i}_0", "a", i, 0, reward, 3) for i, reward in enumerate(rewards)]
    (group,) = make_groups([Request(0, 3)], ["a"], found, step=0)
    assert group.scored.tolist() == [1.0] and group.tokens.tolist() == [3, 3, 3]


# -- what is trained on -------------------------------------------------------------------------


def test_whole_groups_are_left_to_the_engine() -> None:
    engine = Engine(np.full(40, 0.5))
    batch = step(driver_of("mopps", prompts_per_step=3), engine)
    assert sorted(batch.keys) == sorted(engine.store)
    assert not batch.dropped and not batch.advantages
    assert set(batch.prompts.values()) == {request.prompt_id for request in engine.rounds[0]}


def test_whole_groups_of_which_something_was_expected_are_held_against_that() -> None:
    driver, engine = driver_of("dopr", prompts_per_step=3), Engine(np.full(40, 0.5))
    outcome = driver.step(engine.roll_out)
    assert not assemble(outcome, driver.ledger, "group", "group").advantages
    batch = assemble(outcome, driver.ledger, "none")
    for group in outcome.kept:
        assert group.expected_mean is not None and 0 < group.expected_mean < 1
        for stored, reward in zip(group.handle, group.rewards, strict=True):
            (key,) = stored.keys
            assert batch.advantages[key] == pytest.approx(reward - group.expected_mean)
    scaled = assemble(outcome, driver.ledger, "group").advantages
    first = outcome.kept[0]
    assert first.expected_std is not None
    (key,) = first.handle[0].keys
    assert scaled[key] == pytest.approx(batch.advantages[key] / first.expected_std, rel=1e-3)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UserError, match=r"dopr\.advantage_estimator 'forcast'.*forecast"):
        read_engine_settings({"advantage_estimator": "forcast"})


@pytest.mark.parametrize("name", working_strategies())
def test_every_working_strategy_trains_on_what_it_paid_for(name: str) -> None:
    engine = Engine(np.linspace(0, 1, 40))
    driver = driver_of(name)
    for _ in range(4):
        before = set(engine.store)
        batch = step(driver, engine)
        new = set(engine.store) - before
        assert batch.keys and len(set(batch.keys)) == len(batch.keys)
        assert set(batch.keys) | set(batch.dropped) == new
        assert not set(batch.keys) & set(batch.dropped)
        assert set(batch.advantages) <= set(batch.keys)
    assert driver.spent.rollouts == len(engine.store)


def test_cut_groups_and_joined_ones_get_the_advantages_of_the_trainer() -> None:
    rewards = np.array([0.0, 1.0, 1.0, 0.0])
    one, other = (
        make_groups(
            [Request(5, 4)],
            [uid],
            [Generated(f"{uid}_{i}_0", uid, i, 0, r, 1) for i, r in enumerate(rewards)],
            0,
        )[0]
        for uid in ("a", "b")
    )
    ledger = driver_of("uniform").ledger
    cut = one.keep(np.array([1, 3]))
    batch = assemble(StepOutcome([cut], [one, other]), ledger, "none")
    assert batch.keys == ["a_1_0", "a_3_0"] and len(batch.dropped) == 6
    assert batch.advantages == {"a_1_0": 0.5, "a_3_0": -0.5}
    joined = one.join(other)
    batch = assemble(StepOutcome([joined], [one, other]), ledger, "group")
    expected = compute_advantages([joined], ledger)[0]
    assert list(batch.advantages.values()) == pytest.approx(expected.tolist())
    assert len(batch.keys) == 8


def test_a_single_rollout_has_no_advantage() -> None:
    (alone,) = make_groups([Request(0, 1)], ["a"], [Generated("a_0_0", "a", 0, 0, 1.0, 1)], 0)
    batch = assemble(StepOutcome([alone], [alone]), driver_of("uniform").ledger, "group")
    assert batch.advantages == {"a_0_0": 0.0}


def test_where_nothing_is_kept_the_engine_gets_a_group_without_effect() -> None:
    driver = driver_of("uniform")
    outcome = driver.step(Engine(np.full(40, 0.5)).roll_out)
    batch = assemble(StepOutcome([], outcome.generated), driver.ledger, "group")
    assert len(batch.keys) == 4 and set(batch.advantages) == set(batch.keys)
    assert not any(batch.advantages.values())
    assert len(batch.dropped) == 5 * 4


def test_rollouts_of_an_earlier_step_are_refused() -> None:
    driver, engine = driver_of("uniform"), Engine(np.full(40, 0.5))
    earlier, now = driver.step(engine.roll_out), driver.step(engine.roll_out)
    with pytest.raises(UserError, match="replays = True"):
        assemble(StepOutcome(earlier.kept, now.generated), driver.ledger, "group")


# -- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dopr", "reinforce-ada", "greso"])
def test_a_resumed_run_chooses_what_the_whole_run_chose(name: str, tmp_path: Path) -> None:
    rates = np.linspace(0, 1, 40)
    whole, engine = driver_of(name), Engine(rates)
    for _ in range(3):
        step(whole, engine)
    save_state(tmp_path, whole.state_dict(lambda handle: []))
    resumed = driver_of(name)
    resumed.load_state_dict(load_state(tmp_path))
    for _ in range(3):
        again = Engine(rates, seed=9)
        engine.rounds.clear()
        engine.rng = np.random.default_rng(9)
        assert step(whole, engine).advantages == step(resumed, again).advantages
        assert engine.rounds == again.rounds


# -- without verl -------------------------------------------------------------------------------


def test_importing_without_verl_says_what_is_missing_and_dopr_does_without() -> None:
    script = (
        "import sys\n"
        "sys.modules['verl'] = None\n"
        "import dopr\n"
        "try:\n"
        "    import dopr.engines.verl\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("dopr.engines.verl needs verl 0.9")
    assert len(done.stdout.splitlines()) == 1 and "pip install verl==0.9.1" in done.stdout

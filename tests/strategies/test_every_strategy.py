"""What every strategy must keep to, whatever the pool, the group size and the rewards."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr import UserError
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import make_strategy
from pools import QUANTITIES, group, measurer
from scripted_engine import Engine, needs_no_files, new_driver

STEPS = 40
REWARDS = ("verdict", "signed", "continuous", "unscored", "constant")


@pytest.mark.parametrize("name", needs_no_files())
@given(
    pool=st.integers(1, 40),
    num_generations=st.integers(1, 9),
    rewards=st.sampled_from(REWARDS),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=6, deadline=None)
def test_strategy_runs_repeats_and_resumes(
    name: str, pool: int, num_generations: int, rewards: str, seed: int
) -> None:
    half = STEPS // 2
    driver, engine = new_driver(name, pool, num_generations, seed), Engine(pool, rewards, seed)
    first_half = engine.run(driver, half)
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder), driver.state_dict())
        saved = load_state(Path(folder))
    same_engine = copy.deepcopy(engine)
    second_half = engine.run(driver, half)

    resumed = new_driver(name, pool, num_generations, seed + 1)
    resumed.load_state_dict(saved)
    assert same_engine.run(resumed, half) == second_half
    assert resumed.spent == driver.spent

    again = new_driver(name, pool, num_generations, seed)
    assert Engine(pool, rewards, seed).run(again, half) == first_half


@pytest.mark.parametrize("name", needs_no_files())
def test_every_strategy_is_described(name: str) -> None:
    strategy = make_strategy(name)
    assert strategy.mark in ("V", "S", "T", "I") and strategy.pays in ("pre", "post")
    assert strategy.summary and "arXiv" in strategy.source
    assert strategy.measures <= QUANTITIES


NAMES = (
    "coba-rl",
    "knapsack",
    "cures",
    "vip",
    "prepo",
    "sec",
    "limr",
    "history-variance",
    "oracle",
    "bots",
    "graph",
    "cero",
    "vigor",
    "xrpo",
    "gps",
)

REWARDS_OF = {
    "verdicts": lambda rng, n: (rng.random(n) < 0.5).astype(float),
    "negative": lambda rng, n: -3 * rng.exponential(size=n),
    "some unscored": lambda rng, n: np.where(rng.random(n) < 0.4, np.nan, rng.normal(size=n)),
    "none scored": lambda rng, n: np.full(n, np.nan),
    "always right": lambda rng, n: np.ones(n),
    "always wrong": lambda rng, n: np.zeros(n),
    "always seven": lambda rng, n: np.full(n, 7.0),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", REWARDS_OF)
@pytest.mark.parametrize("name", NAMES)
def test_no_reward_and_no_pool_stops_a_strategy_and_it_resumes(
    name: str, kind: str, tmp_path: Path
) -> None:
    def pool(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return lambda requests: [
            group(
                r.prompt_id,
                REWARDS_OF[kind](rng, r.num_rollouts),
                entropies=rng.random(r.num_rollouts),
            )
            for r in requests
        ]

    def driver(size: int, seed: int) -> Driver:
        stream = PromptStream(size, seed)
        stream.categories = np.arange(size) % 2
        return Driver(make_strategy(name), stream, can_measure=QUANTITIES)

    for size in (1, 5, 20):
        first, roll_out = driver(size, 1), pool(0)
        measure = measurer(np.linspace(0, 1, size))
        for _ in range(12):
            assert first.step(roll_out, measure).kept
        assert all(np.isfinite(v) for v in first.strategy.metrics().values())
        save_state(tmp_path, first.state_dict())
        second = driver(size, 2)
        second.load_state_dict(load_state(tmp_path))
        runs = []
        for resumed in (first, second):
            roll_out, measure = pool(5), measurer(np.linspace(0, 1, size))
            kept = [resumed.step(roll_out, measure).kept for _ in range(4)]
            runs.append([[(g.prompt_id, g.num_rollouts) for g in groups] for groups in kept])
        assert runs[0] == runs[1] and first.spent == second.spent


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dapo", {"max_rounds": 0}, "max_rounds is 0"),
        ("greso", {"oversample": 0.5}, "oversample is 0.5"),
        ("greso", {"p_easy": 2}, "p_easy is 2"),
        ("mopps", {"decay": 1.5}, "decay is 1.5"),
        ("speed", {"pilots": 1}, "pilots is 1"),
        ("speed", {"max_rounds": 1}, "max_rounds is 1"),
        ("pilot-commit", {"defer_below": 0.9}, "defer_below"),
        ("pilot-commit", {"order": "varance"}, "did you mean 'variance'"),
        ("lilo", {"candidates_factor": 0}, "candidates_factor is 0"),
        ("pcl", {"penalty": 0}, "penalty is 0"),
        ("dots", {"candidates": 2}, "candidates is 2"),
        ("dots", {"fresh_share": 0}, "fresh_share is 0"),
        ("reinforce-ada", {"keep": 1}, "keep is 1"),
        ("ar3po", {"memory": -1}, "memory is -1"),
        ("pods", {"keep": 1}, "keep is 1"),
        ("vcrl", {"kappa": -1}, "kappa is -1"),
        ("coba-rl", {"min_rollouts": 0}, "min_rollouts is 0"),
        ("coba-rl", {"kappa": 2}, "kappa is 2"),
        ("coba-rl", {"right_from": 0}, "right_from is 0"),
        ("coba-rl", {"tau": 0}, "tau is 0"),
        ("knapsack", {"confidence": 1}, "confidence is 1"),
        ("cures", {"pilots": 1}, "pilots is 1"),
        ("cures", {"right_above": 1}, "right_above is 1"),
        ("vip", {"jitter": 0}, "jitter is 0"),
        ("vip", {"solver": "exct"}, "did you mean 'exact'"),
        ("vip", {"estimator": "rlo"}, "did you mean 'rloo'"),
        ("prepo", {"prompts_per_step": 41}, "candidates"),
        ("prepo", {"relative_to": "groups"}, "did you mean 'group'"),
        ("sec", {"temperature": 0}, "temperature is 0"),
        ("limr", {"threshold": 1.5}, "threshold is 1.5"),
        ("limr", {"history": "no/such.json"}, "no history file"),
        ("history-variance", {"prerun_epochs": 1}, "at least 2"),
        ("oracle", {"refresh": 0}, "refresh is 0"),
        ("one_shot", {"history_group_size": 0}, "history_group_size is 0"),
        ("bots", {"share": 2}, "share is 2"),
        ("bots", {"tau": -1}, "tau is -1"),
        ("graph", {"epsilon": 0}, "epsilon is 0"),
        ("graph", {"states": 0}, "states is 0"),
        ("cero", {"capacity": 0.5}, "capacity is 0.5"),
        ("cero", {"memory": -1}, "memory is -1"),
        ("xrpo", {"base": 1}, "base is 1"),
        ("xrpo", {"bonus_form": "rot"}, "did you mean 'root'"),
        ("gps", {"diversity": -1}, "diversity is -1"),
        ("vigor", {"keep": 0}, "keep is 0"),
        ("vigor", {"growth": 0.5}, "growth is 0.5"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_strategy(name, **options)

"""What every strategy must keep to, whatever the pool, the group size and the rewards."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.driver import Driver, StepOutcome
from dopr.core.errors import UserError
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import PRESETS, STRATEGIES, Group, Measure, Request, make_strategy

STEPS = 40
REWARDS = ("verdict", "signed", "continuous", "unscored", "constant")
MEASURABLE = frozenset({"perplexity", "embedding", "success_rate"})
WIDTH = 5


def needs_no_files() -> list[str]:
    names = []
    for name in (*STRATEGIES, *PRESETS):
        try:
            make_strategy(name)
        except UserError:
            continue
        names.append(name)
    return names


class Engine:
    """Rolls out prompts whose success rates are known and keeps a record of all it did.

    The handle of a group is its serial number, so that a kept group can be traced to its rollouts.
    """

    def __init__(self, pool: int, rewards: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        kinds = self.rng.integers(3, size=pool)  # hopeless, solved, or anything
        self.success = np.select([kinds == 0, kinds == 1], [0.0, 1.0], self.rng.random(pool))
        self.embeddings = self.rng.normal(size=(pool, WIDTH))
        self.rewards = rewards
        self.rewards_of: list[np.ndarray] = []
        self.step = 0

    def reward(self, prompt: int, count: int) -> np.ndarray:
        right = (self.rng.random(count) < self.success[prompt]).astype(float)
        match self.rewards:
            case "signed":
                return 3 * right - 5
            case "continuous":
                return right + self.rng.normal(size=count)
            case "unscored":
                missing = self.rng.random(count) < self.rng.choice([0.0, 0.3, 1.0])
                return np.where(missing, np.nan, right)
            case "constant":
                return np.full(count, -2.0)
        return right

    def roll_out(self, requests: list[Request]) -> list[Group]:
        groups = []
        for request in requests:
            rewards = self.reward(request.prompt_id, request.num_rollouts)
            entropies = self.rng.random(request.num_rollouts)
            groups.append(
                Group(
                    request.prompt_id,
                    rewards,
                    self.rng.integers(1, 9, size=request.num_rollouts),
                    step=self.step,
                    entropy=float(entropies.mean()),
                    entropies=entropies,
                    handle=(len(self.rewards_of),),
                )
            )
            self.rewards_of.append(rewards)
        return groups

    def measure(self, asked: Measure) -> tuple[np.ndarray, int]:
        ids = np.array(asked.prompt_ids, dtype=int)
        values = {
            "embedding": self.embeddings[ids],
            "perplexity": 1 + np.exp(self.embeddings[ids, 0]),
            "success_rate": self.success[ids],
        }
        return values[asked.quantity], len(ids)

    def run(self, driver: Driver, steps: int) -> list[tuple[object, ...]]:
        """So many steps; returns what was generated and kept in each."""
        return [self.describe(self.checked_step(driver)) for _ in range(steps)]

    def checked_step(self, driver: Driver) -> StepOutcome:
        self.step, first = driver.ledger.step, len(self.rewards_of)
        outcome = driver.step(self.roll_out, self.measure)
        # Only what was kept over from earlier steps can spare a step all rollouts.
        assert outcome.kept and (outcome.generated or driver.strategy.replays)
        assert driver.spent.abandoned_steps == 0
        oldest = 0 if driver.strategy.replays else first
        for group in outcome.kept:
            assert group.handle and min(group.handle) >= oldest
            made = np.concatenate([self.rewards_of[serial] for serial in group.handle])
            assert np.array_equal(made, group.rewards, equal_nan=True)
            assert 1 <= group.num_kept <= group.num_rollouts == len(group.tokens)
            assert group.kept is None or len(set(group.kept.tolist())) == group.num_kept
            assert group.baseline is None or np.isfinite(group.baseline)
            assert group.weights is None or np.isfinite(group.weights).all()
        assert all(np.isfinite(value) for value in driver.strategy.metrics().values())
        return outcome

    @staticmethod
    def describe(outcome: StepOutcome) -> tuple[object, ...]:
        generated = [(group.prompt_id, group.num_rollouts) for group in outcome.generated]
        kept = [
            (g.handle, None if g.kept is None else tuple(g.kept.tolist()), g.baseline)
            for g in outcome.kept
        ]
        return generated, kept


def new_driver(name: str, pool: int, num_generations: int, seed: int) -> Driver:
    strategy = make_strategy(name, num_generations=num_generations)
    stream = PromptStream(pool, seed)
    stream.categories = np.arange(pool) % 3
    return Driver(strategy, stream, can_measure=MEASURABLE)


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
    assert strategy.measures <= MEASURABLE

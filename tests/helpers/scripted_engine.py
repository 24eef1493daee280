"""An engine whose success rates are known, that checks what a driver keeps of its rollouts."""

import numpy as np

from dopr.core.driver import Driver, StepOutcome
from dopr.core.errors import UserError
from dopr.core.stream import PromptStream
from dopr.strategies import PRESETS, STRATEGIES, Group, Measure, Request, make_strategy
from pools import QUANTITIES

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
    return Driver(strategy, stream, can_measure=QUANTITIES)

"""Every strategy trains a real (tiny) model: rollouts, measures, replays, resuming."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dopr import DoPRConfig, DoPRTrainer, UserError
from dopr.strategies import (
    PRESETS,
    STRATEGIES,
    Group,
    MoPPS,
    OneShot,
    Request,
    StepPlan,
    Strategy,
    Uniform,
)
from tiny import make_dataset, settings
from training import make_trainer, parameters

NAMES = sorted([*STRATEGIES, *PRESETS])


def trainer(folder: Path, strategy: Strategy | str, rows: int = 24, **changes: Any) -> DoPRTrainer:
    options: dict[str, Any] = {"scale_rewards": "none", "max_steps": 6} | changes
    return make_trainer(folder, strategy, dataset=make_dataset(rows), **options)


def test_a_strategy_given_as_an_object_takes_the_trainers_group_size(tmp_path: Path) -> None:
    usual = settings(tmp_path)["num_generations"]
    assert usual != 8
    for strategy, size in (
        (MoPPS(prompts_per_step=2), usual),
        (Uniform(), usual),
        (OneShot(num_generations=8), 8),
    ):
        made = trainer(tmp_path, strategy)
        assert made.driver.strategy.num_generations == size
    with pytest.raises(UserError, match="it must be a whole number"):
        trainer(tmp_path, MoPPS(prompts_per_step=2.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["uniform", "dopr", "one_shot", "greso"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_pool_smaller_than_the_batch_is_trained_on(tmp_path: Path, name: str, size: int) -> None:
    made = trainer(tmp_path, name, rows=size, max_steps=3, steps_per_generation=4)
    assert made.args.generation_batch_size // made.num_generations > size
    before = parameters(made).clone()
    made.train()
    assert made.state.global_step == 3 and made.driver.spent.rollouts > 0
    assert not torch.equal(parameters(made), before)


@dataclass
class Hoarder(Strategy):
    """Trains on the group of the step before."""

    name, summary, source, mark = "hoarder", "one step late", "test", "I"
    _old: list[Group] = field(default_factory=list, init=False)

    def step(self, prompts: Any, ledger: Any) -> StepPlan:
        fresh = yield [Request(int(prompts.draw(1)[0]), self.num_generations)]
        self._old, old = fresh, self._old
        return old or fresh


def test_old_groups_are_trained_on_only_where_the_strategy_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="replays = True"):
        trainer(tmp_path / "a", Hoarder()).train()
    saying = trainer(tmp_path / "b", type("Saying", (Hoarder,), {"replays": True})())
    saying.train()
    assert saying.state.global_step == 6


def test_the_discount_of_what_is_known_can_be_set(tmp_path: Path) -> None:
    made = trainer(tmp_path, "one_shot", advantage_estimator="dbb", ledger_discount=0.5)
    made.train()
    assert made.driver.ledger.discount == 0.5
    # Six visits of n rollouts: n (1 + 1/2 + ... + 1/32).
    size = made.args.num_generations
    assert made.driver.ledger.weight[0] == pytest.approx(size * (2 - 2**-5))
    assert trainer(tmp_path, "dopr").driver.ledger.discount == 0.5  # its own
    with pytest.raises(UserError, match="ledger_discount is 0"):
        DoPRConfig(**settings(tmp_path), ledger_discount=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_trains(tmp_path: Path, name: str) -> None:
    made = trainer(tmp_path, name)
    before = parameters(made).clone()
    made.train()
    assert made.state.global_step == 6
    assert not torch.equal(parameters(made), before)
    assert torch.isfinite(parameters(made)).all()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert rows[-1]["rollout/rollouts_total"] == made.driver.spent.rollouts > 0
    assert made.driver.spent.abandoned_steps == 0


REMEMBERING = sorted(
    name for name, cls in STRATEGIES.items() if cls.replays or cls.measures or cls.may_measure
)


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    if name == "dopr":
        changes["strategy_args"] = {"prior": "predicted"}
    whole = trainer(tmp_path / "run", name, **changes)
    whole.train()
    resumed = trainer(tmp_path / "run", name, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(parameters(whole), parameters(resumed))
    assert whole.driver.spent == resumed.driver.spent


def test_a_schedule_over_rollouts_ends_with_the_budget(tmp_path: Path) -> None:
    # Steps of 4 rollouts; a budget of 16 has the rate at 3/4, 1/2, 1/4 and 0 after each of them.
    changes = {"rollout_budget": 16, "learning_rate": 1e-2, "max_steps": 4}
    made = trainer(tmp_path, "uniform-1", **changes)
    made.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert made.lr_scheduler.get_last_lr() == [0.0, 0.0]


@dataclass
class Comparing(Strategy):
    """Trains on groups whose answers it has compared."""

    reads_final_answers = True
    _seen: list[float] = field(default_factory=list, init=False)

    def step(self, prompts: Any, ledger: Any) -> StepPlan:
        groups = yield [Request(int(prompts.draw(1)[0]), self.num_generations)]
        self._seen += [group.disagreement for group in groups]
        return groups


def test_disagreement_is_read_from_the_completions(tmp_path: Path) -> None:
    given = Comparing()
    made = trainer(tmp_path, given, max_steps=3)
    made.train()
    seen = made.driver.strategy.state_dict()["_seen"]
    # Random eight-token texts of an untrained model hardly ever agree.
    assert len(seen) == 3 and min(seen) > 0.9
    assert given._seen == [] and given.num_generations == 8  # the trainer runs a copy

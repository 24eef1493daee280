"""A strategy as its user made it, and the copy that an engine runs."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from dopr import (
    Group,
    Ledger,
    PromptStream,
    Request,
    StepPlan,
    Strategy,
    UserError,
    make_strategy,
)
from dopr.core.driver import Driver
from dopr.core.preparation import Sizes, leaves_prompts_open, prepare
from dopr.strategies import PRESETS, STRATEGIES, DoPR, MoPPS, Uniform


@dataclass
class Plain(Strategy):
    """Everything but the step is left to the defaults."""

    prompts_per_step: int | None = None
    discount: float = 0.25
    _seen: list[int] = field(default_factory=list, init=False)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        drawn = prompts.draw(self.prompts_per_step or 1)
        self._seen += drawn.tolist()
        return (yield [Request(int(i), self.num_generations) for i in drawn])


@dataclass
class Fading(Plain):
    ledger_discount: float = 0.5


@dataclass
class Wide(Plain):
    usual_prompts = 3
    num_generations: int = field(default=16, kw_only=True)


@pytest.mark.parametrize(
    ("strategy", "sizes", "group", "prompts"),
    [
        (Plain(), Sizes(4, 6), 4, 6),  # a batch that holds fewer than the usual 8
        (Plain(), Sizes(4, 64), 4, 8),
        (Plain(), Sizes(), 8, 8),  # no engine at all
        (Plain(prompts_per_step=2), Sizes(4, 6), 4, 2),
        (Plain(num_generations=8), Sizes(4, 6), 8, 6),  # 8 named is 8
        (Wide(), Sizes(4, 64), 16, 3),  # a class with defaults of its own
        (DoPR(), Sizes(4, 64), 4, 4),
        (DoPR(), Sizes(4, 2), 4, 2),
        (Uniform(), Sizes(4, 64), 4, 64),  # the whole batch
        (Uniform(), Sizes(4), 4, 1),
        (MoPPS(prompts_per_step=5), Sizes(4, 64), 4, 5),
    ],
)
def test_sizes_that_nobody_set_are_the_engines(
    strategy: Any, sizes: Sizes, group: int, prompts: int
) -> None:
    ready = prepare(strategy, sizes)
    assert (ready.num_generations, ready.prompts_per_step) == (group, prompts)
    assert not leaves_prompts_open(ready)
    assert repr(prepare(ready, sizes)) == repr(ready)


def test_a_group_size_set_afterwards_counts_as_set() -> None:
    strategy = Plain()
    strategy.num_generations = 3
    assert prepare(strategy, Sizes(4)).num_generations == 3


@pytest.mark.parametrize("name", sorted({*STRATEGIES, *PRESETS} - {"one_shot"}))
def test_nothing_is_written_into_the_users_object(name: str) -> None:
    strategy = make_strategy(name)
    before = repr(vars(strategy))
    ready = prepare(strategy, Sizes(5, 3))
    driver = Driver(
        ready,
        PromptStream(12, 0),
        can_measure=frozenset({"embedding", "perplexity", "success_rate"}),
    )
    rng = np.random.default_rng(0)

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            Group(
                r.prompt_id,
                rng.integers(0, 2, r.num_rollouts).astype(float),
                np.ones(r.num_rollouts, np.int64),
                driver.ledger.step,
                entropies=rng.random(r.num_rollouts),
            )
            for r in requests
        ]

    def measure(asked: Any) -> tuple[np.ndarray, int]:
        shape = (
            (len(asked.prompt_ids), 2) if asked.quantity == "embedding" else len(asked.prompt_ids)
        )
        return 1 + rng.random(shape), 1

    for _ in range(3):
        driver.step(roll_out, measure)
    assert repr(vars(strategy)) == before
    assert driver.spent.rollouts > 0 and type(ready) is type(strategy)


def test_state_given_with_an_object_goes_along_and_stays_its_own() -> None:
    strategy = Plain()
    strategy._seen.append(7)
    ready = prepare(strategy, Sizes())
    ready._seen.append(8)
    assert (strategy._seen, ready._seen) == ([7], [7, 8])


def test_options_of_the_wrong_kind_are_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match=r"prompts_per_step is 2\.5; it must be a whole number"):
        prepare(Plain(prompts_per_step=2.5), Sizes())  # type: ignore[arg-type]


def test_a_strategy_needs_no_more_than_a_step() -> None:
    assert (Plain.name, Plain.source, Plain.mark, Plain.summary) == ("Plain", "own", "I", "")
    assert Fading.name == "Fading" and type("Mine", (DoPR,), {}).name == "Mine"
    assert DoPR.name == "dopr"


def test_only_ledger_discount_fades_the_ledger() -> None:
    assert Driver(Plain(), PromptStream(4)).ledger.discount == 1.0
    assert Driver(Fading(), PromptStream(4)).ledger.discount == 0.5
    assert Driver(Fading(), PromptStream(4), discount=0.9).ledger.discount == 0.9
    with pytest.raises(UserError, match="ledger_discount is 0"):
        Driver(Fading(ledger_discount=0), PromptStream(4))


@pytest.mark.parametrize(
    ("name", "discount"),
    [("dopr", 0.5), ("dopr-paper", 0.9), ("knapsack", 0.5)],
)
def test_rules_that_forget_say_so(name: str, discount: float) -> None:
    assert make_strategy(name).ledger_discount == discount
    assert make_strategy(name, discount=0.75).ledger_discount == 0.75

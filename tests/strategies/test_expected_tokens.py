"""What a rollout is expected to cost, by numbers worked out by hand."""

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import DoPR, Group, Measure, Request
from dopr.strategies.parts.expected_tokens import ExpectedTokens


def lengths(prompt: int, tokens: list[int]) -> Group:
    return Group(prompt, np.arange(len(tokens)) % 2.0, np.array(tokens))


def test_before_anything_is_seen_all_cost_alike() -> None:
    assert ExpectedTokens().expected_tokens(np.arange(3), None, Ledger(3)).tolist() == [1, 1, 1]


def test_a_prompts_own_lengths_count_by_its_rollouts() -> None:
    known, ledger = ExpectedTokens(), Ledger(3)
    groups = [lengths(0, [10, 10]), lengths(1, [40, 40, 40, 40])]
    ledger.observe(groups)
    known.note_lengths(groups, np.array([0, 1]), None)
    # The usual logarithm is that of 20; own ones weigh v n / (v n + s), v = 1/4 and s = 0.09.
    first, second = 0.5 / 0.59, 1.0 / 1.09
    expected = [20 * 0.5**first, 20 * 2**second, 20]
    assert known.expected_tokens(np.arange(3), None, ledger) == pytest.approx(expected)


def test_like_prompts_are_expected_to_be_as_long() -> None:
    known, ledger = ExpectedTokens(), Ledger(4)
    inputs = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    groups = [lengths(0, [10] * 8), lengths(1, [90] * 8)]
    ledger.observe(groups)
    known.note_lengths(groups, np.array([0, 1]), inputs[:2])
    found = known.expected_tokens(np.array([2, 3]), inputs[2:], ledger)
    # Half way between 10 and 90 in logarithms is 30; what was seen weighs v / (v + 0.09 / 8).
    share = 0.25 / (0.25 + 0.09 / 8)
    assert found == pytest.approx([30 * (1 / 3) ** share, 30 * 3**share])


def test_by_tokens_the_shorter_of_two_as_informative_kinds_is_chosen() -> None:
    # All prompts are fair coins; odd ones have answers ten times as long, and their vectors say so.
    rng = np.random.default_rng(0)
    vectors = np.stack([np.arange(200) % 2, np.ones(200)], 1) + rng.normal(0, 0.01, (200, 2))

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            Group(
                r.prompt_id,
                (rng.random(r.num_rollouts) < 0.5) * 1.0,
                np.full(r.num_rollouts, 100 if r.prompt_id % 2 else 10),
            )
            for r in requests
        ]

    def measure(asked: Measure):  # type: ignore[no-untyped-def]
        return vectors[list(asked.prompt_ids)], 0

    tokens = {}
    for cost in ("rollouts", "tokens"):
        strategy = DoPR(num_generations=8, cost=cost)  # type: ignore[arg-type]
        driver = Driver(strategy, PromptStream(200, 1), can_measure=frozenset({"embedding"}))
        for _ in range(30):
            driver.step(roll_out, measure)
        tokens[cost] = driver.spent.generated_tokens
    assert tokens["tokens"] < 0.5 * tokens["rollouts"]


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(UserError, match="cost"):
        DoPR(cost="euros")  # type: ignore[arg-type]

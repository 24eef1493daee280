"""Success rates shared between like prompts, against numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.policy.final_answers import final_answers
from dopr.strategies import DoPR, Group, Measure, Request
from dopr.strategies.parts.gaussian_process import median_squared_length, posterior
from dopr.strategies.parts.shared_rates import Known, Rates
from pools import group


def test_one_observation_pulls_near_prompts_to_it() -> None:
    # Kernel 0.25 exp(-d^2 / 2); one value 1 against a centre of 0.5, noise 0.25: half the way, and
    # half of the variance is left there.
    mean, variance = posterior(
        queries=np.array([[0.0], [1.0], [100.0]]),
        known=np.array([[0.0]]),
        values=np.array([1.0]),
        noise=np.array([0.25]),
        center=0.5,
        signal_std=0.5,
        squared_length=1.0,
    )
    gain = 0.25 / (0.25 + 0.25 + 1e-6)
    near = np.exp(-0.5)
    assert mean == pytest.approx([0.5 + 0.5 * gain, 0.5 + 0.5 * gain * near, 0.5])
    assert variance == pytest.approx([0.25 - 0.25 * gain, 0.25 - 0.25 * gain * near**2, 0.25])


def test_expected_volatility_of_a_beta() -> None:
    # Beta(1, 1): E[4p(1-p)] = 4 (1/2 - 1/3) = 2/3; a prompt known to be a fair coin scores 1.
    rates = Rates(np.array([1.0, 1e6, 3.0]), np.array([1.0, 1e6, 1.0]))
    assert rates.volatility == pytest.approx([2 / 3, 1.0, 4 * 3 / 20], rel=1e-5)
    assert rates.mean == pytest.approx([0.5, 0.5, 0.75])


def test_length_scale_is_the_median_distance_between_different_prompts() -> None:
    points = np.array([[0.0], [1.0], [3.0]])  # squared distances 1, 4, 9
    assert median_squared_length(np.square(points - points.T)) == 4.0
    assert median_squared_length(np.zeros((3, 3))) == 1.0


def test_without_embeddings_old_groups_fade_towards_the_recent_ones() -> None:
    strategy = DoPR(prior="predicted", patience=2.0, prior_rollouts=4.0)
    ledger = Ledger(3)
    groups = [group(0, [1, 1, 1, 1]), group(1, [0, 0, 0, 1])]
    ledger.observe(groups)
    strategy.remember(groups)
    ledger.end_step()
    ledger.end_step()
    # Two steps later, patience 2: 4 rewards count 4 / e. The mean has one imaginary fair coin.
    own = 4 / np.exp(1)
    centre = (1 + 0.25 + 0.5) / (2 + 1)
    found = strategy.rates_now(np.array([0, 1, 2]), None, ledger)
    assert found.alpha == pytest.approx([4 * centre + own, 4 * centre + own / 4, 4 * centre])
    assert found.alpha + found.beta == pytest.approx([4 + own, 4 + own, 4])


def test_a_divided_pool_tells_little_of_a_prompt_and_an_even_one_much() -> None:
    def worth(means: list[float]) -> float:
        strategy, ledger = DoPR(prior="predicted", patience=1e9), Ledger(100)
        groups = [
            group(i, [1.0] * round(8 * m) + [0.0] * round(8 * (1 - m))) for i, m in enumerate(means)
        ]
        ledger.observe(groups)
        strategy.remember(groups)
        found = strategy.rates_now(np.array([99]), None, ledger)
        return float(found.alpha[0] + found.beta[0])

    # Half solved and half hopeless: variance 1/4 leaves c (1 - c) / s^2 - 1 = 0, held at the least.
    assert worth([0.0, 1.0] * 40) == pytest.approx(0.25)
    assert worth([0.5] * 80) > 16


def sure(success: list[float]) -> Rates:
    """Success rates known for certain."""
    known = np.array(success)
    return Rates(1e7 * known, 1e7 * (1 - known))


def test_predicted_choice_finds_informative_prompts_that_were_never_seen() -> None:
    # 300 prompts, a tenth of them learnable and told by their embedding; 40 groups are rolled out.
    rng = np.random.default_rng(0)
    success = np.where(np.arange(300) % 10 == 0, 0.5, np.where(np.arange(300) % 2, 0.0, 1.0))
    vectors = np.stack([success, 1 - success], 1) + rng.normal(0, 0.05, (300, 2))

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, list((rng.random(r.num_rollouts) < success[r.prompt_id]) * 1.0))
            for r in requests
        ]

    def measure(asked: Measure):  # type: ignore[no-untyped-def]
        return vectors[list(asked.prompt_ids)], 10 * len(asked.prompt_ids)

    shares = {}
    for prior in ("pool", "predicted"):
        strategy = DoPR(prior=prior, exploration=0.0, candidates=64, patience=1000.0)
        driver = Driver(strategy, PromptStream(300, 1), can_measure=frozenset({"embedding"}))
        outcomes = [driver.step(roll_out, measure) for _ in range(40)]
        shares[prior] = np.mean([outcome.signal_rate for outcome in outcomes[10:]])
    assert shares["predicted"] > 0.8 > shares["pool"] + 0.1
    assert driver.spent.measured_tokens <= 3000  # each prompt is read once


def test_rewards_in_between_without_variance_are_not_taken_for_fair_coins() -> None:
    strategy = DoPR(prior="predicted", exploration=0.0)
    ledger = Ledger(3)
    ledger.observe([group(0, [0.5] * 4), group(1, [0.0, 1.0, 1.0, 0.0]), group(2, [0.0, 1.0] * 2)])
    found = strategy.spread(np.arange(3), ledger)
    assert found == pytest.approx([4 / (4 + 4), 1.0, 1.0])
    scores = strategy.score(np.arange(3), ledger, sure([0.5, 0.5, 0.5]))
    assert scores.score == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    "options",
    [
        {"prior_rollouts": 0.0},
        {"signal_std": 0.0},
        {"memory": 0},
        {"memory": -2},
        {"patience": 0.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        DoPR(**options)


def test_patience_is_found_from_prompts_that_are_met_again() -> None:
    def found(move: float) -> float:
        """Patience after 300 visits, three steps apart, between which a rate jumps by chance."""
        rng = np.random.default_rng(0)
        strategy, ledger, rate = DoPR(prior="predicted"), Ledger(1, discount=0.5), 0.5
        for _ in range(300):
            before = Known.of(np.array([0]), ledger)
            groups = [group(0, list((rng.random(8) < rate) * 1.0), step=ledger.step)]
            ledger.observe(groups)
            strategy.watch_drift(groups, before, ledger)
            for _ in range(3):
                ledger.end_step()
            rate = float(np.clip(rate + rng.choice([-move, move]), 0.05, 0.95))
        return strategy.patience_now

    assert found(0.3) < 25 < 40 < found(0.0)
    assert DoPR(prior="predicted", patience=7.0).patience_now == 7.0


def test_drift_by_hand() -> None:
    strategy, ledger = DoPR(prior="predicted", signal_std=0.5), Ledger(1)
    before = Known(np.array([0]), np.array([0.25]), np.array([4.0]), np.array([3.0]))
    ledger.observe([group(0, [0, 1])])  # the scale of the rewards
    strategy.watch_drift([group(0, [1, 1, 1, 0])], before, ledger)
    # Moved by 1/2; by chance v (1/4 + 1/4) with v = m (1 - m), m = (1 + 3 + 1/2) / 9 = 1/2.
    assert strategy._moved == pytest.approx(0.25 - 0.25 * 0.5)
    assert strategy._movable == pytest.approx(2 * 0.25 * 3)
    first = 8 * 2 * 0.25
    assert strategy.patience_now == pytest.approx((1.5 + first * 30) / (0.125 + first))


def test_disagreement_counts_pairs_of_different_answers() -> None:
    # Of 6 pairs of A A B C one agrees.
    def disagreement(*answers: str) -> float:
        return replace(group(0, [0.0] * len(answers)), answers=answers).disagreement

    assert disagreement("A", "A", "B", "C") == pytest.approx(5 / 6)
    assert disagreement("A", "A", "A", "A") == 0.0 and disagreement("A") == 0.0
    assert np.isnan(group(0, [0.0, 1.0]).disagreement)  # nobody has read them
    texts = ["so <answer> 1  2 </answer>", r"thus \boxed{1 2}", "1 2"]
    assert final_answers(texts) == ["1 2"] * 3

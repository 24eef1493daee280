"""Success rates shared between like prompts, against numbers worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.advantages import compute_advantages
from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.policy.final_answers import final_answers
from dopr.strategies import DoPR, Group, Measure, Request
from dopr.strategies.parts.fading import no_observations, observe
from dopr.strategies.parts.gaussian_process import median_squared_length
from dopr.strategies.parts.shared_rates import MEMORIES, STARTS, Forecasts, log_likelihood
from pools import group


def certain(success: list[float]) -> Forecasts:
    """Success rates known for certain."""
    known = np.array([success])
    return Forecasts(1e7 * known, 1e7 * (1 - known), np.ones_like(known))


def test_expected_volatility_of_a_beta() -> None:
    # Beta(1, 1): E[4p(1-p)] = 4 (1/2 - 1/3) = 2/3; a prompt known to be a fair coin scores 1.
    one = np.ones((1, 3))
    rates = Forecasts(np.array([[1.0, 1e6, 3.0]]), np.array([[1.0, 1e6, 1.0]]), one)
    assert rates.volatility == pytest.approx([2 / 3, 1.0, 4 * 3 / 20], rel=1e-5)
    assert rates.mean == pytest.approx([0.5, 0.5, 0.75])
    # Two forecasts, believed 3 to 1.
    both = Forecasts(np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]), np.array([[0.75], [0.25]]))
    assert both.mean == pytest.approx([0.75 * 0.5 + 0.25 * 0.75])
    assert both.volatility == pytest.approx([0.75 * 2 / 3 + 0.25 * 0.6])


def test_length_scale_is_the_median_distance_between_different_prompts() -> None:
    points = np.array([[0.0], [1.0], [3.0]])  # squared distances 1, 4, 9
    assert median_squared_length(np.square(points - points.T)) == 4.0
    assert median_squared_length(np.zeros((3, 3))) == 1.0


def test_what_came_out_is_judged_by_its_likelihood() -> None:
    # Two of two right: under Beta(1, 1) E[p^2] = 1/3, under Beta(3, 1) 3/4 4/5 = 3/5; one right and
    # one wrong, in some order: E[p (1 - p)] = 1/6 and 3 / 20.
    alpha, beta = np.array([1.0, 3.0]), np.array([1.0, 1.0])
    assert np.exp(log_likelihood(2, 2, alpha, beta)) == pytest.approx([1 / 3, 3 / 5])
    assert np.exp(log_likelihood(1, 2, alpha, beta)) == pytest.approx([1 / 6, 3 / 20])


@given(st.floats(1e-4, 1e5), st.floats(1e-4, 1e5), st.integers(1, 64), st.floats(0, 1, width=32))
def test_likelihood_is_that_of_the_beta_function(
    alpha: float, beta: float, count: int, share: float
) -> None:
    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    right = share * count
    exact = log_beta(alpha + right, beta + count - right) - log_beta(alpha, beta)
    found = log_likelihood(right, count, np.array([alpha]), np.array([beta]))
    # Either way differences of numbers up to 1e6 are taken.
    assert found == pytest.approx([exact], rel=1e-9, abs=1e-8)


def learned(strategy: DoPR, ledger: Ledger, groups: list[Group]) -> None:
    """A step of rollouts without embeddings."""
    ids = np.array([g.prompt_id for g in groups])
    forecasts = strategy.forecast(ids, None, ledger)
    ledger.observe(groups)
    strategy.learn(groups, ids, forecasts, ledger)
    ledger.end_step()


def test_what_is_to_be_expected_of_a_prompt_is_the_mean_of_its_posterior() -> None:
    # Beta(1, 1) believed 3 to 1 over Beta(3, 1); two of two right, likelihoods 1/3 and 3/5, so
    # that they are believed 1 to 0.6 now, and their means are 3/4 and 5/6.
    weights = np.array([[0.75, 0.5], [0.25, 0.5]])
    both = Forecasts(np.array([[1.0, 1.0], [3.0, 3.0]]), np.ones((2, 2)), weights)
    strategy, ledger = DoPR(), Ledger(8)
    strategy._evidence = np.zeros((2, 2))
    groups = [group(7, [float("nan")] * 2), group(5, [1, 1])]
    ledger.observe(groups)
    expected = strategy.learn(groups, np.array([5, 7]), both, ledger)
    assert np.isnan(expected[0])
    assert expected[1] == pytest.approx((0.25 * 3 / 4 + 0.15 * 5 / 6) / 0.4)


def test_rewards_that_vary_less_than_verdicts_tell_more_of_what_to_expect() -> None:
    # Beta(1, 1), and two rewards of 3/4 that vary by a quarter of what verdicts would: as eight.
    one = Forecasts(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    strategy, ledger = DoPR(), Ledger(2)
    strategy._evidence = np.zeros((2, 1))
    groups = [group(0, [0.75, 0.75]), group(1, [0, 1])]
    ledger.observe(groups)
    ids = np.array([0])
    expected = strategy.learn(groups[:1], ids, one, ledger, np.array([0.25]))
    assert expected == pytest.approx((1 + 6) / (2 + 8))


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.5, 1.0, float("nan")]), min_size=1, max_size=6),
    low=st.floats(-2, 2),
    spread=st.floats(0.1, 5),
)
def test_what_is_expected_of_a_group_lies_within_the_rewards_and_bounds_advantages(
    rewards: list[float], low: float, spread: float
) -> None:
    strategy, ledger = DoPR(), Ledger(3)
    ends = group(2, [low, low + spread])
    mine = group(0, [low + spread * reward for reward in rewards])
    ids = np.array([0, 2])
    forecasts = strategy.forecast(ids, None, ledger)
    ledger.observe([mine, ends])
    varied = strategy.variance_shown(ids, ledger)
    rates = strategy.learn([mine, ends], ids, forecasts, ledger, varied)
    found = strategy.expecting([mine, ends], rates, varied, ledger)
    (advantages,) = compute_advantages(found[:1], ledger, "forecast")
    if not mine.scored.size:
        assert found[0] is mine and not advantages.any()
        return
    assert low < found[0].expected_mean < low + spread
    assert 0 < found[0].expected_std <= spread / 2 * (1 + 1e-9)
    # Of six equal rewards, four coins assumed beside them: 4 / 10 of a verdict's variance.
    assert np.abs(advantages).max() <= 2 / np.sqrt(0.4)
    # A better rollout never has the smaller advantage.
    scored = ~np.isnan(mine.rewards)
    order = np.argsort(mine.rewards[scored], kind="stable")
    assert (np.diff(advantages[scored][order]) >= -1e-12).all()


def test_what_is_known_of_the_pool_follows_a_range_that_grows() -> None:
    # Four groups of verdicts, half of them right; then rewards from -1 to 3, of which 0 and 1 are
    # 1/4 and 1/2: the mean of 1/2 becomes 3/8, and squares about it shrink by 16.
    strategy, ledger = DoPR(), Ledger(8)
    for prompt in range(4):
        learned(strategy, ledger, [group(prompt, [0, 1])])
    before = strategy._pool[0].copy()
    ledger.observe([group(7, [-1, 3])])
    assert strategy._follow_range(ledger)
    groups, rates, squares, sampling = strategy._pool[0]
    assert groups == before[0]
    assert rates / groups == pytest.approx(3 / 8)
    assert squares / groups == pytest.approx((3 / 8) ** 2)
    assert sampling == pytest.approx(before[3] / 16)
    assert not strategy._evidence.any() and not strategy._follow_range(ledger)


@pytest.mark.parametrize("first", [[0.0, 0.0], [0.1, 0.1]])
def test_what_one_value_let_expect_of_the_range_is_mended_by_the_second(first: list[float]) -> None:
    # Half of the groups mean 0.05 before a reward of 1 comes; one value alone lets expect 0 to 1.
    found = []
    for begins in (first, [0.0, 0.1]):
        strategy, ledger = DoPR(), Ledger(64)
        learned(strategy, ledger, [group(0, begins)])
        for prompt in range(1, 60):
            learned(strategy, ledger, [group(prompt, [0.0, 0.1])])
        assert strategy._range.tolist() == [0.0, 0.1]
        before = strategy._pool_rate(strategy._pool[0])[0]
        assert before == pytest.approx(0.5, abs=0.02)
        learned(strategy, ledger, [group(60, [0.0, 1.0])])
        found.append(strategy._pool_rate(strategy._pool[0])[0])
    assert found[0] == pytest.approx(found[1], abs=0.003) and found[0] < 0.1


def test_a_range_just_twice_as_wide_is_followed() -> None:
    strategy, ledger = DoPR(), Ledger(8)
    for prompt in range(4):
        learned(strategy, ledger, [group(prompt, [0, 1])])
    ledger.observe([group(7, [-1, 1])])
    assert strategy._follow_range(ledger)
    assert strategy._pool[0, 1] / strategy._pool[0, 0] == pytest.approx(3 / 4)


def test_nothing_is_expected_while_a_single_reward_makes_the_range() -> None:
    strategy, ledger = DoPR(), Ledger(64)
    for prompt in range(60):
        learned(strategy, ledger, [group(prompt, [0, 1, 0, 1])])
    assert strategy.verdict_like(ledger) == pytest.approx(1.0, abs=0.01)
    outlier = group(60, [0, 1, 0, 100])
    ids = np.array([60])
    forecasts = strategy.forecast(ids, None, ledger)
    ledger.observe([outlier])
    varied = np.ones(1)
    rates = strategy.learn([outlier], ids, forecasts, ledger, varied)
    assert np.isnan(rates).all()
    # 244 rewards whose squares about their mean add up to 10,000, where 244 x 2,500 are possible.
    assert strategy.verdict_like(ledger) < 0.05
    assert strategy.expecting([outlier], np.array([0.5]), varied, ledger) == [outlier]


def test_forecasts_start_from_a_coin_the_pool_and_the_pool_at_first() -> None:
    strategy, ledger = DoPR(), Ledger(3)
    learned(strategy, ledger, [group(0, [1, 1, 1, 1]), group(1, [0, 0, 0, 1])])
    ledger.end_step()
    found = strategy.forecast(np.array([0, 2]), None, ledger)
    # Two steps later 4 rewards count 4 exp(-2 / memory), added to each start.
    own = 4 * np.exp(-2 / np.array(MEMORIES))
    # The mean has one imaginary fair coin; the first of the groups has faded by 1 / 256.
    keep, rates, sampling = 255 / 256, (1.0, 0.25), (0.9 * 0.1 / 4, 0.3 * 0.7 / 4)
    count = keep + 1
    center = (keep * rates[0] + rates[1] + 0.5) / (count + 1)
    beyond = keep * (rates[0] - center) ** 2 + (rates[1] - center) ** 2
    variance = (beyond - keep * sampling[0] - sampling[1] + 0.35**2) / (count + 1)
    worth = center * (1 - center) / variance - 1
    starts = [(0.5, 2.0), (center, worth), (center, worth)]
    for number, (mean, rollouts) in enumerate(starts):
        rows = slice(4 * number, 4 * number + 4)
        assert found.alpha[rows, 0] == pytest.approx(rollouts * mean + own)
        assert found.beta[rows, 0] == pytest.approx([rollouts * (1 - mean)] * 4)
        assert found.alpha[rows, 1] == pytest.approx([rollouts * mean] * 4)
    assert found.weights.sum(axis=0) == pytest.approx([1.0, 1.0])


def test_forecasts_for_unseen_prompts_rest_on_what_prompts_gave_the_first_time() -> None:
    strategy, ledger = DoPR(), Ledger(6)
    strategy._keep(6, np.arange(6), np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))
    features = strategy._features.astype(np.float64)
    half, unscored = [1.0, 1.0, 0.0, 0.0], [float("nan")] * 4
    # The second step has a prompt of the first one again, a new one, and one that was not scored.
    for groups in ([group(0, half), group(1, half)], [group(1, half), group(2, half)]):
        groups = [*groups, group(3, unscored)]
        ids = np.array([g.prompt_id for g in groups])
        forecasts = strategy.forecast(ids, features[ids], ledger)
        ledger.observe(groups)
        strategy.learn(groups, ids, forecasts, ledger)
        ledger.end_step()
    expected = no_observations(6)
    inputs = strategy.forecast(np.arange(6), features, ledger).inputs
    assert inputs is not None
    # Half of four right: a sampling variance of 1/4 / 4.
    observe(expected, inputs[:3], np.full(3, 0.5), np.full(3, 1 / 16 + 1e-6))
    assert strategy._regressions[1] == pytest.approx(expected)
    assert strategy._regressions[0] != pytest.approx(expected)  # four groups, the older ones faded


def test_forecasts_that_foretell_better_are_believed_more() -> None:
    # Every prompt is met once and solved by one in ten: the coin is soon disbelieved.
    rng = np.random.default_rng(0)
    strategy, ledger = DoPR(), Ledger(200)
    for i in range(0, 120, 4):
        groups = [group(j, list((rng.random(8) < 0.1) * 1.0)) for j in range(i, i + 4)]
        learned(strategy, ledger, groups)
    unseen = strategy.forecast(np.array([150]), None, ledger)
    assert unseen.weights[:4].sum() < 0.01
    assert unseen.mean[0] == pytest.approx(0.1, abs=0.05)


def test_what_was_seen_long_ago_counts_where_prompts_keep_still() -> None:
    # Half of the prompts are solved and half are hopeless, for ever: long memories are believed.
    strategy, ledger = DoPR(discount=1.0), Ledger(40)
    for step in range(200):
        ids = [(4 * step + j) % 40 for j in range(4)]
        learned(strategy, ledger, [group(i, [float(i % 2)] * 8, step=step) for i in ids])
    weights = (
        strategy.forecast(np.array([0]), None, ledger).weights[:, 0].reshape(-1, 4).sum(axis=0)
    )
    assert weights[0] < 0.01 and weights[2:].sum() > 0.7


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
        strategy = DoPR(prior=prior, exploration=0.0, candidates=64)
        driver = Driver(strategy, PromptStream(300, 1), can_measure=frozenset({"embedding"}))
        outcomes = [driver.step(roll_out, measure) for _ in range(40)]
        shares[prior] = np.mean([outcome.signal_rate for outcome in outcomes[10:]])
    assert shares["predicted"] > 0.8 > shares["pool"] + 0.1
    assert driver.spent.measured_tokens <= 3000  # each prompt is read once


def test_embeddings_that_mislead_are_soon_disbelieved() -> None:
    # The same pool, its embeddings dealt out to the prompts at random.
    rng = np.random.default_rng(0)
    success = np.where(np.arange(300) % 3 == 0, 0.5, np.where(np.arange(300) % 3 == 1, 0.0, 1.0))
    vectors = rng.permutation(np.stack([success, 1 - success], 1)) + rng.normal(0, 0.05, (300, 2))

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, list((rng.random(r.num_rollouts) < success[r.prompt_id]) * 1.0))
            for r in requests
        ]

    def measure(asked: Measure):  # type: ignore[no-untyped-def]
        return vectors[list(asked.prompt_ids)], 10 * len(asked.prompt_ids)

    strategy = DoPR(num_generations=8)
    driver = Driver(strategy, PromptStream(300, 1), can_measure=frozenset({"embedding"}))
    for _ in range(60):
        driver.step(roll_out, measure)
    unseen = np.flatnonzero(driver.ledger.visits == 0)[:1]
    features = strategy._features[unseen].astype(float)
    weights = strategy.forecast(unseen, np.nan_to_num(features), driver.ledger).weights[:, 0]
    by_start = dict(zip(STARTS, weights.reshape(-1, len(MEMORIES)).sum(axis=1), strict=True))
    assert by_start["like"] + by_start["like at first"] < 0.1


@pytest.mark.parametrize("size", [1, 2, 70])
def test_a_pool_of_any_size_is_chosen_from(size: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(size, 3))

    def measure(asked: Measure):  # type: ignore[no-untyped-def]
        return vectors[list(asked.prompt_ids)], 1

    strategy = DoPR(num_generations=4)
    driver = Driver(strategy, PromptStream(size, 1), can_measure=frozenset({"embedding"}))
    for _ in range(5):
        outcome = driver.step(lambda rs: [group(r.prompt_id, [0.0, 1.0]) for r in rs], measure)
        assert len(outcome.kept) == 4
    assert all(np.isfinite(value) for value in strategy.metrics().values())


def test_rewards_in_between_without_variance_are_not_taken_for_fair_coins() -> None:
    strategy = DoPR(prior="predicted", exploration=0.0)
    ledger = Ledger(3)
    ledger.observe([group(0, [0.5] * 4), group(1, [0.0, 1.0, 1.0, 0.0]), group(2, [0.0, 1.0] * 2)])
    found = strategy.variance_shown(np.arange(3), ledger)
    assert found == pytest.approx([4 / (4 + 4), 1.0, 1.0])
    scores = strategy.score(np.arange(3), ledger, certain([0.5, 0.5, 0.5]))
    assert scores.volatility == pytest.approx([0.5, 1.0, 1.0])


def test_what_a_prompt_has_left_to_gain_counts_where_prompts_do_not_help_each_other() -> None:
    ledger = Ledger(3)
    ledger.observe([group(0, [0.0, 1.0])])  # the scale of the rewards
    rates = certain([0.5, 0.2, 0.8])

    def scores(evidence: dict[str, float]) -> np.ndarray:
        strategy = DoPR(room=1.0)
        each = [evidence.get(start, 0.0) for start in STARTS]
        strategy._evidence = np.tile(np.repeat(each, len(MEMORIES)), (2, 1))
        return strategy.score(np.arange(3), ledger, rates).score

    plain = np.array([1.0, 0.64, 0.64])
    assert scores({"pool": 50.0}) == pytest.approx(plain, rel=1e-4)
    # New prompts go as new prompts went before, half of them right: of 1 - p up to a half counts.
    left = np.array([1.0, 1.0, 0.4])
    assert scores({"pool at first": 50.0}) == pytest.approx(plain * left, rel=1e-4)
    assert scores({"like at first": 50.0}) == pytest.approx(plain * left, rel=1e-4)
    assert scores({}) == pytest.approx(plain * left**0.4, rel=1e-4)  # two starts of five


@pytest.mark.parametrize("options", [{"signal_std": 0.0}, {"balance": -0.1}, {"room": -1.0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        DoPR(**options)


def test_disagreement_counts_pairs_of_different_answers() -> None:
    # Of 6 pairs of A A B C one agrees.
    def disagreement(*answers: str) -> float:
        return replace(group(0, [0.0] * len(answers)), final_answers=answers).disagreement

    assert disagreement("A", "A", "B", "C") == pytest.approx(5 / 6)
    assert disagreement("A", "A", "A", "A") == 0.0 and disagreement("A") == 0.0
    assert np.isnan(group(0, [0.0, 1.0]).disagreement)  # nobody has read them
    texts = ["so <answer> 1  2 </answer>", r"thus \boxed{1 2}", "1 2"]
    assert final_answers(texts) == ["1 2"] * 3


def test_an_embedding_that_is_not_finite_counts_as_nothing_there() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 6)).astype(np.float32)
    broken = vectors.copy()
    broken[3, 2], broken[30, 1], broken[31] = np.nan, np.inf, np.nan
    plain = np.nan_to_num(broken, nan=0.0, posinf=0.0, neginf=0.0)

    def features(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        strategy = DoPR()
        strategy.can_measure = frozenset({"embedding"})
        stream = PromptStream(40)
        for ids in (np.arange(20), np.arange(20, 40)):  # the first ones set the frame
            reading = strategy.read(stream, ids)
            asked = next(reading)
            with pytest.raises(StopIteration):
                reading.send(values[list(asked.prompt_ids)])
        return np.asarray(strategy._features)

    assert np.isfinite(features(broken)).all()
    assert np.array_equal(features(broken), features(plain))

"""Strategies that follow a schedule, a bandit, a history or an oracle, against hand numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopr import Request, UserError, make_strategy
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import LIMR, PREPO, SEC, Group, HistoryVariance, Measure, Oracle
from dopr.strategies.methods.prepo import weigh_by_entropy
from dopr.strategies.methods.sec import advantage_size
from dopr.strategies.parts.learning_curves import alignment_scores, deviations
from pools import QUANTITIES, bernoulli_pool, group, measurer

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
)


# -- prepo ------------------------------------------------------------------------------------


def test_prepo_goes_from_low_to_high_perplexity() -> None:
    strategy = PREPO(candidates=5, prompts_per_step=2, schedule_steps=10)
    perplexities = np.array([5.0, 1.0, np.nan, 3.0, 2.0])
    assert strategy.choose(perplexities, 0).tolist() == [1, 4]
    assert strategy.choose(perplexities, 4).tolist() == [4, 3]  # round(0.4 * 3) = 1
    assert strategy.choose(perplexities, 10).tolist() == [0, 2]
    assert strategy.choose(perplexities, 99).tolist() == [0, 2]
    assert strategy.choose(np.array([7.0]), 5).tolist() == [0]


@pytest.mark.parametrize(("progress", "start"), [(0, 0), (0.25, 2), (0.5, 4), (1, 8)])
def test_prepo_starts_at_the_floor_of_its_progress(progress: float, start: int) -> None:
    strategy = PREPO(candidates=10, prompts_per_step=2, schedule_steps=4)
    perplexities = np.arange(10.0)[::-1].copy()
    chosen = strategy.choose(perplexities, int(4 * progress))
    assert perplexities[chosen].tolist() == [start, start + 1]


def test_prepos_weights_are_relative_to_the_batch() -> None:
    groups = [group(0, [0, 1], [0.2, 0.4]), group(1, [0, 1], [0.6, 0.8])]
    weights = [g.weights.tolist() for g in weigh_by_entropy(groups)]
    assert weights == [pytest.approx([0.4, 0.8]), pytest.approx([1.2, 1.6])]


def test_prepo_weighs_rollouts_by_relative_entropy() -> None:
    groups = [
        group(0, [0, 1], [1.0, 3.0]),
        group(1, [0, 1], [4.0, np.nan]),
        group(2, [0, 1]),
        group(3, [0, 1], [0.0, 0.0]),
    ]
    own = weigh_by_entropy(groups, "group")
    assert own[0].weights == pytest.approx([0.5, 1.5])
    assert own[1].weights == pytest.approx([1.0, 1.0])
    assert own[2].weights is None
    assert own[3].weights == pytest.approx([1.0, 1.0])
    batch = weigh_by_entropy(groups[:2], "batch")  # mean of 1, 3 and 4
    assert batch[0].weights == pytest.approx([3 / 8, 9 / 8])
    assert batch[1].weights == pytest.approx([1.5, 1.0])


# -- sec --------------------------------------------------------------------------------------


def test_secs_reward_is_the_mean_absolute_advantage() -> None:
    assert advantage_size(group(0, [1, 0, 0, 0])) == pytest.approx(2 * np.sqrt(3 / 16))
    assert advantage_size(group(0, [-5, 5])) == pytest.approx(1)
    assert advantage_size(group(0, [1, 1])) == 0
    assert advantage_size(group(0, [np.nan, 1])) == 0


@pytest.mark.parametrize(("fades", "absent"), [(False, 0.8), (True, 0.4)])
def test_sec_learns_the_value_of_each_category(fades: bool, absent: float) -> None:
    strategy = SEC(learning_rate=0.5, fade_absent=fades)
    strategy._values = np.array([0.0, 0.2, 0.8])
    kinds = np.array([0, 0, 1, 2])
    strategy.learn(
        [group(0, [0, 1]), group(1, [0, 0]), group(2, [1, 0, 0, 0]), group(3, [np.nan])], kinds
    )
    # Category 0 yielded (1 + 0) / 2; category 1 2 sqrt(3/16); category 2 nothing that counts.
    expected = [0.25, 0.1 + np.sqrt(3 / 16), absent]
    assert strategy._values == pytest.approx(expected)


def test_sec_draws_categories_by_softmax_and_never_beyond_their_size() -> None:
    strategy, rng = SEC(prompts_per_step=4), np.random.default_rng(0)
    chances = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    sizes = np.array([100, 100])
    drawn = sum(strategy.draw_categories(chances, sizes, rng) for _ in range(1000))
    assert drawn / 4000 == pytest.approx(chances, abs=0.03)
    full = strategy.draw_categories(np.array([0.0, 1.0]), np.array([9, 1]), rng)
    assert full.tolist() == [3, 1]
    assert strategy.draw_categories(chances, np.array([1, 1]), rng).tolist() == [1, 1]


def test_sec_with_one_category_is_uniform_choice() -> None:
    driver = Driver(SEC(prompts_per_step=4), PromptStream(12, 0))
    for _ in range(6):
        driver.step(bernoulli_pool(np.full(12, 0.5)))
    assert driver.ledger.visits.tolist() == [2] * 12


def test_sec_prefers_the_category_that_teaches() -> None:
    stream = PromptStream(60, 0)
    stream.categories = np.repeat([7, 3, 5], 20)
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(SEC(temperature=0.2), stream)
    for _ in range(60):
        driver.step(bernoulli_pool(success, driver.ledger.step))
    assert driver.ledger.visits[20:40].sum() > 0.8 * driver.ledger.visits.sum()
    assert driver.strategy.metrics()["select/likeliest_category"] == 3


# -- selection by history ---------------------------------------------------------------------


def test_alignment_scores_by_the_official_rule() -> None:
    # Mean curve (1/2, 1/2); the largest distance from it is 1/4 + 1/4.
    curves = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert alignment_scores(curves) == pytest.approx([0, 1, 0])
    # The missing first epoch takes the second's value; a missing last one leaves no score.
    gaps = np.array([[np.nan, 0.5], [0.5, 0.5], [0.9, np.nan]])
    scores = alignment_scores(gaps)
    assert scores[:2] == pytest.approx([1, 1]) and np.isnan(scores[2])
    assert alignment_scores(np.ones((2, 3))).tolist() == [1, 1]
    assert np.isnan(alignment_scores(np.full((2, 3), np.nan))).all()


def test_deviations_leave_missing_epochs_out() -> None:
    found = deviations(np.array([[0.0, 1.0, np.nan], [0.4, 0.4, 0.4], [np.nan] * 3]))
    assert found[:2] == pytest.approx([0.5, 0.0], abs=1e-9) and np.isnan(found[2])


def write_history(tmp_path: Path, history: dict[str, Any]) -> str:
    file = tmp_path / "history.json"
    file.write_text(json.dumps(history))
    return str(file)


def test_a_files_pre_run_is_paid_for_from_the_start(tmp_path: Path) -> None:
    history = write_history(tmp_path, {"0": [0.0, 1.0], "2": [0.5, 0.5], "3": [None, 0.6]})
    strategy = make_strategy("limr", history=history, history_group_size=4, num_generations=2)
    driver = Driver(strategy, PromptStream(5))
    assert driver.spent.rollouts == 5 * 4
    outcome = driver.step(bernoulli_pool(np.full(5, 0.5)))
    # Prompt 0 swings away from the mean curve; the other two fill the eight places in turn.
    assert sorted(g.prompt_id for g in outcome.kept) == [2] * 4 + [3] * 4
    assert driver.spent.rollouts == 5 * 4 + 8 * 2
    one_shot = make_strategy("one_shot", history=history)
    assert Driver(one_shot, PromptStream(5)).spent.rollouts == 5 * 8
    assert Driver(make_strategy("limr"), PromptStream(5)).spent.rollouts == 0


def test_history_variance_keeps_the_most_varied(tmp_path: Path) -> None:
    history = write_history(tmp_path, {"0": [0.5, 0.5], "1": [0, 1], "2": [0.2, 0.4]})
    best = make_strategy("history-variance", history=history, prompts_per_step=3)
    outcome = Driver(best, PromptStream(3)).step(bernoulli_pool(np.full(3, 0.5)))
    assert [g.prompt_id for g in outcome.kept] == [1, 1, 1]
    two = HistoryVariance(history=history, keep=2, prompts_per_step=2)
    outcome = Driver(two, PromptStream(3)).step(bernoulli_pool(np.full(3, 0.5)))
    assert sorted(g.prompt_id for g in outcome.kept) == [1, 2]
    with pytest.raises(UserError, match="not in the pool of 1"):
        Driver(two, PromptStream(1)).step(bernoulli_pool(np.full(3, 0.5)))


def test_where_no_prompt_passes_the_best_one_is_kept() -> None:
    strategy = LIMR(threshold=0.9)
    assert strategy.select(np.array([[0.0, 1.0], [0.6, 0.3], [1.0, 0.0]])).tolist() == [1]
    assert strategy.select(np.full((3, 2), np.nan)).tolist() == [0, 1, 2]


def test_pre_run_inside_the_run_watches_every_prompt_each_epoch() -> None:
    # Only prompt 4 changes between the two epochs; the last step of the pre-run is a short one.
    strategy = HistoryVariance(prerun_epochs=2, prompts_per_step=4, num_generations=2)
    driver = Driver(strategy, PromptStream(5, 3))

    def roll_out(requests: list[Request]) -> list[Group]:
        visits = driver.ledger.visits
        return [
            group(r.prompt_id, [-1, -1] if r.prompt_id != 4 or visits[4] == 0 else [3, 3])
            for r in requests
        ]

    sizes = [len(driver.step(roll_out).kept) for _ in range(3)]
    assert sizes == [4, 4, 2] and driver.ledger.visits.tolist() == [2] * 5
    assert strategy.metrics() == {"select/prerun": 0.0, "select/selected": 1.0}
    assert {g.prompt_id for g in driver.step(roll_out).kept} == {4}
    assert driver.spent.rollouts == 20 + 8


# -- oracle -----------------------------------------------------------------------------------


def test_oracle_measures_for_free_and_takes_the_best() -> None:
    asked: list[Measure] = []

    def measure(request: Measure) -> tuple[np.ndarray, int]:
        asked.append(request)
        return np.array([0.0, 0.25, 0.5, 1.0])[list(request.prompt_ids)], 0

    driver = Driver(Oracle(refresh=3, samples=6), PromptStream(4), can_measure=QUANTITIES)

    def half(requests: list[Request]) -> list[Group]:
        return [group(r.prompt_id, [0, 1] * 4) for r in requests]

    for _ in range(4):
        assert [g.prompt_id for g in driver.step(half, measure).kept] == [2]
    assert [(a.prompt_ids, a.samples) for a in asked] == [((0, 1, 2, 3), 6)] * 2
    assert driver.spent.rollouts == 4 * 8 and driver.spent.measured_tokens == 0


def test_oracle_moves_on_from_a_prompt_that_is_learned() -> None:
    strategy = Oracle(refresh=100, samples=8)
    driver = Driver(strategy, PromptStream(2), can_measure=QUANTITIES)

    def solved(requests: list[Request]) -> list[Group]:
        return [group(r.prompt_id, [1] * 8) for r in requests]

    measured = np.array([0.5, 0.2])
    steps = [driver.step(solved, lambda asked: (measured, 0)) for _ in range(3)]
    # 1/2 becomes (4 + 8) / 16 = 3/4 and then 7/8: p(1 - p) falls below the other's 0.16.
    assert [step.kept[0].prompt_id for step in steps] == [0, 0, 1]
    assert strategy.state_dict()["_rates"] == pytest.approx([7 / 8, (1.6 + 8) / 16])
    harder = Oracle(target=2.0)
    harder._rates = np.array([0.5, 1 / 3, 0.1])
    assert harder.choose(Ledger(3), np.random.default_rng(0)).tolist() == [1]


def test_oracle_knows_rewards_of_any_range_and_breaks_ties_at_random() -> None:
    strategy = Oracle(prompts_per_step=2)
    strategy._rates = np.array([-4.0, 0.0, 4.0, np.nan])
    firsts = set()
    for seed in range(20):
        chosen = strategy.choose(Ledger(4), np.random.default_rng(seed))
        assert chosen[0] == 1
        firsts.add(int(chosen[1]))
    assert firsts == {0, 2}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_oracle_chooses_at_random_where_nothing_could_be_measured() -> None:
    strategy = Oracle()
    strategy._rates = np.full(3, np.nan)
    chosen = {int(strategy.choose(Ledger(3), np.random.default_rng(s))[0]) for s in range(20)}
    assert chosen == {0, 1, 2}


# -- all of them ------------------------------------------------------------------------------


REWARDS = {
    "verdicts": lambda rng, n: (rng.random(n) < 0.5).astype(float),
    "negative": lambda rng, n: -3 * rng.exponential(size=n),
    "some unscored": lambda rng, n: np.where(rng.random(n) < 0.4, np.nan, rng.normal(size=n)),
    "none scored": lambda rng, n: np.full(n, np.nan),
    "always right": lambda rng, n: np.ones(n),
    "always wrong": lambda rng, n: np.zeros(n),
    "always seven": lambda rng, n: np.full(n, 7.0),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_reward_and_no_pool_stops_a_strategy_and_it_resumes(
    name: str, kind: str, tmp_path: Path
) -> None:
    def pool(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return lambda requests: [
            group(r.prompt_id, REWARDS[kind](rng, r.num_rollouts), rng.random(r.num_rollouts))
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
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_strategy(name, **options)

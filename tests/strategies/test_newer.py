"""The newer rivals, BOTS to GPS, against numbers worked out from their rules."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from dopr import Request, UserError, make_strategy
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import BOTS, CERO, GPS, VIGOR, XRPO, Graph, Group
from dopr.strategies.methods.xrpo import student_quantile
from dopr.strategies.parts.graph_rates import (
    digamma,
    likeness_graph,
    spectral_groups,
    start_rates,
)
from pools import QUANTITIES, bernoulli_pool, group, measurer

# -- bots -------------------------------------------------------------------------------------

REFERENCES = [[0.1, 0.6], [0.3, 0.9], [0.0, 0.5], [0.8, 1.0]]


def bots_of(tmp_path: Path, m: int) -> BOTS:
    file = tmp_path / "references.json"
    file.write_text(json.dumps({str(i): pair for i, pair in enumerate(REFERENCES)}))
    strategy = BOTS(references=str(file), num_generations=m)
    strategy._counts = np.ones((4, 2))
    return strategy


def test_bots_moves_its_posteriors_as_the_official_class(tmp_path: Path) -> None:
    strategy = bots_of(tmp_path, 16)
    strategy.update(np.array([0, 1]), np.array([0.25, 0.5]))
    assert strategy._place == pytest.approx(0.318181, abs=1e-6)
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([5, 9, 1.254545, 2.381818], abs=2e-6)
    assert beta == pytest.approx([13, 9, 2.345455, 1.218182], abs=2e-6)
    strategy.update(np.array([2]), np.array([0.0]))
    assert strategy._place == pytest.approx(0.286363, abs=1e-6)
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([4.989090, 8.954909, 1.229090, 3.615272], abs=2e-6)
    assert beta == pytest.approx([13.010910, 9.045091, 18.210910, 1.424728], abs=2e-6)


def test_bots_counts_rollouts_and_clips_rates_not_the_place(tmp_path: Path) -> None:
    strategy = bots_of(tmp_path, 8)
    strategy.update(np.array([0, 1]), np.array([0.25, 0.5]))
    alpha, beta = strategy._counts.T
    assert alpha == pytest.approx([3, 5, 1.127273, 1.690909], abs=2e-6)
    assert beta == pytest.approx([7, 5, 1.672728, 1.109091], abs=2e-6)
    strategy = bots_of(tmp_path, 8)
    strategy.update(np.array([0]), np.array([0.9]))
    assert strategy._place == pytest.approx(1.6, abs=1e-5)
    assert strategy._counts[1] == pytest.approx([1.8, 1])  # 0.3 + 0.6 * 1.6 is clipped to 1


def test_bots_comes_to_choose_what_its_references_tell_apart(tmp_path: Path) -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    file = tmp_path / "references.json"
    file.write_text(json.dumps([[rate / 2, rate] for rate in success]))
    driver = Driver(BOTS(references=str(file)), PromptStream(60, 0))
    for _ in range(20):
        driver.step(bernoulli_pool(success))
    chosen = [g.prompt_id for _ in range(5) for g in driver.step(bernoulli_pool(success)).kept]
    assert np.mean(success[chosen] == 0.5) > 0.7
    assert driver.strategy.metrics()["select/place"] > 0.8  # the policy is the strong one


@pytest.mark.parametrize("content", ["[[0, 2]]", '{"0": [0]}', '{"1": [0, 1]}', "no json"])
def test_bad_references_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "references.json"
    file.write_text(content)
    with pytest.raises(UserError, match="references"):
        BOTS(references=str(file))
    with pytest.raises(UserError, match="cannot read"):
        BOTS(references=str(tmp_path / "none.json"))
    file.write_text("[[0, 1]]")
    with pytest.raises(UserError, match="1 rows and the pool 3"):
        Driver(BOTS(references=str(file)), PromptStream(3)).step(bernoulli_pool(np.ones(3) / 2))


# -- graph ------------------------------------------------------------------------------------


def path_of_four() -> np.ndarray:
    weights = np.zeros((4, 4))
    for i, j, weight in ((0, 1, 0.9), (1, 2, 0.1), (2, 3, 0.8)):
        weights[i, j] = weights[j, i] = weight
    return weights


SUCCESSES, TRIALS = np.array([6.0, 0, 1, 0]), np.array([8.0, 0, 8, 0])


def test_one_iteration_of_the_graph_estimator_by_hand() -> None:
    estimate = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    estimate.observe(SUCCESSES, TRIALS, iterations=1)
    assert estimate.a == pytest.approx([6.881085, 2.118915], abs=1e-6)
    assert estimate.b == pytest.approx([3.193595, 7.806405], abs=1e-6)
    expected = [0.670965, 0.668938, 0.229912, 0.227556]
    assert estimate.model_rates() == pytest.approx(expected, abs=1e-6)


def test_the_graph_estimator_at_its_fixed_point() -> None:
    estimate = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    estimate.observe(SUCCESSES, TRIALS, tolerance=0)
    assert estimate.q[:, 0] == pytest.approx([0.999971, 0.978057, 0.000059, 0.021945], abs=1e-6)
    assert estimate.a == pytest.approx([6.999882, 2.000118], abs=1e-6)
    assert estimate.b == pytest.approx([3.000355, 7.999645], abs=1e-6)
    rates = estimate.rates()
    assert rates == pytest.approx([0.724978, 0.689001, 0.162523, 0.210988], abs=1e-6)
    # A second step adds to the first; a prompt's own history is half of its rate.
    estimate.observe(np.array([0.0, 8, 0, 0]), np.array([0.0, 8, 0, 0]), tolerance=0)
    expected = [0.821894, 0.833316, 0.218216, 0.215218]
    assert estimate.model_rates() == pytest.approx(expected, abs=1e-6)
    assert estimate.rates()[1] == pytest.approx((0.833316 + 1) / 2, abs=1e-6)
    # Stopping early changes little.
    early = start_rates(path_of_four(), np.array([0, 0, 1, 1]))
    early.observe(SUCCESSES, TRIALS)
    assert early.rates() == pytest.approx(rates, abs=1e-3)


def test_the_graph_joins_those_that_are_near_to_each_other() -> None:
    rng = np.random.default_rng(0)
    places = np.repeat(np.eye(3), 10, axis=0) + 0.05 * rng.normal(size=(30, 3))
    unit = (places / np.linalg.norm(places, axis=1, keepdims=True)).astype(np.float32)
    graph = likeness_graph(unit, 9)
    dense = graph.toarray()
    assert (dense == dense.T).all() and not dense.diagonal().any() and dense.min() >= 0
    assert (dense > 0).sum(axis=1).max() <= 9
    blocks = np.repeat(np.arange(3), 10)
    assert not dense[blocks[:, None] != blocks[None, :]].any()
    found = spectral_groups(graph, 3, rng)
    assert [len(set(found[blocks == k].tolist())) for k in range(3)] == [1, 1, 1]
    assert len(set(found.tolist())) == 3


def test_graph_learns_which_kind_is_worth_choosing_and_resumes() -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(Graph(neighbours=10), PromptStream(60, 0), can_measure=QUANTITIES)
    strategy = driver.strategy  # the copy that runs
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(12):
        driver.step(roll_out, measure)
    chosen = [g.prompt_id for _ in range(4) for g in driver.step(roll_out, measure).kept]
    assert np.mean(success[chosen] == 0.5) > 0.7
    resumed = Graph(neighbours=10)
    resumed.load_state_dict(strategy.state_dict())
    answers = [next(s.step(PromptStream(60, 5), driver.ledger)) for s in (strategy, resumed)]
    assert answers[0] == answers[1]


# -- cero -------------------------------------------------------------------------------------


def test_ceros_prices_and_units_over_three_rounds() -> None:
    # 4 prompts, 10 rounds, 20 units of 4 rollouts, at most 2 a prompt and 4 a round.
    strategy = CERO(prompts_per_step=1, rounds=10, capacity=2.0)
    strategy._counts, strategy._theta = np.ones((4, 2)), np.full(4, 2 / 3)
    order, ledger, right = np.arange(4), Ledger(4), [0, 4, 7, 2]

    def play(prompts: list[int]) -> None:
        given = strategy.wanted(order, 4)
        assert given.tolist() == [2 * (i in prompts) for i in range(4)]
        groups = [group(i, [1] * right[i] + [0] * (8 - right[i])) for i in prompts]
        ledger.observe(groups)
        strategy._learn(groups, ledger)
        strategy.move_prices(given, 2.0)

    play([0, 1])
    assert strategy._theta == pytest.approx([0.350439, 0.377411, 0.666667, 0.666667], abs=1e-6)
    assert strategy._nu == pytest.approx(0.816228, abs=1e-6)
    play([])
    assert strategy._theta == pytest.approx([0.350439, 0.453861, 0.666667, 0.666667], abs=1e-6)
    assert strategy._nu == pytest.approx(0.5, abs=1e-6)
    play([2, 3])
    assert strategy._theta == pytest.approx([0.350439, 0.514270, 0.350439, 0.364498], abs=1e-6)
    assert strategy._nu == pytest.approx(0.816228, abs=1e-6)


def test_cero_gives_something_in_every_step_and_keeps_to_its_budget() -> None:
    success = np.linspace(0, 1, 40)
    driver = Driver(CERO(rounds=20, capacity=1.7), PromptStream(40, 0))
    strategy: CERO = driver.strategy  # type: ignore[assignment]  # the copy that runs
    spent: list[int] = []  # units of 4 rollouts, by budget
    for _ in range(60):
        before = strategy._left
        units = sum(g.num_rollouts for g in driver.step(bernoulli_pool(success)).generated) / 4
        assert 1 <= units <= 27  # 1.7 * 16
        if strategy._left > before:
            spent.append(0)
        spent[-1] += int(units)
        assert strategy._left == 20 * 16 - spent[-1] >= 0
    assert 20 * 16 in spent  # one was used up to the last unit


def test_ceros_posteriors_fade_whether_or_not_a_round_visits_them() -> None:
    strategy, ledger = CERO(memory=0.5), Ledger(2)
    strategy._counts = np.array([[5.0, 3.0], [5.0, 3.0]])
    right = group(0, [1, 1, 0])
    ledger.observe([right])
    strategy._learn([right], ledger)
    assert strategy._counts.tolist() == [[5, 3], [3, 2]]


def test_cero_gives_something_where_its_prices_are_far_apart() -> None:
    driver = Driver(CERO(capacity=1e6), PromptStream(20, 0))
    assert all(driver.step(bernoulli_pool(np.zeros(20))).kept for _ in range(6))


# -- vigor ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "rounds", "total"),
    [(16, [(16, 2), (8, 4), (4, 8), (2, 16)], 128), (8, [(8, 2), (4, 4), (2, 8), (1, 16)], 64)],
)
def test_vigors_rounds_cost_alike(prompts: int, rounds: list[tuple[int, int]], total: int) -> None:
    asked: list[tuple[int, int]] = []
    roll_out = bernoulli_pool(np.full(prompts, 0.5))

    def noted(requests: list[Request]) -> list[Group]:
        asked.append((len(requests), requests[0].num_rollouts))
        return roll_out(requests)

    kept = Driver(VIGOR(prompts_per_step=prompts), PromptStream(prompts)).step(noted).kept
    assert asked == rounds
    assert sum(g.num_rollouts for g in kept) == total
    assert set(g.num_rollouts for g in kept) == {2, 6, 14, 30}


def test_vigor_goes_on_where_rewards_vary_most() -> None:
    outcomes = {0: [0, 0, 0, 0], 1: [1, 0, 1, 0], 2: [1, 1, 1, 1], 3: [1, 1, 1, 0]}
    strategy = VIGOR(prompts_per_step=4, rounds=2, first=4, keep=0.25, growth=4)
    driver = Driver(strategy, PromptStream(4))
    kept = driver.step(
        lambda asked: [
            group(r.prompt_id, outcomes[r.prompt_id] * (r.num_rollouts // 4)) for r in asked
        ]
    ).kept
    assert {g.prompt_id: g.num_rollouts for g in kept} == {0: 4, 1: 20, 2: 4, 3: 4}


# -- xrpo -------------------------------------------------------------------------------------


def test_special_functions_are_scipys() -> None:
    values = np.array([0.01, 0.5, 1, 3.7, 40, 1e4])
    assert digamma(values) == pytest.approx(special.digamma(values), rel=1e-9)
    for freedom in (1, 2, 3, 4, 7, 30, 127):
        for confidence in (0.5, 0.95, 0.999):
            expected = special.stdtrit(freedom, 0.5 + confidence / 2)
            assert student_quantile(freedom, confidence) == pytest.approx(expected, rel=1e-8)


def test_xrpos_worth_of_one_more_rollout() -> None:
    counts = np.array([4, 4, 4, 8])
    stds = np.array([0, 0.5, np.std([0, 0, 1, 1], ddof=1), 0.5])
    strategy = XRPO(bonus=1.0)
    widths = strategy.half_width(counts, stds)
    assert widths == pytest.approx([0, 0.795612, 0.918693, 0.418010], abs=1e-6)
    worth = strategy.worth(counts, stds, 32)
    assert worth[:3] == pytest.approx([0.874127, 1.048906, 1.075945], abs=1e-6)
    assert worth[3] == pytest.approx(0.033676 + 0.437063, abs=1e-6)
    assert XRPO(bonus=1.0, bonus_form="root").worth(counts, stds, 32)[0] == pytest.approx(
        0.934948, abs=1e-6
    )


def test_xrpo_spends_the_budget_where_rewards_vary() -> None:
    success = np.array([0.0, 1.0, 0.5, 0.5])
    rng = np.random.default_rng(3)

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, rng.permutation(np.arange(r.num_rollouts) % 2))
            if success[r.prompt_id] == 0.5
            else group(r.prompt_id, [success[r.prompt_id]] * r.num_rollouts)
            for r in requests
        ]

    driver = Driver(XRPO(prompts_per_step=4, bonus=0.0), PromptStream(4))
    sizes = {g.prompt_id: g.num_rollouts for g in driver.step(roll_out).kept}
    assert sizes[0] == sizes[1] == 4 and sizes[2] + sizes[3] == 24
    assert abs(sizes[2] - sizes[3]) <= 2


# -- gps --------------------------------------------------------------------------------------


def test_gps_weighs_distance_to_one_half_against_likeness() -> None:
    strategy = GPS(diversity=0.1)
    strategy._embeddings = np.array([[1, 0], [1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    rng = np.random.default_rng(0)
    # 0 first; 1 is as good but alike (distance 0), 2 is 1 away and costs 0.2 ^ 2.
    rates = np.array([0.5, 0.5, 0.3, 0.0])
    assert sorted(strategy.choose(rates, 2, rng).tolist()) in ([0, 2], [1, 2])
    strategy.diversity = 0.0
    assert sorted(strategy.choose(rates, 2, rng).tolist()) == [0, 1]
    strategy.diversity, strategy._before = 0.1, np.array([0])
    assert strategy.choose(np.full(4, 0.5), 1, rng).tolist() == [2]  # farthest from the last


def test_gps_learns_which_kind_is_worth_choosing() -> None:
    success = np.repeat([0.0, 0.5, 1.0], 20)
    driver = Driver(GPS(diversity=0.01), PromptStream(60, 0), can_measure=QUANTITIES)
    roll_out, measure = bernoulli_pool(success), measurer(success)
    for _ in range(8):
        driver.step(roll_out, measure)
    chosen = [g.prompt_id for _ in range(4) for g in driver.step(roll_out, measure).kept]
    assert np.mean(success[chosen] == 0.5) > 0.6


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
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
def test_options_without_sense_are_refused(
    name: str, options: dict[str, float], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        make_strategy(name, **options)

"""Each strategy's rule against numbers worked out by hand, and invariants of the stream."""

import dataclasses
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr import Request, UserError, make_strategy
from dopr.core.driver import Driver
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import STRATEGIES, DoPR, Group, describe_strategies
from dopr.strategies.methods.one_shot import rank_by_history
from pools import bernoulli_pool, group


@given(st.integers(1, 40), st.lists(st.integers(1, 30), max_size=12), st.integers(0, 5))
def test_stream_draws_every_prompt_once_an_epoch(size: int, draws: list[int], seed: int) -> None:
    stream = PromptStream(size, seed)
    drawn = [stream.draw(count) for count in draws]
    for ids, count in zip(drawn, draws, strict=True):
        assert len(ids) == count and len(set(ids.tolist())) == min(count, size)
    flat = np.concatenate([*drawn, stream.draw(size)])
    for start in range(0, len(flat), size):  # an epoch, whole or begun, repeats nothing
        epoch = flat[start : start + size]
        assert len(set(epoch.tolist())) == len(epoch)


@given(st.integers(1, 30), st.lists(st.integers(1, 40), max_size=6), st.integers(1, 50))
def test_stream_resumes_where_it_was(size: int, before: list[int], after: int) -> None:
    stream = PromptStream(size, seed=7)
    for count in before:
        stream.draw(count)
    stream.rng.random()
    other = PromptStream(size, seed=99)
    other.load_state_dict(stream.state_dict())
    assert np.array_equal(stream.draw(after), other.draw(after))
    assert stream.rng.random() == other.rng.random()


def test_stream_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        PromptStream(0)


def observed_ledger() -> Ledger:
    ledger = Ledger(4, discount=1.0)
    ledger.observe([group(0, [0, 1, 0, 1]), group(1, [1, 1, 1, 0]), group(2, [1, 1, 1, 1])])
    ledger.end_step()
    return ledger


def test_dopr_score_by_hand() -> None:
    # Volatilities 1, 0.75, 0; prompt 3 never seen; t = 1, n = 1 or 0; bonus 0.5 sqrt(ln 2 / (1+n)).
    strategy = DoPR(exploration=0.5, prior="optimistic", entropy="none", discount=1.0)
    scores = strategy.score(np.array([0, 1, 2, 3]), observed_ledger())
    once, never = 0.5 * np.sqrt(np.log(2) / 2), 0.5 * np.sqrt(np.log(2))
    assert scores.volatility == pytest.approx([1.0, 0.75, 0.0, 1.0])
    assert scores.bonus == pytest.approx([once, once, once, never])
    assert scores.score == pytest.approx([1 + once, 0.75 + once, once, 1 + never])


def test_pool_prior_is_the_mean_of_those_seen_shrunk_to_one() -> None:
    # Mean of those seen (1 + 0.75 + 0) / 3; with 4 imaginary fair coins (4 + 1.75) / (4 + 3).
    strategy = DoPR(prior="pool", prior_strength=4.0)
    assert strategy.unseen_volatility(Ledger(4)) == 1.0
    assert strategy.unseen_volatility(observed_ledger()) == pytest.approx(5.75 / 7)


def test_entropy_modulates_the_bonus_only() -> None:
    ledger = observed_ledger()
    ledger.observe_entropy(0, 2.0)
    ledger.observe_entropy(1, 1.0)
    ledger.observe_policy_entropy(2.0)
    ledger.observe_policy_entropy(0.5)
    ids = np.array([0, 1, 2])
    plain = DoPR(entropy="none", exploration=0.5).score(ids, ledger)
    factors = {"prompt": [4 / 3, 2 / 3, 1], "inverse": [3 / 4, 3 / 2, 1], "policy": [0.25] * 3}
    for kind, expected in factors.items():
        scores = DoPR(entropy=kind, exploration=0.5).score(ids, ledger)  # type: ignore[arg-type]
        assert scores.bonus / plain.bonus == pytest.approx(expected)
        assert np.array_equal(scores.volatility, plain.volatility)


def test_dopr_chooses_the_k_best_and_breaks_ties_by_the_seeded_stream() -> None:
    strategy = DoPR(prompts_per_step=2, exploration=0.0, prior="pool", candidates=4)
    ledger = observed_ledger()
    scores = strategy.score(np.arange(4), ledger)
    assert set(strategy.choose(scores, PromptStream(4, 0)).tolist()) == {0, 3}
    tied = DoPR(candidates=4)
    choices = [tied.choose(tied.score(None, Ledger(4)), PromptStream(4, s))[0] for s in range(20)]
    again = [tied.choose(tied.score(None, Ledger(4)), PromptStream(4, s))[0] for s in range(20)]
    assert choices == again and len(set(choices)) > 1


def test_dopr_finds_the_informative_prompts() -> None:
    success = np.array([0.0] * 20 + [0.5] * 4 + [1.0] * 20)
    driver = Driver(DoPR(candidates=44, prompts_per_step=1), PromptStream(44, seed=1))
    roll_out = bernoulli_pool(success)
    outcomes = [driver.step(roll_out) for _ in range(200)]
    assert np.mean([o.signal_rate for o in outcomes[100:]]) > 0.9
    assert driver.spent.rollouts == 1600 and driver.ledger.step == 200


@pytest.mark.parametrize("name", ["uniform-1", "dopr", "dopr-paper", "one_shot"])
def test_strategies_pass_on_continuous_and_unscorable_rewards(name: str) -> None:
    rng = np.random.default_rng(0)

    def roll_out(requests: list[Request]) -> list[Group]:
        return [
            group(r.prompt_id, np.where(rng.random(8) < 0.3, np.nan, rng.normal(size=8)))
            for r in requests
        ]

    driver = Driver(make_strategy(name), PromptStream(6))
    for _ in range(20):
        assert driver.step(roll_out).kept
    assert all(np.isfinite(v) for v in driver.strategy.metrics().values())


def test_driver_resumes_to_the_same_choices() -> None:
    success = np.linspace(0, 1, 30)
    first = Driver(DoPR(candidates=10), PromptStream(30, 3))
    for _ in range(15):
        first.step(bernoulli_pool(success, 0))
    second = Driver(DoPR(candidates=10), PromptStream(30, 8))
    second.load_state_dict(first.state_dict())
    a, b = bernoulli_pool(success, 1), bernoulli_pool(success, 1)
    for _ in range(15):
        assert [g.prompt_id for g in first.step(a).kept] == [
            g.prompt_id for g in second.step(b).kept
        ]
    assert first.spent == second.spent


def test_one_shot_repeats_one_prompt(tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    history.write_text(json.dumps({"0": [0.5, 0.5], "1": [0.0, 1.0], "2": [0.2, 0.4]}))
    assert rank_by_history(history) == [1, 2, 0]
    strategy = make_strategy("one_shot", history=str(history), copies=3, num_generations=2)
    outcome = Driver(strategy, PromptStream(3)).step(bernoulli_pool(np.full(3, 0.5)))
    assert [g.prompt_id for g in outcome.kept] == [1, 1, 1]
    assert [g.num_rollouts for g in outcome.kept] == [2, 2, 2]


@pytest.mark.parametrize("content", ["[]", "{}", '{"a": [1]}', "{", '{"0": "x"}'])
def test_file_that_is_no_history_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "history.json"
    file.write_text(content)
    with pytest.raises(UserError):
        rank_by_history(file)
    with pytest.raises(UserError, match="no history file"):
        rank_by_history(tmp_path / "missing.json")


def test_impossible_requests_are_refused() -> None:
    class Wrong(DoPR):
        def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
            yield [Request(99, 1)]
            return []

    with pytest.raises(UserError, match="impossible request"):
        Driver(Wrong(), PromptStream(5)).step(bernoulli_pool(np.zeros(5)))


def test_strategy_that_needs_what_the_engine_cannot_measure_is_refused_at_set_up() -> None:
    class Needy(DoPR):
        measures = frozenset({"perplexity"})

    with pytest.raises(UserError, match="perplexity"):
        Driver(Needy(), PromptStream(5))


def test_group_keeps_a_subset_and_knows_when_it_is_informative() -> None:
    whole = group(0, [0, 1, 1, np.nan])
    assert whole.informative and whole.mean == pytest.approx(2 / 3)
    assert whole.keep(np.array([1, 3])).num_kept == 2
    with pytest.raises(IndexError):
        whole.keep(np.array([4]))
    assert not group(0, [0.3, 0.3 + 1e-9]).informative
    assert not group(0, [np.nan, 1.0]).informative


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"prompts_per_step": 65}, "prompts_per_step"),
        ({"exploration": -1}, "exploration"),
        ({"discount": 0}, "discount"),
        ({"volatility": "totl"}, "did you mean 'total'"),
        ({"entropy": "prompts"}, "did you mean 'prompt'"),
        ({"prior": "pol"}, "did you mean 'pool'"),
        ({"candidats": 3}, "did you mean 'candidates'"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_strategy("dopr", **options)


def test_table_of_strategies_has_the_contract_keys() -> None:
    rows = describe_strategies()
    assert {"dopr", "dopr-paper", "uniform", "uniform-1", "one_shot"} <= {r["name"] for r in rows}
    for row in rows:
        assert set(row) == {"name", "summary", "source", "mark", "pays"}


def test_keeping_rollouts_changes_nothing_else() -> None:
    whole = Group(
        2,
        np.array([0.0, 1.0]),
        np.array([3, 4]),
        step=5,
        entropy=0.5,
        entropies=np.array([0.1, 0.2]),
        handle=("x",),
        baseline=0.25,
        weights=np.array([1.0, 2.0]),
    )
    part = whole.keep(np.array([1]))
    assert part.kept is not None and part.kept.tolist() == [1]
    for field in dataclasses.fields(Group):
        if field.name != "kept":
            assert getattr(part, field.name) is getattr(whole, field.name), field.name


def test_dopr_repeats_a_pool_that_is_smaller_than_its_step() -> None:
    driver = Driver(DoPR(prompts_per_step=5), PromptStream(2, seed=0))
    outcome = driver.step(bernoulli_pool(np.array([0.5, 0.5])))
    assert sorted(g.prompt_id for g in outcome.kept) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


@given(st.integers(1, 6), st.integers(0, 3))
def test_the_best_of_many_are_the_best_by_sorting(wanted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 2000, 5000).astype(np.float32)
    ledger = Ledger(5000)
    strategy = DoPR(candidates=5000, prompts_per_step=wanted, prior="pool")
    scores = strategy.score(None, ledger)
    scores = type(scores)(score, scores.volatility, scores.bonus)
    chosen = strategy.choose(scores, PromptStream(5000, seed))
    assert len(set(chosen.tolist())) == wanted
    assert score[chosen].tolist() == sorted(score.tolist(), reverse=True)[:wanted]


@pytest.mark.parametrize(
    ("name", "option", "value", "said"),
    [
        ("mopps", "candidates_factor", 1.5, "whole number"),
        ("pods", "num_generations", 0, "at least 1"),
        ("greso", "oversample", float("nan"), "must be a number"),
        ("cures", "tau", "0.1", "must be a number"),
        ("cures", "pilots", True, "whole number"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(
    name: str, option: str, value: Any, said: str
) -> None:
    with pytest.raises(UserError, match=f"{option} is .*{said}"):
        make_strategy(name, **{option: value})


def test_no_option_is_refused_for_its_default_or_a_whole_number() -> None:
    for name, cls in STRATEGIES.items():
        for entry in fields(cls):
            if entry.init and entry.default is not MISSING:
                make_strategy(name, **{entry.name: entry.default})
    assert make_strategy("dopr", exploration=1).exploration == 1  # type: ignore[attr-defined]

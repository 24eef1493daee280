"""AsyncGRPOTrainer's rollout loop with a strategy, against a stand-in for the inference server."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from dopr import UserError

worker = pytest.importorskip("trl.experimental.async_grpo.async_rollout_worker")

from async_tools import GROUP, first_digit, new_loop, run, without_server  # noqa: E402
from dopr.engines.trl import async_rollouts  # noqa: E402
from dopr.engines.trl.async_rollouts import ChoosingLoop, ask_for_state, prepare_worker  # noqa: E402


def test_rows_come_from_the_strategy_and_every_scored_group_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"candidates": 12, "prior": "pool", "exploration": 0.05}
    dopr = {"strategy": "dopr-paper", "strategy_args": options}
    # Few in flight: what waits to be scored is as unknown as what is being generated.
    few = {"max_inflight_tasks": GROUP, "score_queue_maxsize": 1}
    loop = new_loop(tmp_path, monkeypatch, dopr=dopr, **few)
    samples = run(loop, 100)
    driver = loop.chooser.driver
    spent, ledger = driver.spent, driver.ledger
    scored = loop._total_groups_scored
    assert spent.rollouts == GROUP * scored == ledger.rollouts.sum()
    assert spent.generated_tokens == spent.rollouts and spent.surplus_rollouts == 0
    assert len(samples) == GROUP * scored
    # What pays is rolled out more often, though its rewards come when others are under way.
    assert ledger.visits[::2].mean() > 2 * ledger.visits[1::2].mean()
    advantages = {}
    for sample in samples:
        advantages.setdefault(sample.group_id, []).append(sample.advantage)
    assert all(len(one) == GROUP and abs(sum(one)) < 1e-5 for one in advantages.values())
    told = [loop._metrics_queue.get_nowait() for _ in range(loop._metrics_queue.qsize())]
    assert max(row.get("rollout/rollouts_total", 0) for row in told) == spent.rollouts


def test_only_what_the_strategy_keeps_is_handed_to_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dopr = {"strategy": "dapo", "strategy_args": {"prompts_per_step": 2, "max_rounds": 50}}
    loop = new_loop(tmp_path, monkeypatch, dopr=dopr)
    samples = run(loop, 40)
    assert samples and all(sample.metrics["reward_std"] > 0 for sample in samples)
    spent = loop.chooser.driver.spent
    assert spent.kept == len(samples) < spent.rollouts == GROUP * loop._total_groups_scored
    # What is held is what belongs to steps in flight.
    flying = {f.index for f in loop.chooser.driver.flights}
    held = {g.handle[0] for f in loop.chooser.driver.flights for g in f.generated}
    held |= {g.handle[0] for f in loop.chooser.driver.flights for g in f.arrived if g is not None}
    assert flying and set(loop._held) == held


def test_a_subset_is_trained_on_with_advantages_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dopr = {"strategy": "pods", "strategy_args": {"prompts_per_step": 1, "keep": 2}}
    loop = new_loop(tmp_path, monkeypatch, dopr=dopr)
    samples = run(loop, 20)
    sizes: dict[int, list[float]] = {}
    for sample in samples:
        sizes.setdefault(sample.group_id, []).append(sample.advantage)
    assert {len(one) for one in sizes.values()} == {2}
    mixed = [sorted(one) for one in sizes.values() if one[0] != 0]
    assert mixed and all(one == pytest.approx([-0.7071, 0.7071], abs=1e-3) for one in mixed)


def test_rollouts_are_held_against_what_was_expected_of_their_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spreads = {}
    for estimator in ("forecast", "group"):
        dopr = {"strategy": "dopr", "advantage_estimator": estimator}
        loop = new_loop(tmp_path / estimator, monkeypatch, dopr=dopr)
        samples = run(loop, 30)
        assert len(samples) > GROUP
        sums: dict[int, list[float]] = {}
        for sample in samples:
            sums.setdefault(sample.group_id, []).append(sample.advantage)
        spreads[estimator] = max(abs(sum(one)) for one in sums.values())
    assert spreads["group"] < 1e-5  # TRL's own
    assert spreads["forecast"] > 0.5  # a group that went one way is a surprise at first


def test_a_resumed_loop_asks_again_for_what_was_out_and_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dopr = {"strategy": "dapo", "strategy_args": {"prompts_per_step": 2, "max_rounds": 50}}
    first = new_loop(tmp_path, monkeypatch, dopr=dopr)
    run(first, 15)
    first.save(tmp_path / "checkpoint-3" / "dopr")
    before, out = first.chooser.driver.spent, first.chooser.handed_out
    assert out
    state = str(tmp_path / "checkpoint-3" / "dopr")
    second = new_loop(tmp_path / "again", monkeypatch, dopr=dopr, dopr_state=state)
    assert second.chooser.driver.spent.rollouts == before.rollouts
    assert [job.number for job in second.chooser.ask(len(out))] == out
    second.chooser.lose(out)
    run(second, 25)
    spent = second.chooser.driver.spent
    assert spent.rollouts == before.rollouts + GROUP * second._total_groups_scored
    assert spent.rollouts == second.chooser.driver.ledger.rollouts.sum()
    assert spent.surplus_rollouts == spent.lost_rollouts == spent.plain_steps == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dopr": {"strategy": "speed"}}, "trains on rollouts of earlier steps"),
        ({"dopr": {"strategy": "prepo"}}, "measures perplexity"),
        ({"dopr": {"strateg": "dopr"}}, "did you mean 'strategy'"),
        ({"dopr": {"strategy_args": {"candidats": 3}}}, "did you mean 'candidates'"),
    ],
)
def test_what_cannot_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        new_loop(tmp_path, monkeypatch, **changes)


def test_groups_of_another_size_and_pools_without_rows_to_look_up_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dopr = {"strategy": "uniform", "strategy_args": {"num_generations": 6}}
    with pytest.raises(UserError, match="a multiple of it"):
        next(new_loop(tmp_path, monkeypatch, dopr=dopr)._repeat_iterator())
    pool = Dataset.from_list([{"prompt": "1"}]).to_iterable_dataset()
    settings = async_rollouts.read_engine_settings({})
    with pytest.raises(UserError, match="give AsyncDoPRTrainer a Dataset"):
        async_rollouts.make_chooser(settings, pool, GROUP, 1, 0)


def test_trls_worker_is_given_the_loop_and_all_that_it_takes_can_be_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_server(monkeypatch)
    plain = worker.AsyncRolloutWorker(reward_funcs=[first_digit])
    prepare_worker(plain, {"strategy": "dopr"}, tmp_path / "meeting", 2, 7)
    assert plain._loop_cls is ChoosingLoop
    given = pickle.loads(pickle.dumps(plain._loop_kwargs))
    assert given["dopr"] == {"strategy": "dopr"} and given["seed"] == 7
    with pytest.raises(UserError, match="did not write its state"):
        ask_for_state(tmp_path / "meeting", tmp_path / "nowhere", timeout_s=0.1)

"""Replaying strategies on recorded histories: the record's answers, the measures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_tools import write
from dopr import UserError, cli, make_strategy
from dopr.offline.histories import History, read_histories
from dopr.offline.recorded_policy import RecordedPolicy
from dopr.offline.replay import ReplaySettings, replay, replay_once
from dopr.strategies import PRESETS, STRATEGIES, Measure, Request

SHARED = Path(__file__).parents[2] / "shared" / "data" / "histories"
MEASURES = {
    "informative_share",
    "mean_p1p",
    "regret",
    "coverage",
    "kept_share",
    "rollouts_to_see_learnable",
}
OWN_STRATEGIES = """
from dataclasses import dataclass
import numpy as np
from dopr import Measure, Request, Strategy

class Base(Strategy):
    summary, source, mark = "for a test", "here", "V"

@dataclass
class Oracle(Base):
    name = "oracle-of-test"
    measures = frozenset({"success_rate"})
    prompts_per_step: int = 1
    def step(self, prompts, ledger):
        rates = yield Measure(tuple(range(prompts.size)), "success_rate")
        best = np.argsort(-rates * (1 - rates), kind="stable")[: self.prompts_per_step]
        return (yield [Request(int(i), self.num_generations) for i in best])

@dataclass
class Needy(Base):
    name = "needy"
    measures = frozenset({"perplexity", "embedding"})
    def step(self, prompts, ledger):
        yield Measure((0,), "perplexity")
        return []

@dataclass
class Reader(Needy):
    name, measures, reads_entropies = "reader", frozenset(), True

@dataclass
class Lazy(Base):
    name = "lazy"
    def step(self, prompts, ledger):
        return (yield [Request(0, self.num_generations)]) if ledger.step == 0 else []

@dataclass
class Pilot(Base):
    name = "pilot"
    def step(self, prompts, ledger):
        first = yield [Request(int(prompts.draw(1)[0]), 3)]
        more = yield [Request(first[0].prompt_id, 5)]
        return [first[0].join(more[0])]
"""


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Names a strategy of `OWN_STRATEGIES`."""
    file = tmp_path / "own.py"
    file.write_text(OWN_STRATEGIES)
    return lambda name: f"{file}:{name}"


def history_of(*rows: list[float], group_size: int = 8) -> History:
    """A history of the given rates, all of one length."""
    rates = np.array(rows, dtype=float)
    lengths = np.full(len(rows), rates.shape[1])
    names = tuple(str(i) for i in range(len(rows)))
    return History(names, rates, lengths, group_size, "given")


def shared_history() -> History:
    files = sorted(SHARED.glob("*.json"))
    if not files:
        pytest.skip("../shared/data/histories is not here")
    return read_histories(files)


# -- the record's answers --------------------------------------------------------------------


def test_a_whole_group_is_the_recorded_outcome_in_random_order() -> None:
    policy = RecordedPolicy(history_of([0.375], [0.0], [1.0]), budget=10**6, seed=0)
    seen = set()
    for step in range(50):
        policy.begin_step(step, 0)
        groups = policy.roll_out([Request(i, 8) for i in range(3)])
        assert [g.rewards.sum() for g in groups] == [3, 0, 8]
        assert all(g.tokens.tolist() == [1] * 8 and g.step == step for g in groups)
        seen.add(tuple(groups[0].rewards))
    assert len(seen) > 10


def test_within_a_step_the_recorded_rollouts_are_handed_out_once() -> None:
    policy = RecordedPolicy(history_of([0.375], [0.0]), budget=10**6, seed=0)
    pilots = []
    for step in range(2000):
        policy.begin_step(step, 0)
        pilot, rest, beyond = policy.roll_out([Request(0, 3), Request(0, 5), Request(1, 40)])
        assert pilot.rewards.sum() + rest.rewards.sum() == 3
        pilots.append(pilot.rewards.sum())
        assert beyond.num_rollouts == 40 and beyond.rewards.sum() <= 3
    # Three drawn from eight of which three are right: the hypergeometric mean and variance.
    assert np.mean(pilots) == pytest.approx(9 / 8, abs=0.06)
    assert np.var(pilots) == pytest.approx(3 * (3 / 8) * (5 / 8) * (5 / 7), abs=0.06)


def test_beyond_the_record_rollouts_are_coin_flips_with_the_smoothed_rate() -> None:
    # The prompt's rate over its record is (4 + 8 + 0.5) / 17, one imaginary rollout of it joins.
    policy = RecordedPolicy(history_of([0.5, 1.0]), budget=1000, seed=1)
    policy.begin_step(1, 999)
    assert policy.epoch == 1
    rewards = policy.roll_out([Request(0, 50_000)])[0].rewards[8:]
    assert rewards.mean() == pytest.approx((8 + 12.5 / 17) / 9, abs=0.005)


def test_recorded_once_flips_coins_until_the_next_epoch() -> None:
    policy = RecordedPolicy(history_of([0.5, 1.0]), 100, 0, recorded_once=True)
    sums = []
    for step in range(200):
        policy.begin_step(step, 0)
        sums.append(policy.roll_out([Request(0, 8)])[0].rewards.sum())
    assert sums[0] == 4 and len(set(sums)) > 3
    policy.begin_step(200, 50)
    assert policy.roll_out([Request(0, 8)])[0].rewards.sum() == 8


def test_time_moves_with_the_rollouts_spent() -> None:
    policy = RecordedPolicy(history_of([0.0, 0.5, 1.0], [0.5, 0.5, 0.25]), budget=90, seed=0)
    for spent, epoch in ((0, 0), (29, 0), (30, 1), (60, 2), (89, 2), (500, 2)):
        policy.begin_step(0, spent)
        assert policy.epoch == epoch
    values, tokens = policy.measure(Measure((1, 0), "success_rate"))
    assert values.tolist() == [0.25, 1.0] and tokens == 0
    assert policy.spread == [0.0, 0.1875] and policy.best == [0.1875, 0.09375]
    with pytest.raises(UserError, match="perplexity"):
        policy.measure(Measure((0,), "perplexity"))


# -- measures --------------------------------------------------------------------------------


def test_measures_by_hand(own: Any) -> None:
    # Prompt 0 is always solved, 1 is a fair coin that is solved in the second half, 2 the reverse.
    history = history_of([1, 1], [0.5, 1], [0, 0.5])
    settings = ReplaySettings(rollouts=48, group_size=8, visits=2)
    fixed = replay_once(history, make_strategy("one_shot", prompt=1), settings, 0)
    assert fixed["informative_share"] == 0.5 and fixed["mean_p1p"] == 0.125
    assert fixed["regret"] == 0.125 and fixed["coverage"] == pytest.approx(1 / 3)
    assert fixed["kept_share"] == 1.0 and fixed["steps"] == 6 and fixed["rollouts"] == 48
    assert fixed["rollouts_to_see_learnable"] is None
    around = replay_once(history, make_strategy("uniform"), settings, 0)
    assert around["coverage"] == 1.0 and around["rollouts_to_see_learnable"] in (40, 48)
    oracle = replay_once(history, make_strategy(own("Oracle")), settings, 0)
    assert oracle["informative_share"] == 1.0 and oracle["regret"] == 0.0
    assert oracle["rollouts_to_see_learnable"] == 40
    pilot = replay_once(history, make_strategy(own("Pilot")), settings, 0)
    assert pilot["steps"] == 6 and pilot["kept_share"] == 1.0


def test_random_choice_and_oracle_are_the_two_ends_on_the_shared_history(own: Any) -> None:
    history = shared_history()
    names = ["uniform-1", own("Oracle"), *({"oracle"} & STRATEGIES.keys())]
    result = replay(history, names, settings=ReplaySettings(rollouts=24_200, seeds=2))
    found = result["strategies"]
    assert {entry["rollouts"] for entry in found.values()} == {24_200}
    assert found["uniform-1"]["informative_share"]["mean"] == pytest.approx(0.5, abs=0.05)
    for name in names[1:]:
        assert found[name]["informative_share"]["mean"] > 0.97, name
        assert abs(found[name]["regret"]["mean"]) < 0.02


def test_every_strategy_replays_awkward_histories() -> None:
    awkward = [
        history_of([0.5]),
        history_of([0.0, 0.0], [1.0, 1.0]),
        history_of(*[[i / 8, 1 - i / 8, 0.5] for i in range(9)]),
    ]
    for history in awkward:
        for group_size in (2, 8, 12):
            settings = ReplaySettings(rollouts=150, group_size=group_size, seeds=1)
            result = replay(history, settings=settings)
            json.dumps(result, allow_nan=False)
            assert result["strategies"].keys() | result["skipped"].keys() == {*STRATEGIES, *PRESETS}
            assert {"uniform", "dopr", "one_shot"} <= result["strategies"].keys()


def test_the_same_seed_gives_the_same_replay() -> None:
    history = history_of(*np.random.default_rng(0).integers(0, 9, (30, 5)) / 8)
    settings = ReplaySettings(seeds=2, rollouts=2000)
    first, second = (replay(history, ["dopr", "uniform-1"], {}, settings) for _ in range(2))
    assert first == second


def test_what_a_record_cannot_tell_is_said(own: Any) -> None:
    history, settings = history_of([0.5, 0.25]), ReplaySettings(seeds=1)
    names = [own("Needy"), own("Reader"), "uniform"]
    result = replay(history, names, settings=settings)
    assert list(result["strategies"]) == ["uniform"]
    said = "needs embedding and perplexity of the policy: not replayable"
    assert result["skipped"][names[0]] == said
    assert "each rollout's entropy" in result["skipped"][names[1]]
    with pytest.raises(UserError, match="needs embedding and perplexity"):
        replay(history, names[:1], settings=settings)


def test_a_strategy_that_stops_rolling_out_ends_the_run(own: Any) -> None:
    history, settings = history_of([0.5]), ReplaySettings(rollouts=100, group_size=8)
    result = replay_once(history, make_strategy(own("Lazy")), settings, 0)
    assert result["rollouts"] == 8 and result["steps"] == 1001


def test_prompts_per_step_is_set_where_nobody_else_sets_it() -> None:
    history = history_of(*[[0.5]] * 8)
    settings = ReplaySettings(rollouts=320, group_size=8, prompts_per_step=4, seeds=1)
    options = {"dopr": {"prompts_per_step": 2}}
    found = replay(history, ["uniform", "uniform-1", "dopr", "one_shot"], options, settings)
    steps = {name: entry["steps"] for name, entry in found["strategies"].items()}
    assert steps == {"uniform": 10, "uniform-1": 40, "dopr": 20, "one_shot": 40}


# -- the command -----------------------------------------------------------------------------


def test_the_command_prints_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = str(write(tmp_path / "h.json", {str(i): [i / 8, 0.5] for i in range(9)}))
    words = ["replay", file, "--seeds", "2", "--rollouts", "400"]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "counterfactual" in result["note"] and result["history"]["prompts"] == 9
    assert {"uniform-1", "dopr"} <= result["strategies"].keys()
    for entry in result["strategies"].values():
        assert entry.keys() >= MEASURES and entry["rollouts"] >= 400
        assert all({"mean", "low", "high"} <= entry[measure].keys() for measure in MEASURES)
    shares = [entry["informative_share"]["mean"] for entry in result["strategies"].values()]
    assert shares == sorted(shares, reverse=True)
    assert cli.main([*words, "--strategies", "dopr", "one_shot"]) == 0
    shown = capsys.readouterr().out
    assert "counterfactual" in shown and "never" in shown and "uniform" not in shown


def test_options_reach_the_strategy(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = str(write(tmp_path / "h.json", {str(i): [float(i == 3) / 2] for i in range(5)}))
    words = ["replay", file, "--json", "--strategies", "one_shot", "--strategy-args"]
    assert cli.main([*words, "one_shot.prompt=3", "one_shot.copies=1"]) == 0
    entry = json.loads(capsys.readouterr().out)["strategies"]["one_shot"]
    assert entry["informative_share"]["mean"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strategies", "dorp"], "did you mean 'dopr'"),
        (["--strategies", "dopr", "--strategy-args", "dopr.candidats=3"], "'candidates'"),
        (["--strategies", "dopr", "--strategy-args", "dopr.candidates=0"], "candidates is 0"),
        (["--strategies", "dopr", "--strategy-args", "candidates=3"], "NAME.option=value"),
        (["--strategies", "dopr", "--strategy-args", "uniform.x=3"], "among those replayed"),
        (["--strategy-args", "one_shot.prompt=77"], "prompt 77 is not in the pool"),
        (["--seeds", "0"], "seeds is 0"),
        (["--rollouts", "0"], "rollouts is 0"),
        (["--recorded-group-size", "0"], "group size is 0"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    file = str(write(tmp_path / "h.json", {"a": [0.5, 0.25]}))
    assert cli.main(["replay", file, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_a_replay_loads_no_model_library(tmp_path: Path) -> None:
    file = write(tmp_path / "h.json", {"a": [0.5, 0.25]})
    code = f"""
import sys
from dopr import cli
assert cli.main(['replay', {str(file)!r}, '--json', '--jobs', '1']) == 0
assert not {{'torch', 'trl', 'transformers', 'pandas', 'scipy'}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dopr" in json.loads(done.stdout)["strategies"]


def test_sharing_the_work_between_processes_changes_nothing() -> None:
    history = history_of([0.0, 0.5, 1.0], [0.25, 0.25, 0.5], [1.0, 1.0, 1.0])
    names = ["uniform", "dopr", "prepo"]
    one, two = (
        replay(history, names[:2], settings=ReplaySettings(seeds=2, jobs=n)) for n in (1, 2)
    )
    assert one == two
    skipped = replay(history, None, settings=ReplaySettings(seeds=1, jobs=2, rollouts=40))[
        "skipped"
    ]
    assert "not replayable" in skipped["prepo"]
    with pytest.raises(UserError, match="volatility"):
        wrong = {"dopr": {"volatilty": "total"}}
        replay(history, names, wrong, ReplaySettings(seeds=1, jobs=2, rollouts=40))


def test_with_a_delay_no_prompt_is_rolled_out_again_before_its_rewards_are_in() -> None:
    # Four prompts of 40 pay. Known at once, they are all that is rolled out; with six steps in
    # flight at most four of seven steps can have one of them, unless they may be repeated blindly.
    rates = np.where(np.arange(40) % 10 == 0, 0.5, 0.0)[:, None].repeat(2, axis=1)
    names = tuple(map(str, range(40)))
    history = History(names, rates, np.full(40, 2), 8, "given")
    shares = {}
    for delay, withhold in ((0, True), (6, True), (6, False)):
        settings = ReplaySettings(4000, 8, feedback_delay=delay, withhold_in_flight=withhold)
        strategy = make_strategy(
            "dopr-paper", candidates=40, num_generations=8, exploration=0.1, prior="pool"
        )
        found = replay_once(history, strategy, settings.resolve(history), 0)
        assert found["rollouts"] == 4000 and found["steps"] == 500
        shares[delay, withhold] = found["informative_share"]
    assert shares[0, True] > 0.8 and shares[6, False] > 0.8
    assert 0.4 < shares[6, True] <= 4 / 7


def test_replay_command_takes_a_delay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.json"
    file.write_text(json.dumps({str(i): [0.0, 0.5, 1.0] for i in range(12)}))
    command = ["replay", str(file), "--strategies", "dopr", "--seeds", "1", "--json"]
    assert cli.main([*command, "--feedback-delay", "2", "--offer-in-flight"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["feedback_delay"] == 2 and settings["withhold_in_flight"] is False
    assert cli.main([*command, "--feedback-delay", "-1"]) == 2
    assert "feedback_delay is -1" in capsys.readouterr().err

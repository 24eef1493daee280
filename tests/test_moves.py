"""What is known of a prompt follows it when a run goes on with rows in another order or number."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_tools import rows_of, train, words
from dopr.core.driver import Driver
from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, per_prompt, prompt_keys
from dopr.core.stream import PromptStream
from dopr.engines.trl.checkpoints import load_state, save_state
from dopr.strategies import Strategy, make_strategy
from pools import QUANTITIES, bernoulli_pool, group, measurer
from scripted_engine import needs_no_files

SIZE = 24
NAMES = [f"prompt-{i}" for i in range(SIZE)]


def moves_to(names: list[str], before: list[str] = NAMES) -> Moves:
    kinds = [np.array([len(name) % 2 + int(name[-1]) % 2 for name in ns]) for ns in (before, names)]
    found = Moves.between(prompt_keys(before), prompt_keys(names), (kinds[0], kinds[1]))
    assert found is not None
    return found


orders = st.permutations([*range(SIZE), *(100 + i for i in range(6))]).flatmap(
    lambda order: st.integers(4, len(order)).map(lambda n: [f"prompt-{i}" for i in order[:n]])
)


# -- keys and rows -----------------------------------------------------------------------------


@given(orders)
def test_prompts_are_found_by_their_ids(names: list[str]) -> None:
    if names == NAMES or not set(names) & set(NAMES):
        return
    moves = moves_to(names)
    for old, row in enumerate(moves.row):
        assert names[row] == NAMES[old] if row >= 0 else NAMES[old] not in names
    assert {names[i] for i in moves.new} == set(names) - set(NAMES)
    assert moves.gone == len(set(NAMES) - set(names))


def test_equal_rows_are_matched_one_by_one_and_the_same_rows_are_no_move() -> None:
    twice = ["a", "b", "a"]
    assert Moves.between(prompt_keys(twice), prompt_keys(twice)) is None
    moves = Moves.between(prompt_keys(twice), prompt_keys(["b", "a", "a", "a"]))
    assert moves is not None and moves.row.tolist() == [1, 0, 2] and moves.new.tolist() == [3]


def test_rows_of_another_dataset_are_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 prompts is among the 24"):
        moves_to(["other-1", "other-2"])


# -- ledger and stream -------------------------------------------------------------------------


@given(orders, st.integers(0, 1000))
def test_a_moved_ledger_is_the_one_that_had_seen_the_rows_there(
    names: list[str], seed: int
) -> None:
    if names == NAMES or not set(names) & set(NAMES):
        return
    moves, rng = moves_to(names), np.random.default_rng(seed)
    ledger, expected = Ledger(SIZE, 0.5), Ledger(len(names), 0.5)
    for _ in range(30):
        prompt, rewards = int(rng.integers(SIZE)), rng.random(4)
        ledger.observe([group(prompt, rewards)])
        row = int(moves.row[prompt])
        if row >= 0:
            expected.observe([group(row, rewards)])
        if rng.random() < 0.5:
            entropy, known = float(rng.random()), int(rng.integers(SIZE))
            ledger.observe_entropy(known, entropy)
            if moves.row[known] >= 0:
                expected.observe_entropy(int(moves.row[known]), entropy)
        ledger.end_step()
        expected.end_step()
    ledger.move(moves)
    assert ledger.size == expected.size and ledger.visited_count == expected.visited_count
    for column in ("visits", "mean", "squares", "group_mean", "within", "last_step", "entropy"):
        assert np.array_equal(getattr(ledger, column), getattr(expected, column), equal_nan=True)
    assert ledger.mean_entropy == pytest.approx(expected.mean_entropy, nan_ok=True)
    scale = ledger.volatility_scale / expected.volatility_scale
    for kind in ("total", "within", "between"):
        there = expected.mean_volatility(kind) * scale  # type: ignore[arg-type]
        assert ledger.mean_volatility(kind) == pytest.approx(there, nan_ok=True)  # type: ignore[arg-type]


@given(orders, st.integers(0, SIZE))
def test_an_epoch_goes_on_with_what_it_has_not_drawn(names: list[str], drawn: int) -> None:
    if names == NAMES or not set(names) & set(NAMES):
        return
    stream = PromptStream(SIZE, seed=3)
    seen = {NAMES[i] for i in stream.draw(drawn)}
    resumed = PromptStream(len(names), seed=3)
    resumed.load_state_dict(stream.state_dict(), moves_to(names))
    left = len(names) - len(seen & set(names)) if drawn else len(names)
    rest = [names[i] for i in resumed.draw(left)]
    assert sorted(rest) == sorted(set(names) - seen)
    assert resumed.epoch == 0
    assert sorted(resumed.draw(len(names))) == list(range(len(names)))


# -- strategies --------------------------------------------------------------------------------


def driver_of(strategy: str | Strategy, names: list[str]) -> Driver:
    made = strategy if isinstance(strategy, Strategy) else make_strategy(strategy)
    stream = PromptStream(len(names), 1)
    stream.categories = np.array([len(name) % 2 + int(name[-1]) % 2 for name in names])
    return Driver(made, stream, can_measure=QUANTITIES)


def success_of(names: list[str]) -> np.ndarray:
    return np.array([(int(name.split("-")[1]) * 7 % 11) / 10 for name in names])


def run(driver: Driver, names: list[str], steps: int) -> list[set[str]]:
    """The prompts rolled out in each step."""
    success = success_of(names)
    roll_out, measure = bernoulli_pool(success), measurer(success)
    asked = []
    for _ in range(steps):
        outcome = driver.step(roll_out, measure)
        assert all(0 <= g.prompt_id < len(names) for g in outcome.kept)
        asked.append({names[g.prompt_id] for g in outcome.generated})
    return asked


def reload(driver: Driver, before: list[str], after: list[str], folder: Path) -> Driver:
    save_state(folder, driver.state_dict())
    resumed = driver_of(driver.strategy.name, after)
    resumed.load_state_dict(load_state(folder), moves=moves_to(after, before))
    return resumed


@pytest.mark.parametrize("name", needs_no_files())
def test_every_strategy_follows_its_prompts_there_and_back(name: str, tmp_path: Path) -> None:
    driver = driver_of(name, NAMES)
    run(driver, NAMES, 7)
    if name == "one_shot":
        return  # its prompt is an option; see below
    order = [NAMES[i] for i in np.random.default_rng(2).permutation(SIZE)]
    there = reload(driver, NAMES, order, tmp_path)
    back = reload(there, order, NAMES, tmp_path)
    before, after = (plain(d.state_dict()) for d in (driver, back))
    assert after == before
    assert run(back, NAMES, 5) and run(there, order, 5)


@pytest.mark.parametrize("name", needs_no_files())
def test_every_strategy_goes_on_with_other_prompts_or_says_why_not(
    name: str, tmp_path: Path
) -> None:
    driver = driver_of(name, NAMES)
    run(driver, NAMES, 7)
    other = [*NAMES[3:15], *(f"prompt-{i}" for i in range(200, 230)), *NAMES[20:]]
    try:
        resumed = reload(driver, NAMES, other, tmp_path)
    except UserError as error:
        assert name in ("one_shot", "limr", "history-variance") and "\n" not in str(error)
        return
    known = {NAMES[i] for i in np.flatnonzero(driver.ledger.visits)} & set(other)
    assert {other[i] for i in np.flatnonzero(resumed.ledger.visits)} == known
    run(resumed, other, 12)


def plain(value: Any) -> Any:
    """State as nested lists that can be compared."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in SUMS}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return np.nan_to_num(value.astype(float), nan=-9.0).tolist() if value.size else []
    return None if isinstance(value, float) and np.isnan(value) else value


SUMS = ("variance_sums", "entropy_sum")  # equal but for the order of adding


def test_values_of_categories_follow_their_prompts() -> None:
    driver = driver_of("sec", NAMES)
    run(driver, NAMES, 6)
    values = dict(enumerate(vars(driver.strategy)["_values"]))
    kinds = driver.stream.categories
    resumed = driver_of("sec", NAMES[::-1])
    resumed.stream.categories = (2 - kinds)[::-1]  # numbered the other way round
    keys = prompt_keys(NAMES), prompt_keys(NAMES[::-1])
    moves = Moves.between(*keys, (kinds, resumed.stream.categories))
    resumed.load_state_dict(driver.state_dict(), moves=moves)
    assert dict(enumerate(vars(resumed.strategy)["_values"])) == {
        2 - k: v for k, v in values.items()
    }


def test_a_prompt_given_by_its_row_is_refused_in_another_row() -> None:
    driver = driver_of("one_shot", NAMES)
    run(driver, NAMES, 2)
    resumed = driver_of("one_shot", NAMES[::-1])
    with pytest.raises(UserError, match=r"row 0, is now in row 23; set strategy_args.prompt to 23"):
        resumed.load_state_dict(driver.state_dict(), moves=moves_to(NAMES[::-1]))
    with pytest.raises(UserError, match="is now gone"):
        driver_of("one_shot", NAMES[1:]).load_state_dict(
            driver.state_dict(), moves=moves_to(NAMES[1:])
        )


@dataclass
class Own(Strategy):
    """A strategy of a user's own, with state of its own."""

    told: Any = field(default_factory=lambda: np.arange(SIZE), init=False, metadata=per_prompt(-1))
    untold: Any = field(default_factory=list, init=False)

    def step(self, prompts: Any, ledger: Any) -> Any:
        raise NotImplementedError


def test_state_that_says_what_it_is_moves_and_other_state_is_refused() -> None:
    own, moves = Own(), moves_to(["prompt-5", "prompt-100"])
    own.move(moves)
    assert own.told.tolist() == [5, -1]
    own = Own()
    own.untold = [1, 2]
    with pytest.raises(UserError, match="keeps 'untold' by the rows of its dataset"):
        own.move(moves)


# -- a run -------------------------------------------------------------------------------------


def history(run: Path) -> dict[str, int]:
    table = pq.read_table(run / "ledger.parquet").to_pydict()
    return {i: v for i, v in zip(table["id"], table["visits"], strict=True) if v}


def rolled_out(run: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows_of(run / "metrics.jsonl"):
        for name in set(row["select/prompt_ids"]):
            found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize("change", ["reordered", "filtered", "added"])
def test_a_run_resumed_on_changed_rows_keeps_histories_with_their_prompts(
    tmp_path: Path, tiny_model_dir: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": f"r{i}", "prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(30)]
    data = tmp_path / "rows.jsonl"

    def write(chosen: list[dict[str, str]]) -> None:
        data.write_text("".join(json.dumps(row) + "\n" for row in chosen))

    (tmp_path / "rw.py").write_text(
        "def odd(completions, **columns):\n"
        "    return [float(sum(c.isdigit() for c in text) % 2) for text in completions]\n"
    )
    write(rows[:24])
    chosen = words(tmp_path, tiny_model_dir, steps=None, save_every=1)
    assert train(*chosen, "--steps=6") == 0
    before = rolled_out(tmp_path / "run")
    if change == "reordered":
        write(rows[:24][::-1])
    elif change == "filtered":
        write([row for row in rows[:24] if row["id"] not in list(before)[:2]])
    else:
        write(rows[10:] + rows[:10])
    assert train(*chosen, "--steps=12", "--resume") == 0
    left = {row["id"] for row in map(json.loads, data.read_text().splitlines())}
    everything = rolled_out(tmp_path / "run")
    assert history(tmp_path / "run") == {n: c for n, c in everything.items() if n in left}
    assert ("the dataset has changed" in caplog.text) == (change != "reordered")


def test_new_rows_come_after_the_others_where_nothing_is_shuffled() -> None:
    stream = PromptStream(8, shuffle=False)
    stream.draw(3)
    longer = PromptStream(9, shuffle=False)
    longer.load_state_dict(stream.state_dict(), Moves(np.arange(8), 9))
    assert longer.draw(6).tolist() == [3, 4, 5, 6, 7, 8]

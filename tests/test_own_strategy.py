"""The page on own strategies shows the file that runs, and the list of strategies is complete."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from dopr import make_strategy
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import PRESETS, STRATEGIES, describe_strategies
from pools import bernoulli_pool

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "own_strategy.py"
LIST = (ROOT / "docs" / "strategies.md").read_text()


def test_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "own-strategy.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert blocks[0] == EXAMPLE.read_text()


def test_example_finds_the_prompts_solved_half_of_the_time() -> None:
    success = np.array([0.0] * 20 + [0.5] * 8 + [1.0] * 20)
    strategy = make_strategy(f"{EXAMPLE}:NearHalf", candidates=48)
    driver = Driver(strategy, PromptStream(48, seed=1))
    roll_out = bernoulli_pool(success)
    outcomes = [driver.step(roll_out) for _ in range(60)]
    assert all(outcome.kept for outcome in outcomes)
    assert np.mean([outcome.signal_rate for outcome in outcomes[40:]]) > 0.9
    assert driver.spent.rollouts == 60 * 4 * 8


def test_example_runs_where_there_is_nothing_to_find() -> None:
    driver = Driver(make_strategy(f"{EXAMPLE}:NearHalf"), PromptStream(2))
    for _ in range(5):
        assert driver.step(bernoulli_pool(np.zeros(2))).kept


def test_every_strategy_is_listed_with_its_mark_and_when_it_pays() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", LIST, flags=re.MULTILINE))
    for row in describe_strategies():
        cells = [cell.strip() for cell in rows[row["name"]].split("|")]
        assert cells[1].endswith(f"[{row['mark']}]"), row["name"]
        assert cells[2] == row["pays"], row["name"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_option_is_explained(name: str) -> None:
    section = re.search(rf"^### `{name}`.*?(?=^##|\Z)", LIST, flags=re.MULTILINE | re.DOTALL)
    assert section, f"docs/strategies.md has no section on {name}"
    for field in dataclasses.fields(STRATEGIES[name]):
        # What is the same for nearly all is explained once, at the top of the page.
        if field.init and field.name not in ("num_generations", "prompts_per_step"):
            assert f"`{field.name}`" in section[0], f"{name} does not explain {field.name}"


def test_every_preset_is_listed() -> None:
    assert all(f"| `{name}` |" in LIST for name in PRESETS)

"""What CONTRIBUTING shows works as it stands there: the strategy, the task and the reward."""

import re
from pathlib import Path

import pytest

from dopr.offline.histories import read_histories
from dopr.offline.replay import ReplaySettings, replay
from dopr.rewards import load_reward
from dopr.tasks import load_task

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
HISTORY = ROOT / "examples" / "data" / "leg-counting-history.json"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The page's pieces of code as one file of a newcomer's."""
    file = tmp_path / "mine.py"
    file.write_text("\n\n".join(BLOCKS))
    return file


def test_the_strategy_finds_more_informative_groups_than_uniform_choice(mine: Path) -> None:
    names = ["uniform", f"{mine}:MixedLast"]
    result = replay(
        read_histories([HISTORY]), names, settings=ReplaySettings(rollouts=2000, seeds=2)
    )
    uniform, own = (result["strategies"][name]["informative_share"]["mean"] for name in names)
    assert own > 1.5 * uniform


def test_the_task_gives_rows(mine: Path) -> None:
    rows = load_task(f"{mine}:squares")
    assert len(rows) == 100
    assert rows[12]["prompt"] == "12 * 12 =" and rows[12]["answer"] == "144"


def test_the_reward_scores(mine: Path) -> None:
    reward = load_reward(f"{mine}:short")
    completions = ["it is 144", "it is 12", "144" + " " * 300]
    assert reward(["?"] * 3, completions, answer=["144"] * 3) == [1.0, 0.0, 0.0]

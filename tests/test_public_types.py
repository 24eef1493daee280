"""A type checker, run on a user's script, passes what is right and finds what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
# What the checker need not read to know our own signatures, or it would take minutes.
SETTINGS = """
[mypy]
ignore_missing_imports = true
disallow_untyped_defs = true
[mypy-dopr.*]
follow_imports = silent
[mypy-torch.*,transformers.*,peft.*,pandas.*]
follow_imports = skip
"""
SCRIPT = """
from dataclasses import dataclass

from datasets import Dataset
from trl import GRPOConfig

from dopr import (
    DoPRConfig, DoPRTrainer, Ledger, PromptStream, Request, StepPlan, Strategy, success_rates
)
from dopr.rewards import math_reward


def reward(completions: list[str], **columns: object) -> list[float]:
    return [float(len(text)) for text in completions]


async def slow_reward(completions: list[str], **columns: object) -> list[float | None]:
    return [None for _ in completions]


@dataclass
class Mine(Strategy):
    size: int = 3
    ledger_discount: float = 0.5

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        ids = prompts.draw(self.size)
        assert success_rates(ledger, ids).shape == (self.size,)
        return (yield [Request(int(i), self.num_generations) for i in ids])


rows = Dataset.from_dict({"prompt": ["1+1="], "answer": ["2"]})
DoPRTrainer("model", reward, DoPRConfig("out", strategy="dopr"), rows, strategy=Mine(size=2))
DoPRTrainer("model", (reward, slow_reward, math_reward), GRPOConfig("out"), train_dataset=rows)
"""
WRONG = {
    'DoPRTrainer("model", reward, DoPRConfig("out"), rows, stratgy="dopr")': 'mean "strategy"?',
    'DoPRTrainer("model", reward, {"output_dir": "out"}, rows)': '"GRPOConfig | None"',
    'DoPRTrainer("model", reward, DoPRConfig("out", strategy=3), rows)': 'expected "str"',
    'DoPRTrainer("model", reward, strategy=Mine)': '"Strategy | str | None"',
    'Mine(size="2")': 'expected "int"',
    "Request(1)": 'Missing positional argument "num_rollouts"',
}


def test_a_type_checker_finds_a_wrong_argument(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script, lines = tmp_path / "script.py", SCRIPT.count("\n")
    script.write_text(SCRIPT + "\n".join(WRONG) + "\n")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-pretty", script.name],
        cwd=tmp_path,
        env={"MYPYPATH": str(SOURCE), "PATH": ""},
        capture_output=True,
        text=True,
    )
    said = [line for line in found.stdout.splitlines() if line.startswith("script.py:")]
    by_line: dict[int, str] = {}
    for line in said:
        number = int(line.split(":")[1])
        by_line[number] = by_line.get(number, "") + line
    assert sorted(by_line) == [lines + 1 + i for i in range(len(WRONG))], found.stdout
    for number, expected in zip(sorted(by_line), WRONG.values(), strict=True):
        assert expected in by_line[number]

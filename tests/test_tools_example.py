"""The example of docs/tools-and-environments.md: a game of several turns, a model that knows it."""

import importlib
import json
import random
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    importlib.import_module(name).main()


def test_tiny_agent_is_made_and_hunts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    run("tiny_agent", monkeypatch, str(tmp_path / "agent"), "--steps", "2", "--games", "2")
    output = str(tmp_path / "hunt")
    run(
        "number_hunt",
        monkeypatch,
        *("--model", str(tmp_path / "agent"), "--output_dir", output),
        *("--max_steps", "1", "--rollouts", "8"),
    )
    lines = [json.loads(line) for line in (tmp_path / "hunt" / "metrics.jsonl").open()]
    assert [line["rollout/rollouts_total"] for line in lines] == [8]
    assert all("tools/call_frequency" in line and "rewards/Hunt/mean" in line for line in lines)
    assert (tmp_path / "hunt" / "final" / "model.safetensors").is_file()


def test_careful_players_always_find_one_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    hunt, agent = importlib.import_module("number_hunt"), importlib.import_module("tiny_agent")
    monkeypatch.setattr(agent, "CAREFUL", 1.0)
    ends = [agent.play(random.Random(seed)) for seed in range(200)]
    small = [chat for chat in ends if int(chat[0]["content"].split()[-1].strip(".")) <= 7]
    assert small and all(chat[-1]["content"] == "Found." for chat in small)
    assert any(chat[-1]["content"] == "Not found." for chat in ends)
    assert hunt.GUESSES == 3

"""The example strategy that predicts success: in training, and what it saves."""

import json
from pathlib import Path

import numpy as np
import pytest

from cli_tools import train, words
from dopr import cli, make_strategy
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.runs.reward_model import FitSettings, fit_rewards

EXAMPLE = Path(__file__).parent.parent / "examples" / "predicted_success.py"
NAME = f"{EXAMPLE}:PredictedHalf"


@pytest.fixture
def predictor(tmp_path: Path, tiny_model_dir: Path) -> Path:
    rows = [
        {"prompt": f"{i}+{i + 1}=?", "response": str(j), "reward": float(i % 2)}
        for i in range(12)
        for j in range(2)
    ]
    data = tmp_path / "scored.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "predictor"
    fit_rewards(
        FitSettings([str(data)], str(output), str(tiny_model_dir), head="classify", reads="prompt")
    )
    return output


def test_training_with_predictions(predictor: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    run = words(
        tmp_path,
        tiny_model_dir,
        strategy=NAME,
        **{"strategy_args.predictor": predictor, "strategy_args.candidates": 6},
    )
    assert train(*run) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_an_unseen_prompt_is_chosen_by_its_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are the rates themselves; prompts 3 and 5 lie at one half."""
    rates = np.array([0.0, 0.1, 0.9, 0.5, 1.0, 0.5])

    class Given:
        def __init__(self, folder: str) -> None:
            pass

        def rates(self, embeddings: np.ndarray) -> np.ndarray:
            return embeddings[:, 0]

    strategy = make_strategy(NAME, candidates=6, prompts_per_step=2, num_generations=2)
    monkeypatch.setitem(type(strategy).step.__globals__, "SuccessPredictor", Given)
    driver = Driver(strategy, PromptStream(6, seed=0), can_measure=strategy.measures)
    steps = strategy.step(driver.stream, driver.ledger)
    asked = next(steps)
    assert sorted(asked.prompt_ids) == list(range(6))
    requests = steps.send(rates[list(asked.prompt_ids)][:, None])
    assert {request.prompt_id for request in requests} == {3, 5}
    again = make_strategy(NAME)
    again.load_state_dict(strategy.state_dict())
    assert np.array_equal(again._predicted, rates)  # type: ignore[attr-defined]


def test_replay_says_that_it_has_no_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    history = tmp_path / "h.json"
    history.write_text(json.dumps({"0": [0.5, 0.5], "1": [0.0, 1.0]}))
    assert cli.main(["replay", str(history), "--strategies", NAME]) == 2
    assert "embedding" in capsys.readouterr().err

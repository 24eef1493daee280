"""The loop in one file: what it computes is right, and it trains the shipped model."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dopr import Measure, Request

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import one_file

RAW = Path(__file__).parent.parent / "docs" / "results" / "one-file.json"


@pytest.fixture(scope="module")
def engine() -> one_file.Engine:
    torch.manual_seed(0)
    return one_file.Engine(*one_file.load(), one_file.make_problems([(6, 2, 3, 1)], seed=5))


def test_problems_are_distinct_and_their_answers_right() -> None:
    problems = one_file.make_problems([(50, 1, 6, 1), (10, 2, 2, 4)], seed=3)
    assert len({prompt for prompt, _ in problems}) == 60
    for prompt, answer in problems:
        sign, total = 1, 0
        for word in prompt.split(": ")[1].removesuffix(" =").split():
            if word in "+-":
                sign = 1 if word == "+" else -1
            else:
                total += sign * int(word)
        assert str(total) == answer


def test_groups_are_those_that_were_asked_for(engine: one_file.Engine) -> None:
    groups = engine.roll_out([Request(4, 3), Request(1, 2)])
    assert [(group.prompt_id, group.num_rollouts) for group in groups] == [(4, 3), (1, 2)]
    for group in groups:
        prompt, answer = engine.problems[group.prompt_id]
        for (asked, told), tokens, reward in zip(
            group.handle, group.tokens, group.rewards, strict=True
        ):
            assert engine.tokenizer.decode(asked) == prompt
            text = engine.tokenizer.decode(told, skip_special_tokens=True)
            assert tokens == len(told) and reward == one_file.score(text, answer)


def test_log_probabilities_do_not_depend_on_padding(engine: one_file.Engine) -> None:
    rollouts = [([5, 6, 7], [8, 9]), ([5, 6, 7, 8, 9, 10], [11, 12, 13])]
    together, mask = one_file.log_probabilities(engine.model, rollouts)
    assert mask.sum(1).tolist() == [2, 3]
    for row, rollout in enumerate(rollouts):
        alone, own_mask = one_file.log_probabilities(engine.model, [rollout])
        torch.testing.assert_close(together[row][mask[row] > 0], alone[0][own_mask[0] > 0])


def test_embeddings_are_means_of_the_prompts_own_states(engine: one_file.Engine) -> None:
    values, tokens = engine.measure(Measure((0, 3), "embedding"))
    assert values.shape == (2, engine.model.config.hidden_size)
    assert tokens == sum(len(engine.tokenizer(engine.problems[i][0])["input_ids"]) for i in (0, 3))
    assert not np.allclose(values[0], values[1])


def test_an_update_makes_the_better_rollout_likelier() -> None:
    model, _ = one_file.load()
    rollouts = [([5, 6, 7], [8, 9, 10]), ([5, 6, 7], [11, 12])]

    def likelihoods() -> torch.Tensor:
        with torch.no_grad():
            logps, mask = one_file.log_probabilities(model, rollouts)
        return (logps * mask).sum(1)

    before = likelihoods()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    one_file.update(model, optimizer, rollouts, [1.0, -1.0], passes=2)
    better, worse = (likelihoods() - before).tolist()
    assert better > 0 > worse


def test_the_figures_in_the_docstring_are_those_of_the_raw_file() -> None:
    raw = json.loads(RAW.read_text())
    text = one_file.__doc__ or ""
    rollouts = re.search(r"rollouts +(\d.*)", text)
    assert rollouts is not None
    for strategy in ("dopr", "uniform"):
        row = re.search(rf"--strategy {strategy} +(\d.*)", text)
        assert row is not None
        curves = [dict(curve) for curve in raw["runs"][strategy].values()]
        medians = [
            f"{np.median([curve[int(n)] for curve in curves]):.3f}" for n in rollouts[1].split()
        ]
        assert row[1].split() == medians


@pytest.mark.parametrize("strategy", ["dopr", "uniform", "pods"])
def test_it_learns(strategy: str) -> None:
    held_out = one_file.make_problems([(128, 4, 6, 1)], seed=2)
    curve = one_file.train(strategy, budget=192, held_out=held_out, every=192)
    assert [rollouts for rollouts, _ in curve] == [0, 192]
    assert curve[1][1] > curve[0][1] + 0.1

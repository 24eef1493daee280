"""avg@k and pass@k against their definitions, and that evaluation leaves training alone."""

import itertools
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from dopr.core.errors import UserError
from dopr.policy.models import ADAPTER_WEIGHTS, load_model, resolve_model
from dopr.policy.prompts import within_context
from dopr.policy.sampling import Sampling
from dopr.runs.evaluation import bootstrap_mean, evaluate, measure_signal_rate, pass_at_k, summarise
from tiny import digits_reward, make_dataset, make_model, make_tokenizer


@pytest.mark.parametrize(("samples", "k"), [(1, 1), (4, 1), (4, 3), (5, 5), (8, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: int, k: int) -> None:
    found = pass_at_k(samples, np.arange(samples + 1), k)
    for right in range(samples + 1):
        marks = [1] * right + [0] * (samples - right)
        subsets = list(itertools.combinations(marks, k))
        assert found[right] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_needs_enough_samples() -> None:
    with pytest.raises(ValueError, match="k is 3"):
        pass_at_k(2, np.array([1]), 3)


def test_partial_credit_and_unscored_completions() -> None:
    rewards = np.array([[1.0, 0.5], [np.nan, 0.25], [np.nan, np.nan]])
    summary = summarise(rewards, 2)
    assert summary["avg@k"] == pytest.approx((0.75 + 0.25) / 2)
    assert summary["pass@k"] == pytest.approx(1 / 3)
    empty = summarise(np.full((2, 1), np.nan), 1)
    assert empty["avg@k"] is None and empty["avg@k_low"] is None


def test_bootstrap_interval_matches_the_normal_one() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.004)
    assert high == pytest.approx(values.mean() + half, abs=0.004)
    assert bootstrap_mean(values) == (low, high)


def run(**changes: Any) -> Any:
    options: dict[str, Any] = {"k": 3, "max_new_tokens": 6, "seed": 4} | changes
    names = {"max_new_tokens", "temperature", "batch_size", "seed"} & options.keys()
    sampling = Sampling(**{name: options.pop(name) for name in names})
    rewards = options.pop("rewards", [digits_reward])
    data = options.pop("data", make_dataset(9))
    model = options.pop("model", None) or make_model()
    return evaluate(model, make_tokenizer(), data, rewards, sampling, **options)


def test_evaluation_repeats_and_leaves_the_random_state_alone() -> None:
    model = make_model()
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = run(model=model)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    random.seed(7)
    torch.manual_seed(99)
    second = run()
    assert np.array_equal(first.rewards, second.rewards)
    assert first.rewards.shape == (9, 3)
    assert 0 < first.generated_tokens <= 9 * 3 * 6
    assert first.summary["num_prompts"] == 9
    assert not np.array_equal(first.rewards, run(seed=5).rewards)


def test_the_model_keeps_its_mode() -> None:
    model = make_model().train()
    evaluate(model, make_tokenizer(), make_dataset(2), [digits_reward], Sampling(2))
    assert model.training


def test_rows_come_back_in_order() -> None:
    texts = ["9", "123456?", "12", "1"]
    data = Dataset.from_dict({"prompt": texts, "answer": texts})
    seen: list[str] = []

    def spy(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        seen.extend(answer)
        assert prompts == answer and len(completions) == len(prompts)
        return [float(len(text)) for text in prompts]

    result = run(data=data, rewards=[spy], k=2, batch_size=3)
    assert seen == [text for text in texts for _ in range(2)]
    assert result.rewards.tolist() == [[1, 1], [7, 7], [2, 2], [1, 1]]


def test_chats_and_several_rewards() -> None:
    def none(completions: list[Any], **_: Any) -> list[None]:
        assert completions[0][0]["role"] == "assistant"
        return [None] * len(completions)

    result = run(data=make_dataset(3, chat=True), rewards=[none, digits_reward], weights=[1, 0.5])
    assert set(np.unique(result.rewards)) <= {0.0, 0.5}
    assert run(data=make_dataset(2, chat=True), rewards=[none]).summary["unscored"] == 6


def test_the_signal_rate_is_the_share_of_prompts_whose_rewards_differ() -> None:
    values = iter([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, None, 1.0, 0.25, 0.75])
    result = run(
        data=make_dataset(5),
        rewards=[lambda completions, **_: [next(values) for _ in completions]],
        k=2,
    )
    assert result.summary["signal_rate"] == pytest.approx(2 / 5)
    assert run(data=make_dataset(2), k=1).summary["signal_rate"] is None


def test_a_reward_of_the_wrong_length_is_named() -> None:
    with pytest.raises(UserError, match="returned 1 rewards for 27"):
        run(rewards=[lambda **_: [1.0]])


def test_nothing_to_evaluate_on() -> None:
    with pytest.raises(UserError, match="no rows"):
        run(data=make_dataset(3).select([]))


def test_greedy_samples_agree() -> None:
    rewards = run(
        temperature=0, rewards=[lambda completions, **_: [float(len(c)) for c in completions]]
    )
    assert (np.ptp(rewards.rewards, axis=1) == 0).all()


def test_signal_rate_counts_groups_with_variance() -> None:
    def by_prompt(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        kinds = {"0+1=?": None, "1+2=?": 1.0}
        wild = iter(range(10**6))
        return [
            float(next(wild) % 2) if kinds.get(p, 0) is None else kinds.get(p, 0.0) or 0.0
            for p in prompts
        ]

    found = measure_signal_rate(
        make_model(), make_tokenizer(), make_dataset(4), [by_prompt], Sampling(2), group_size=4
    )
    assert found["signal_rate"] == 0.25
    assert found["solved"] == 0.25 and found["hopeless"] == 0.5
    assert found["size"] == 4 and found["group_size"] == 4


def test_prompts_that_leave_no_room() -> None:
    data = make_dataset(3)
    model, tokenizer = make_model(), make_tokenizer()
    assert len(within_context(data, model, tokenizer, 100)) == 3
    long = Dataset.from_dict({"id": ["a", "b"], "prompt": ["1", "1" * 100], "answer": ["", ""]})
    with pytest.raises(UserError, match="'b' has 100 tokens"):
        within_context(long, model, tokenizer, 60)
    assert within_context(long, model, tokenizer, 60, "drop")["id"] == ["a"]
    with pytest.raises(UserError, match="no prompt fits"):
        within_context(long, model, tokenizer, 128, "drop")


def test_weights_are_never_read_from_pickles(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, folder)
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    load_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        load_model(str(folder))
    adapted = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_model_dir)
    adapted.save_pretrained(tmp_path / "adapter")
    load_model(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / ADAPTER_WEIGHTS).rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors"):
        load_model(str(tmp_path / "adapter"))


def test_models_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(UserError, match="could not be loaded"):
        load_model("nobody/nothing-here")
    with pytest.raises(UserError, match="could not be loaded"):
        load_model(str(tmp_path))
    with pytest.raises(UserError, match="did you mean 'float32'"):
        load_model("x", dtype="float3")
    assert resolve_model("some/hub-id") == "some/hub-id"


def test_prompts_of_which_nothing_was_scored_are_not_hopeless() -> None:
    def silent(completions: list[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    found = measure_signal_rate(
        make_model(), make_tokenizer(), make_dataset(4), [silent], Sampling(2), group_size=4
    )
    assert found["solved"] == found["hopeless"] == found["signal_rate"] == 0.0

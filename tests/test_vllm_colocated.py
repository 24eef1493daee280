"""DoPRTrainer with real vLLM in the same process, on the CPU: `make test-vllm`.

One small engine serves all tests (see `vllm_tools.OneEngine`); every trainer pushes its own weights
into it before it generates.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vllm_tools
from dopr import DoPRConfig, DoPRTrainer, make_strategy
from engine_tools import MODES, Recorder
from tiny import digits_reward, make_dataset, make_tokenizer, settings
from training import TwoRounds, metrics, parameters
from vllm_tools import SAME

pytestmark = vllm_tools.NEEDS_VLLM

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_tools.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def one_engine() -> Iterator[vllm_tools.OneEngine]:
    vllm_tools.prepare()
    from trl.generation import vllm_generation

    usual, vllm_generation.LLM = vllm_generation.LLM, vllm_tools.OneEngine()
    yield vllm_generation.LLM
    vllm_generation.LLM = usual


@pytest.fixture
def engine(one_engine: vllm_tools.OneEngine) -> Iterator[vllm_tools.OneEngine]:
    one_engine.asked.clear()
    yield one_engine
    for name in _LAUNCHER:  # TRL sets them, and the next trainer would take them for a launcher's
        os.environ.pop(name, None)


def make_trainer(folder: Path, output: Path, strategy: Any = None, **changes: Any) -> DoPRTrainer:
    extra = {"peft_config": changes.pop("peft_config")} if "peft_config" in changes else {}
    usual = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": vllm_tools.MODEL_LENGTH,
        "model_init_kwargs": {"dtype": "float32"},
    }
    return DoPRTrainer(
        str(folder),
        digits_reward,
        DoPRConfig(**settings(output, **(usual | changes))),
        make_dataset(),
        processing_class=make_tokenizer(),
        strategy=strategy,
        **extra,
    )


def prompts() -> list[list[int]]:
    tokenizer = make_tokenizer()
    return [tokenizer(text)["input_ids"] for text in make_dataset()["prompt"][:8]]


def assert_engine_has_the_weights_of(
    engine: vllm_tools.OneEngine, model: torch.nn.Module, changed: str = "all"
) -> None:
    plain = getattr(model, "module", model)  # out of the wrapper for several processes
    expected = vllm_tools.greedy(plain, prompts(), 12)
    assert engine.greedy(prompts(), 12) == expected, f"after a change of {changed}"


# -- weights ---------------------------------------------------------------------------------


def test_new_weights_reach_the_engine(folder: Path, tmp_path: Path, engine: Any) -> None:
    trainer = make_trainer(folder, tmp_path)
    trainer.vllm_generation.sync_weights()
    assert_engine_has_the_weights_of(engine, trainer.model)
    before = engine.greedy(prompts(), 12)
    trainer.model.load_state_dict(vllm_tools.make_wide_model(seed=1).state_dict())
    assert engine.greedy(prompts(), 12) == before
    trainer.vllm_generation.sync_weights()
    assert engine.greedy(prompts(), 12) != before
    assert_engine_has_the_weights_of(engine, trainer.model)


def test_every_single_weight_reaches_the_engine(folder: Path, tmp_path: Path, engine: Any) -> None:
    """A layer that still multiplied by an old copy of its weights would show here."""
    trainer = make_trainer(folder, tmp_path)
    torch.manual_seed(5)
    for name, parameter in trainer.model.named_parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
        trainer.vllm_generation.sync_weights()
        assert_engine_has_the_weights_of(engine, trainer.model, name)


def test_twenty_steps_train_on_rollouts_of_the_newest_weights(
    folder: Path, tmp_path: Path, engine: Any
) -> None:
    trainer = make_trainer(folder, tmp_path, max_steps=20, lr_scheduler_type="constant")
    start = parameters(trainer)
    before = vllm_tools.greedy(trainer.model, prompts(), 12)
    trainer.train()
    rows = metrics(tmp_path)
    assert len(rows) == 20 and len(engine.asked) == 20
    assert (parameters(trainer) - start).abs().max() > 0.01
    assert all(row["sampling/sampling_logp_difference/max"] < SAME for row in rows)
    trainer.vllm_generation.sync_weights()
    assert engine.greedy(prompts(), 12) != before
    assert_engine_has_the_weights_of(engine, trainer.model)


def test_engine_left_with_old_weights_is_seen(folder: Path, tmp_path: Path, engine: Any) -> None:
    """What the test above looks at does tell stale weights from new ones."""
    trainer = make_trainer(folder, tmp_path, max_steps=6)
    trainer.vllm_generation.sync_weights()
    trainer.vllm_generation.sync_weights = lambda: None
    trainer.train()
    differences = [row["sampling/sampling_logp_difference/max"] for row in metrics(tmp_path)]
    assert differences[0] < SAME and differences[-1] > 1  # observed: 7


def test_adapters_are_merged_into_the_engines_weights(
    folder: Path, tmp_path: Path, engine: Any
) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    trainer = make_trainer(folder, tmp_path, peft_config=lora, max_steps=5)
    trainer.train()
    assert all(row["sampling/sampling_logp_difference/max"] < SAME for row in metrics(tmp_path))


# -- groups and rounds -----------------------------------------------------------------------


def test_regular_groups_are_asked_for_whole(folder: Path, tmp_path: Path, engine: Any) -> None:
    """In one process TRL sends every row by itself (n = 1); a group's rows stand together."""
    make_trainer(folder, tmp_path, max_steps=2).train()
    assert len(engine.asked) == 2
    for rows, wanted in engine.asked:
        assert wanted.n == 1 and len(rows) == 8
        assert all(row == rows[0] for row in rows[:4]) and all(row == rows[4] for row in rows[4:])
        assert rows[0] != rows[4]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_unequal_groups_in_several_rounds_keep_right_log_probabilities(
    folder: Path, tmp_path: Path, engine: Any, mode: str, temperature: float
) -> None:
    trainer = make_trainer(
        folder,
        tmp_path,
        TwoRounds(keep_every=1),
        temperature=temperature,
        vllm_importance_sampling_mode=mode,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        max_steps=1,
    )
    recorder = Recorder(trainer)
    trainer.train()
    assert [len(rows) for rows, _ in engine.asked] == [5 + 3, 4]
    assert engine.asked[0][0][0] == engine.asked[1][0][0] != engine.asked[0][0][5]
    rows = recorder.rows()
    assert len(rows) == 5 + 3 + 4
    model = vllm_tools.make_wide_model()  # the weights before the step
    for ids, row in rows:
        prompt = row["prompt_ids"][row["prompt_mask"].bool()]
        inputs = torch.cat([prompt, torch.tensor(ids)]).unsqueeze(0)
        with torch.no_grad():
            logits = model(inputs).logits[0, len(prompt) - 1 : -1] / temperature
        expected = logits.log_softmax(-1).gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
        assert torch.allclose(row["sampling_per_token_logps"], expected, atol=SAME, rtol=0)
        assert torch.allclose(row["old_per_token_logps"], expected, atol=SAME, rtol=0)
        assert (row["importance_sampling_ratio"] - 1).abs().max() < 10 * SAME
    assert trainer.driver.spent.rollouts == 12


@pytest.mark.parametrize("name", ["speed", "dots", "vcrl", "reinforce-ada", "coba-rl"])
def test_strategies_of_every_kind_train(
    folder: Path, tmp_path: Path, engine: Any, name: str
) -> None:
    """Kept and replayed rollouts, several rounds, unequal groups."""
    strategy = make_strategy(name, num_generations=4)
    trainer = make_trainer(folder, tmp_path, strategy, max_steps=6, num_iterations=1)
    start = parameters(trainer)
    trainer.train()
    assert torch.isfinite(parameters(trainer)).all()
    assert not torch.equal(start, parameters(trainer))
    assert all(row["sampling/sampling_logp_difference/max"] < SAME for row in metrics(tmp_path))
    assert sum(len(rows) for rows, _ in engine.asked) == trainer.driver.spent.rollouts

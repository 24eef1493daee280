"""Every precision; TRL's defaults left alone ask for bfloat16 autocast and checkpointing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from trl import GRPOConfig, GRPOTrainer

from cli_tools import train as run
from cli_tools import words
from dopr import DoPRConfig, DoPRTrainer
from dopr.policy.generation import decoding_loop, is_supported
from dopr.policy.sampling import Sampling, generate
from dopr.runs.evaluation import evaluate
from dopr.strategies import STRATEGIES
from tiny import SHAPE, digits_reward, make_dataset, make_model, make_tokenizer, untouched
from training import make_trainer, parameters

MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype)


def train(cls: Any, args: Any, model: Any, **kwargs: Any) -> Any:
    trainer = cls(
        model, digits_reward, args, make_dataset(), processing_class=make_tokenizer(), **kwargs
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_trl_defaults_train(
    tmp_path: Path, dtype: torch.dtype, strategy: str, adapters: bool
) -> None:
    args = DoPRConfig(str(tmp_path), use_cpu=True, max_steps=2, strategy=strategy)
    assert args.bf16 and args.gradient_checkpointing
    peft = {"peft_config": LoraConfig(task_type="CAUSAL_LM")} if adapters else {}
    assert train(DoPRTrainer, args, build("llama", dtype), **peft).state.global_step == 2


REMEMBERING = sorted(
    name for name, cls in STRATEGIES.items() if cls.replays or cls.measures or cls.reads_entropies
)


@pytest.mark.parametrize("name", REMEMBERING)
def test_strategies_that_measure_or_replay_train_and_resume_with_trl_defaults(
    tmp_path: Path, name: str
) -> None:
    """What they read of the policy, and what a checkpoint holds of rollouts, is in bfloat16."""

    def trainer() -> DoPRTrainer:
        saving = {"save_strategy": "steps", "save_steps": 2, "scale_rewards": "none"}
        return make_trainer(tmp_path, name, max_steps=4, **untouched(), **saving)

    whole = trainer()
    assert whole.args.bf16 and whole.args.gradient_checkpointing
    whole.train()
    assert torch.isfinite(parameters(whole)).all()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(parameters(whole), parameters(resumed))
    assert whole.driver.spent == resumed.driver.spent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "num_generations": 4}])
def test_uniform_with_trl_defaults_equals_plain_grpo(
    tmp_path: Path, dtype: torch.dtype, changes: dict[str, Any]
) -> None:
    common = {"use_cpu": True, "max_steps": 2, "learning_rate": 1e-2, "max_completion_length": 24}
    plain = GRPOConfig(str(tmp_path / "plain"), **common | changes)
    ours = DoPRConfig(str(tmp_path / "ours"), strategy="uniform", **common | changes)
    expected = train(GRPOTrainer, plain, make_model().to(dtype)).model
    actual = train(DoPRTrainer, ours, make_model().to(dtype)).model
    assert all(
        torch.equal(a, b) for a, b in zip(expected.parameters(), actual.parameters(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
@pytest.mark.parametrize("checkpointing", [True, False], ids=["checkpointing", "keeping"])
@pytest.mark.parametrize("fast", [True, False], ids=["our loop", "library"])
def test_every_precision_trains(
    tmp_path: Path, dtype: torch.dtype, autocast: bool, checkpointing: bool, fast: bool
) -> None:
    args = DoPRConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=autocast,
        gradient_checkpointing=checkpointing,
        fast_decoding=fast,
        max_completion_length=12,
        max_steps=1,
    )
    assert train(DoPRTrainer, args, build("llama", dtype)).state.global_step == 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_logits_under_autocast_are_the_forward_passes_own(name: str, exact: bool) -> None:
    model = build(name).eval()
    assert is_supported(model)
    wrapped = torch.autocast("cpu", torch.bfloat16)
    inner, seen = model.forward, []

    def forward(*args: Any, **kwargs: Any) -> Any:  # as accelerate wraps it
        with wrapped:
            return inner(*args, **kwargs)

    model.forward = forward
    prompt = torch.tensor([[5, 6, 7], [5, 6, 7], [8, 9, 10]])

    def keep(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append((ids.clone(), scores.clone()))
        return scores

    with torch.no_grad():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=10,
            logits_processor=[keep],
            custom_generate=decoding_loop(model, exact),
        )
        for ids, scores in seen:
            expected = model(ids).logits[:, -1].float()
            # bfloat16 has eight bits; the library's own loop differs from it by as much.
            assert torch.allclose(scores, expected, atol=0.02)


@pytest.mark.parametrize("fast", [True, False], ids=["our loop", "library"])
def test_a_trained_policy_is_evaluated_in_its_precision(tmp_path: Path, fast: bool) -> None:
    args = DoPRConfig(str(tmp_path), use_cpu=True, max_steps=1, fast_decoding=fast)
    policy = train(DoPRTrainer, args, build("llama")).model
    found = evaluate(policy, make_tokenizer(), make_dataset(), [digits_reward], Sampling(), k=2)
    assert found.rewards.shape == (24, 2)
    assert len(generate(policy, make_tokenizer(), ["1+1=?"], 3, Sampling(8))) == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, '{"r": 4}'], ids=["whole", "lora"])
def test_dopr_train_in_mixed_precision_as_on_a_gpu(
    tmp_path: Path, tiny_model_dir: Path, dtype: str, lora: str | None
) -> None:
    # `bf16: null` and `gradient_checkpointing: null` mean true there.
    changes = {"bf16": "true", "gradient_checkpointing": "true", "dtype": dtype, "lora": lora}
    changes |= {"eval_dataset": str(tmp_path / "rows.jsonl"), "eval.every_steps": "2"}
    assert run(*words(tmp_path, tiny_model_dir, **changes)) == 0
    evals = (tmp_path / "run" / "eval.jsonl").read_text().splitlines()
    assert len(evals) == 3

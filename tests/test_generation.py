"""Our decoding loop is taken where it fits; everything else samples as the library does."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from dopr.policy import generation
from dopr.policy.generation import decoding_loop, faster_generation, is_supported
from dopr.policy.sampling import Sampling, generate
from tiny import SHAPE, digits_reward, make_dataset, make_model, make_tokenizer

OTHERS = {"vocab_size": SHAPE["vocab_size"], "pad_token_id": 0, "eos_token_id": 1}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, sliding": MistralConfig(**SHAPE, sliding_window=8),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=16),
    "smollm3": SmolLM3Config(**SHAPE),
    "phi3": Phi3Config(**SHAPE),
    # With dropout the first plain run of a process differs from the second by itself.
    "gpt2": GPT2Config(
        **OTHERS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    "gpt-neox": GPTNeoXConfig(
        **OTHERS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    ),
}
OURS = {"llama", "mistral", "qwen2", "qwen3"}


def build(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[name])


def train(cls: Any, args: Any, model: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
    tokenizer = tokenizer or make_tokenizer()
    trainer = cls(model, digits_reward, args, make_dataset(), processing_class=tokenizer, **kwargs)
    trainer.train()
    return trainer


def quick(folder: Path, cls: Any = DoPRConfig, **changes: Any) -> Any:
    """TRL's defaults but for the length of the run."""
    short = {"use_cpu": True, "max_steps": 1, "max_completion_length": 10, "learning_rate": 1e-2}
    return cls(str(folder), **short | changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_with_trl_defaults_as_plain_grpo_does(
    tmp_path: Path, name: str
) -> None:
    model = build(name)
    assert is_supported(model) == (name in OURS)
    expected = train(GRPOTrainer, quick(tmp_path / "plain", GRPOConfig), model).model
    ours = quick(tmp_path / "ours", strategy="uniform")
    actual = train(DoPRTrainer, ours, build(name)).model
    pairs = zip(expected.parameters(), actual.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert train(DoPRTrainer, quick(tmp_path / "dopr"), build(name)).state.global_step == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_evaluated(name: str) -> None:
    found = generate(build(name), make_tokenizer(), ["1+1=?", "22+3=?"], 2, Sampling(6))
    assert len(found) == 4 and all(0 < len(ids) <= 6 for ids in found)


@pytest.mark.parametrize(
    "change",
    [
        {"padding_side": "right"},
        {"padding_side": "left"},
        {"pad_token": "<eos>"},
        {"pad_token": None},
    ],
    ids=str,
)
def test_tokenizers_of_every_kind_train(tmp_path: Path, change: dict[str, Any]) -> None:
    tokenizer, expected = make_tokenizer(), make_tokenizer()
    for one in (tokenizer, expected):
        for key, value in change.items():
            setattr(one, key, value)
    ours = quick(tmp_path / "ours", strategy="uniform")
    actual = train(DoPRTrainer, ours, make_model(), tokenizer).model
    plain = train(GRPOTrainer, quick(tmp_path / "plain", GRPOConfig), make_model(), expected).model
    pairs = zip(plain.parameters(), actual.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


OWN_SETTINGS: list[dict[str, Any]] = [
    {"eos_token_id": [1, 5, 9]},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"suppress_tokens": [4, 5]},
    {"do_sample": True, "top_k": 3, "temperature": 0.6},
    {"max_length": 12},
    {"num_beams": 2},
    {"cache_implementation": "static"},  # which the library itself cannot do under autocast
    {"use_cache": False},
]


@pytest.mark.parametrize("own", OWN_SETTINGS, ids=str)
def test_generation_settings_of_the_models_own_count_as_in_plain_grpo(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    models = [make_model(), make_model()]
    for model in models:
        model.generation_config.update(**own)
    changes = {"bf16": "cache_implementation" not in own}
    plain = train(GRPOTrainer, quick(tmp_path / "plain", GRPOConfig, **changes), models[0]).model
    ours = quick(tmp_path / "ours", strategy="uniform", **changes)
    actual = train(DoPRTrainer, ours, models[1]).model
    pairs = zip(plain.parameters(), actual.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_known_models_sample_by_our_loop_in_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, adapters: bool
) -> None:
    # Reading embeddings for the choice leaves hooks of the library on every layer.
    calls, ours = [], generation.sample

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(args)
        return ours(*args, **kwargs)

    monkeypatch.setattr(generation, "sample", counted)
    peft = {"peft_config": LoraConfig(task_type="CAUSAL_LM")} if adapters else {}
    train(DoPRTrainer, quick(tmp_path, max_steps=3, strategy=strategy), make_model(), **peft)
    assert len(calls) == 3


def test_settings_that_want_another_loop_get_it() -> None:
    model = make_model().eval()
    sampled = GenerationConfig(do_sample=True)
    assert decoding_loop(model, config=sampled) is not None
    for asked in ({"num_beams": 2}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert decoding_loop(model, config=GenerationConfig(**asked)) is None
        own = make_model().eval()
        own.generation_config.update(**asked)
        assert decoding_loop(own, config=sampled) is None


def test_models_that_only_look_known_are_left_to_the_library() -> None:
    assert is_supported(make_model())
    listened = make_model()
    listened.model.layers[1].self_attn.register_forward_hook(lambda *_: None)
    assert not is_supported(listened)
    patched = make_model()
    patched.model.layers[0].mlp.forward = patched.model.layers[0].mlp.forward
    assert not is_supported(patched)
    other = make_model()
    other.model.layers[0].mlp = torch.nn.Linear(32, 32)
    assert not is_supported(other)
    dropping = make_model()
    dropping.config.attention_dropout = 0.1
    assert not is_supported(dropping.train()) and is_supported(dropping.eval())
    eager = make_model()
    eager.set_attn_implementation("eager")
    assert not is_supported(eager)


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_learned_prompts_are_left_to_the_library(kind: Any) -> None:
    settings = kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert not is_supported(get_peft_model(make_model(), settings))
    assert is_supported(get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM")))


def test_a_loop_that_fails_leaves_the_sampling_to_the_library(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model().eval()
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    config = GenerationConfig(do_sample=True, max_new_tokens=8, pad_token_id=0, eos_token_id=1)
    torch.manual_seed(5)
    expected = model.generate(prompt, generation_config=config)

    tries = []

    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        tries.append(torch.rand(7))
        raise TypeError("a layer of another kind")

    monkeypatch.setattr(generation, "sample", broken)
    with caplog.at_level(logging.WARNING), faster_generation(model, config, exact=False):
        for _ in range(2):
            torch.manual_seed(5)
            assert torch.equal(model.generate(prompt, generation_config=config), expected)
    assert caplog.text.count("a layer of another kind") == 1 and len(tries) == 1
    assert not is_supported(model) and is_supported(make_model())


@pytest.mark.parametrize("error", [generation.DivergedError, torch.OutOfMemoryError])
def test_what_the_library_could_not_do_either_is_raised(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise error("no use")

    monkeypatch.setattr(generation, "sample", broken)
    model = make_model().eval()
    with pytest.raises(error, match="no use"):
        generate(model, make_tokenizer(), ["1+1=?"], 2, Sampling(6))
    assert is_supported(model)


def test_inputs_that_are_not_text_alone_are_left_to_the_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = make_model().eval()
    embedded = model.get_input_embeddings()(torch.tensor([[5, 6, 7]])).detach()
    config = GenerationConfig(do_sample=False, max_new_tokens=5, pad_token_id=0, eos_token_id=1)
    expected = model.generate(inputs_embeds=embedded, generation_config=config)
    generation._say_once.cache_clear()
    with caplog.at_level(logging.WARNING), faster_generation(model, config, exact=False):
        found = model.generate(inputs_embeds=embedded, generation_config=config)
    assert torch.equal(found, expected)
    assert "inputs inputs_embeds are sampled by the library's own loop" in caplog.text


def test_a_model_whose_hidden_states_were_asked_for_keeps_our_loop() -> None:
    model = make_model()
    model(input_ids=torch.tensor([[5, 6]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())  # the library's stay
    assert is_supported(model)

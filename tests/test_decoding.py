"""Our decoding loop gives the tokens of the library's own, for every kind of model it takes on."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from dopr import DoPRConfig, DoPRTrainer
from dopr.policy import decoding
from dopr.policy.generation import decoding_loop, faster_generation, is_supported
from dopr.policy.roomy_cache import RoomyLayer
from tiny import digits_reward, make_dataset, make_model, make_tokenizer

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, all heads, biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE | {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True})
    ),
    "llama3 rotation": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
}


def make(name: str) -> Any:
    torch.manual_seed(3)
    model = MODELS[name]().double().eval()
    # Ends come at different times, and weights that start as ones must show where they act.
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def batch(rows_each: int = 3) -> dict[str, torch.Tensor]:
    """Prompts of different length, left-padded, several rollouts of each."""
    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]]
    width = max(map(len, prompts))
    ids = [[0] * (width - len(p)) + p for p in prompts for _ in range(rows_each)]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts for _ in range(rows_each)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def complete(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    settings = {"max_new_tokens": 70, "do_sample": True, "top_k": 0, "pad_token_id": 0}
    extra = {k: options.pop(k) for k in ("custom_generate", "stopping_criteria") if k in options}
    config = GenerationConfig(**settings | {"eos_token_id": 1} | options)
    torch.manual_seed(11)
    with torch.no_grad():
        return model.generate(**inputs, generation_config=config, **extra)


@pytest.fixture
def library_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers as `torch.multinomial` takes them, so that tokens can be compared."""

    def choose(
        scores: torch.Tensor, alive: Any, rows: int, sampling: bool, exact: bool
    ) -> torch.Tensor:
        if not sampling:
            return scores.argmax(dim=-1)
        noise = scores.new_empty(rows, scores.shape[1]).exponential_()
        return (torch.softmax(scores, dim=-1) / noise[alive]).argmax(dim=-1)

    monkeypatch.setattr(decoding, "_choose", choose)


@pytest.mark.parametrize("name", MODELS)
def test_exact_gives_the_tokens_of_the_library(name: str) -> None:
    model = make(name).float()
    usual = complete(model, batch())
    assert torch.equal(usual, complete(model, batch(), custom_generate=decoding_loop(model, True)))


@pytest.mark.usefixtures("library_noise")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_same_tokens_from_the_same_noise(name: str, exact: bool) -> None:
    model = make(name)
    usual = complete(model, batch())
    ours = complete(model, batch(), custom_generate=decoding_loop(model, exact))
    lengths = (usual[:, 6:] != 0).sum(1)
    assert len(set(lengths.tolist())) > 2, "rows should end at different times"
    assert torch.equal(usual, ours)


@pytest.mark.usefixtures("library_noise")
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"top_p": 0.8},
        {"top_k": 5},
        {"min_new_tokens": 20},
        {"repetition_penalty": 1.3},
        {"do_sample": False},
        {"eos_token_id": [1, 2, 3]},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_sampling_options_act_alike(options: dict[str, Any]) -> None:
    model = make("llama")
    usual = complete(model, batch(), **options)
    assert torch.equal(
        usual, complete(model, batch(), **options, custom_generate=decoding_loop(model))
    )


def test_tokens_come_as_often_as_they_are_likely() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.0, 0.2, 0.3], [0.0, 0.01, 0.0, 0.99]]))
    torch.manual_seed(0)
    drawn = torch.stack(
        [decoding._choose(scores, slice(None), 2, True, False) for _ in range(20_000)]
    )
    for row, likely in enumerate(torch.softmax(scores, -1)):
        share = torch.bincount(drawn[:, row], minlength=4) / len(drawn)
        spread = torch.sqrt(likely * (1 - likely) / len(drawn))
        assert (share - likely).abs().le(4 * spread).all()
    assert not (drawn[:, 0] == 1).any() and set(drawn[:, 1].tolist()) == {1, 3}


def test_what_a_row_draws_does_not_depend_on_rows_that_ended() -> None:
    scores = torch.randn(6, 30)
    alive = torch.tensor([1, 4, 5])
    torch.manual_seed(2)
    everyone = decoding._choose(scores, slice(None), 6, True, False)
    torch.manual_seed(2)
    some = decoding._choose(scores[alive], alive, 6, True, False)
    assert torch.equal(everyone[alive], some)


@pytest.mark.usefixtures("library_noise")
def test_own_stopping_criteria_are_kept() -> None:
    class Seven(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return ids[:, -1] == 7

    model = make("llama")
    options = {"stopping_criteria": StoppingCriteriaList([Seven()])}
    usual = complete(model, batch(), **options)
    loop = decoding_loop(model)
    assert torch.equal(usual, complete(model, batch(), **options, custom_generate=loop))
    assert not torch.equal(usual, complete(model, batch()))


@pytest.mark.usefixtures("library_noise")
def test_adapters_take_part() -> None:
    model = get_peft_model(
        make("qwen3"),
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    ).eval()
    usual = complete(model, batch())
    assert torch.equal(usual, complete(model, batch(), custom_generate=decoding_loop(model)))
    with model.disable_adapter():
        assert not torch.equal(usual, complete(model, batch()))


def test_one_prompt_is_read_once_for_its_whole_group() -> None:
    model = make("llama")
    rows = []
    usual = type(model).forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["input_ids"]))
        return usual(model, *args, **kwargs)

    model.forward = counted
    complete(model, batch(5), custom_generate=decoding_loop(model))
    assert rows == [3]
    rows.clear()
    complete(model, batch(5), custom_generate=decoding_loop(model, exact=True))
    assert rows == [15]


def test_models_it_does_not_know_keep_the_library_loop() -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=40))
    sliding = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))
    eager = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="eager"))
    for model in (other, sliding, eager):
        assert not is_supported(model) and decoding_loop(model) is None
        with faster_generation(model, GenerationConfig(), exact=False):
            assert "generate" not in vars(model)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"cache_implementation": "static"}])
def test_other_ways_of_generating_are_left_alone(options: dict[str, Any]) -> None:
    model = make("llama")
    with faster_generation(model, GenerationConfig(**options), exact=False):
        assert "generate" not in vars(model)


def test_generate_is_put_back_after_an_error() -> None:
    model = make("llama")
    with pytest.raises(ValueError), faster_generation(model, GenerationConfig(), exact=False):
        assert "generate" in vars(model)
        raise ValueError
    assert "generate" not in vars(model)


def test_weights_that_diverged_are_reported() -> None:
    model = make("llama")
    model.lm_head.weight.data[:] = torch.nan
    with pytest.raises(RuntimeError, match="diverged"):
        complete(model, batch(), custom_generate=decoding_loop(model))


def test_cache_grows_and_keeps_rows() -> None:
    cache = RoomyLayer(limit=300)
    keys, values = torch.randn(2, 3, 200, 4), torch.randn(2, 3, 200, 4)
    cache.update(keys[:, :, :5], values[:, :, :5])
    for t in range(5, 200):
        seen, _ = cache.append(keys[:, :, t], values[:, :, t])
    assert torch.equal(seen, keys) and cache.get_seq_length() == 200
    cache.take_rows(torch.tensor([1, 1, 0]))
    extra = torch.randn(3, 3, 4)
    seen, worth = cache.append(extra, extra)
    assert torch.equal(seen[:, :, :200], keys[[1, 1, 0]])
    assert torch.equal(worth[:, :, :200], values[[1, 1, 0]])
    assert torch.equal(seen[:, :, 200], extra)


@pytest.mark.usefixtures("library_noise")
def test_training_with_it_ends_like_training_without(tmp_path: Any) -> None:
    """The same noise gives the same tokens and rewards, so the same weights up to rounding."""
    ends = []
    for fast in (True, False):
        args = DoPRConfig(
            output_dir=str(tmp_path / str(fast)),
            fast_decoding=fast,
            strategy="dopr",
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=12,
            max_steps=4,
            learning_rate=1e-3,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=5,
        )
        trainer = DoPRTrainer(
            make_model(), digits_reward, args, make_dataset(), processing_class=make_tokenizer()
        )
        trainer.train()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)

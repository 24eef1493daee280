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
from dopr.policy.direct_layers import as_operation, attend
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
    not_settings = ("custom_generate", "stopping_criteria", "logits_processor")
    extra = {k: options.pop(k) for k in not_settings if k in options}
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


def test_on_a_cpu_the_tokens_of_a_head_lie_behind_each_other() -> None:
    cache = RoomyLayer(limit=9)
    keys = torch.randn(2, 3, 4, 5)
    cache.update(keys, keys)
    seen, _ = cache.append(keys[:, :, 0], keys[:, :, 0])
    assert seen.stride() == (3 * 9 * 5, 9 * 5, 5, 1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_of_one_token_is_that_of_the_library(
    padded: bool, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, 2, 4, 8).to(precision)  # 3 rows, 2 keys for 4 heads each
    keys, values = torch.randn(2, 3, 2, 7, 8).to(precision)
    lengths = torch.tensor([0, 3, 6])
    mask = (torch.arange(7) >= lengths[:, None])[:, None, None] if padded else None
    usual = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=0.3
    )
    close = 1e-6 if precision == torch.float32 else 1e-12
    assert torch.allclose(attend(query, keys, values, mask, 0.3), usual, atol=close, rtol=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_norms_are_the_library_s(size: float, precision: torch.dtype) -> None:
    norm = make("qwen3").model.layers[0].self_attn.q_norm.to(precision)
    heads = size * torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, usual = as_operation(norm)(heads.to(precision)), norm(heads.to(precision))
    assert torch.allclose(
        ours.float(), usual.float(), rtol=1e-5 if precision.itemsize > 2 else 1e-2
    )


def test_a_changed_module_is_called_as_it_is() -> None:
    layer = torch.nn.Linear(3, 3)
    assert as_operation(layer) is not layer
    layer.register_forward_hook(lambda *_: None)
    assert as_operation(layer) is layer


def test_tokens_can_be_trained_on() -> None:
    """The loop computes in inference mode; what was made there cannot be kept for a gradient."""
    model = make("llama")
    tokens = complete(model, batch(), custom_generate=decoding_loop(model))
    model(tokens, labels=tokens).loss.backward()
    assert not tokens.is_inference() and model.lm_head.weight.grad is not None


@pytest.mark.parametrize("kind", ["processor", "criterion", "adapter"])
def test_what_others_see_of_the_loop_can_be_trained_on(kind: str) -> None:
    model = make("llama").float()
    seen: list[torch.Tensor] = []

    class Looks(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            seen.append(scores)
            return torch.zeros(len(input_ids), dtype=torch.bool)

    def processor(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 5] = -torch.inf  # in place, as some do
        seen.append(scores)
        return scores

    loop = decoding_loop(model)
    options: dict[str, Any] = {}
    if kind == "processor":
        options["logits_processor"] = [processor]
    elif kind == "criterion":
        options["stopping_criteria"] = StoppingCriteriaList([Looks()])
    else:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2))
        loop = decoding_loop(model)
        part = model.base_model.model.model.layers[0].mlp.down_proj
        part.register_forward_hook(lambda _, __, output: seen.append(output))
    ids = complete(model, batch(), custom_generate=loop, max_new_tokens=6, **options)
    assert len(seen) >= 6 and not any(x.is_inference() for x in [*seen, ids])


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

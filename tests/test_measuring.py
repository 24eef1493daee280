"""What the policy can tell of a prompt without generating: whole, or by its first layers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

from dopr.core.strategy import Measure
from dopr.policy.measuring import measure, read_prompts
from dopr.policy.sampling import Sampling
from tiny import make_dataset, make_model, make_tokenizer

TEXTS = ["1+1=", "12+7=", "3="]
_SMALL = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "llama": LlamaConfig(**_SMALL, num_hidden_layers=3, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_SMALL, num_hidden_layers=3, num_key_value_heads=2, head_dim=8),
    "gpt-neox": GPTNeoXConfig(**_SMALL, num_hidden_layers=3),
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_head=2, n_layer=3),
}


def read(model: Any, **options: Any) -> tuple[np.ndarray, int]:
    return read_prompts(model, make_tokenizer(), TEXTS, "embedding", 2, **options)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_first_layers_alone_are_a_shorter_model(family: str, layers: int) -> None:
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    config = FAMILIES[family].__class__(**FAMILIES[family].to_dict())
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    short = AutoModelForCausalLM.from_config(config).eval()
    short.load_state_dict(whole.state_dict(), strict=False)
    before = read(whole)[0]
    values, tokens = read(whole, layers=layers)
    np.testing.assert_allclose(values, read(short)[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(values, before, atol=1e-3)
    np.testing.assert_array_equal(read(whole)[0], before)  # the model is whole again
    # A third of the layers: a third of the tokens, rounded up; no layer: none.
    assert tokens == -(-layers * read(whole)[1] // 3)


def test_all_layers_give_the_mean_last_state() -> None:
    model = make_model()
    ids = torch.tensor([make_tokenizer()(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    for layers in (None, 99):
        values, tokens = read(model, layers=layers)
        np.testing.assert_allclose(values[0], states.mean(0), rtol=1e-4, atol=1e-5)
        assert tokens == sum(len(ids) for ids in make_tokenizer()(TEXTS)["input_ids"])


def test_a_model_is_whole_again_when_reading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    count = len(model.model.layers)
    assert count > 1
    monkeypatch.setattr(type(model.model.norm), "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(model, layers=1)
    assert len(model.model.layers) == count


def test_a_strategy_says_how_many_layers_it_wants() -> None:
    model, pool = make_model(), make_dataset(4)

    def asked(layers: int | None) -> np.ndarray:
        wanted = Measure((0, 2), "embedding", layers=layers)
        return measure(wanted, model, make_tokenizer(), pool, [], [], Sampling())[0]

    prompts = [pool[i]["prompt"] for i in (0, 2)]
    for layers in (None, 1, 0):
        expected = read_prompts(model, make_tokenizer(), prompts, "embedding", 2, layers=layers)[0]
        np.testing.assert_allclose(asked(layers), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(asked(1), asked(None), atol=1e-3)

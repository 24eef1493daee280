"""Memory estimates: by hand for models of known size, and against what torch really holds."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from cli_tools import train, words
from dopr import cli
from dopr.core.errors import UserError
from dopr.policy.memory import (
    GIB,
    MemorySettings,
    ModelShape,
    activations,
    estimate,
    kv_cache,
    layer_activations,
    logits,
    mend,
    trained_parameters,
)
from dopr.policy.memory_check import complaint, refuse_weights
from dopr.policy.shapes import Device, read_shape, shape_of
from dopr.runs import memory as fit
from dopr.runs.memory import run_settings
from dopr.runs.settings import TrainSettings

MIB = 1 << 20


def llama(**changes: Any) -> LlamaConfig:
    """Llama 3.2 1B, or a smaller one."""
    sizes = {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**sizes | changes)


@pytest.fixture(scope="module")
def billion() -> ModelShape:
    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(llama()), "llama-3.2-1b")


RUN = MemorySettings(
    num_generations=8,
    prompts_per_step=1,
    prompt_length=512,
    completion_length=512,
    dtype="bfloat16",
)


def test_by_hand(billion: ModelShape) -> None:
    assert billion.parameters == 1_235_814_400  # as its card says
    needed = estimate(billion, RUN)
    assert needed.weights == needed.gradients == 2 * 1_235_814_400
    assert needed.optimizer == 2 * 2 * 1_235_814_400
    # 8 x 1024 tokens x (keys, values) x 8 heads x 64 x 2 bytes = 16 MiB a layer, one layer twice.
    assert needed.kv_cache == 17 * 16 * MIB
    # 8 x 512 = 4096 tokens: the tile, the hidden states and their gradient, the matrix's gradient.
    parts = 4096 * 32768 * 2, 4096 * 2048 * (2 + 4), 4 * 128256 * 2048
    assert needed.logits == sum(parts) == 1_369_440_256
    assert needed.logits_whole == 8 * 1024 * 128256 * 2
    # A token: norms 24,584, maps 8,192, attention 16,512, feed-forward 65,536, mask 2,048 bytes.
    assert layer_activations(billion, RUN) == 8 * 1024 * 116_872 == 957_415_424
    stream = 8 * 1024 * 2048
    assert needed.activations == needed.activations_kept == 16 * 957_415_424 + stream * (2 + 4)
    assert needed.activations_checkpointed == 957_415_424 + 16 * stream * 2 + stream * (2 + 4)
    assert needed.sampling == 8 * 128256 * (2 + 4 + 4 + 8)
    assert needed.always == 6 * 1_235_814_400
    assert needed.peak == needed.update > needed.generation


def test_settings_change_what_they_should(billion: ModelShape) -> None:
    def of(**changes: Any) -> Any:
        return estimate(billion, replace(RUN, **changes), device_bytes=80 * GIB)

    p = billion.parameters
    assert of(optimizer="adamw_8bit").optimizer == 2 * p and of(optimizer="sgd").optimizer == 0
    assert of(reference=True).always - of().always == 2 * p
    assert of(dtype="float32").weights == 4 * p and of(dtype="float32").copies == 0
    assert of(dtype="float32", mixed=True).copies == 2 * p and of(mixed=True).copies == 0
    # q and v of 16 layers: 16 x (2048 + 2048 + 2048 + 512) numbers, float32.
    adapters = 16 * 16 * (2048 + 2048 + 2048 + 512)
    assert of(lora=16).gradients == 4 * adapters and of(lora=16).optimizer == 8 * adapters
    assert of(lora=16).weights == 2 * p + 4 * adapters
    assert of(lora=16).logits == of().logits - 4 * 128256 * 2048
    assert of(vllm="colocate").vllm == round(0.3 * 80 * GIB) and of(vllm="server").vllm == 0
    assert of(vllm="colocate").kv_cache == of(vllm="server").kv_cache == 0
    assert of(batch_size=4).activations * 2 == of().activations and of(batch_size=99) == of()
    assert of(checkpointing=True).activations == of().activations_checkpointed
    cpu = replace(RUN, device="cpu")
    assert logits(billion, cpu) > 2 * logits(billion, RUN)


@pytest.mark.parametrize("mode", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_against_what_autograd_keeps(mode: str, checkpointing: bool) -> None:
    config = llama(vocab_size=64, hidden_size=256, intermediate_size=688, num_hidden_layers=6)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 2, 32
    dtype = "bfloat16" if mode == "bfloat16" else "float32"
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        # A matrix that has not a row a token is autocast's copy of weights, another part.
        if place not in known and (tensor.dim() != 2 or len(tensor) == 4 * 48):
            kept[place] = tensor
        return tensor

    ids = torch.randint(2, 60, (4, 48))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    run = MemorySettings(
        num_generations=4,
        prompts_per_step=1,
        prompt_length=24,
        completion_length=24,
        dtype=dtype,
        mixed=mode == "autocast",
        device="cpu",
    )
    shape = shape_of(model, "small")
    estimated = activations(shape, run, checkpointing)
    if checkpointing:  # a layer that is computed again is not among what the hooks saw
        estimated -= layer_activations(shape, run)
    assert estimated == pytest.approx(held, rel=0.1)


def test_weights_gradients_and_adamw_against_torch(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    tensors = [*model.parameters(), *(p.grad for p in model.parameters())]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    shape = read_shape(str(tiny_model_dir))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    needed = estimate(shape, MemorySettings())
    parts = needed.weights + needed.gradients + needed.optimizer
    assert parts == pytest.approx(sum(storages.values()), rel=0.1)


UPDATE = """
import resource, sys
import torch
from dopr.policy.models import load_model
from trl.trainer.utils import add_fused_lm_head

model, _ = load_model("tiny-reasoner")
model.train()
if sys.argv[1] == "True":
    model.gradient_checkpointing_enable({"use_reentrant": False})
add_fused_lm_head(model, outputs=("log_probs", "entropy"))

def most_after_an_update(rows, length):
    ids = torch.randint(3, 190, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    out = model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True, use_cache=False)
    out.log_probs.mean().backward()
    # ru_maxrss would start at what the parent process held.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024

print(-most_after_an_update(1, 16) + most_after_an_update(32, 768))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures resident memory as Linux counts it")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_update_against_resident_memory(checkpointing: bool) -> None:
    # Left alone, the C library keeps hundreds of MiB that were given back to it.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UPDATE, str(checkpointing)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    run = MemorySettings(32, 1, None, 384, 384, checkpointing=checkpointing, device="cpu")
    needed = estimate(read_shape("tiny-reasoner"), run)
    assert needed.activations + needed.logits == pytest.approx(int(done.stdout), rel=0.1)


def test_kv_cache_against_transformers(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    cache = DynamicCache()
    model(input_ids=torch.zeros(6, 20, dtype=torch.long), past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    run = MemorySettings(3, 2, prompt_length=12, completion_length=8)
    shape = shape_of(model, "tiny")
    assert kv_cache(shape, run) * shape.layers == held * (shape.layers + 1)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("all-linear",)])
def test_adapters_against_peft(tiny_model_dir: Path, targets: tuple[str, ...]) -> None:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    shape = shape_of(model, "tiny")
    wanted = "all-linear" if "all-linear" in targets else list(targets)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=wanted))
    run = MemorySettings(lora=4, lora_targets=targets)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained_parameters(shape, run) == (trained, 4)


def gpu(gib: float) -> Device:
    return Device("cuda", "a GPU", round(gib * GIB), round(gib * GIB))


def test_what_does_not_fit_is_told_the_mend(billion: ModelShape) -> None:
    assert complaint(billion, RUN, gpu(80)) is None
    text = complaint(billion, RUN, gpu(16)) or ""
    assert text.startswith("this run needs about 24.8 GiB for the update (activations 14.4 GiB")
    assert text.endswith("with gradient_checkpointing true it needs about 12.0 GiB")
    changes, smaller = mend(billion, RUN, 11 * GIB, 0)
    assert changes == {"gradient_checkpointing": True, "batch_size": 2} and smaller.peak < 11 * GIB
    assert estimate(billion, replace(RUN, checkpointing=True, batch_size=4)).peak > 11 * GIB
    changes, smaller = mend(billion, replace(RUN, dtype="float32"), 6 * GIB, 0)
    assert list(changes) == ["gradient_checkpointing", "batch_size", "lora.r"]
    assert "does not fit even with" in (complaint(billion, RUN, gpu(2.4)) or "")
    many = replace(RUN, prompts_per_step=512, batch_size=1, checkpointing=True)
    assert "so take fewer prompts_per_step" in (complaint(billion, many, gpu(40)) or "")


def test_a_share_of_vllm_that_cannot_hold_the_weights(billion: ModelShape) -> None:
    run = replace(RUN, vllm="colocate", checkpointing=True)
    assert "less than the weights' 2.3 GiB" in (complaint(billion, run, gpu(7)) or "")
    assert complaint(billion, run, gpu(40)) is None


def test_weights_that_exceed_the_device_are_refused(billion: ModelShape) -> None:
    refuse_weights(billion, RUN, gpu(2.4))
    with pytest.raises(UserError, match=r"alone take 2.3 GiB as bfloat16, and a GPU has 2.0 GiB"):
        refuse_weights(billion, RUN, gpu(2))


def test_settings_of_a_run() -> None:
    settings = TrainSettings(
        dataset="x",
        model="other",
        steps=1,
        lora={"r": 4, "target_modules": "all-linear"},
        use_vllm=True,
        beta=0.1,
        trl={"vllm_gpu_memory_utilization": 0.5, "optim": "paged_adamw_8bit"},
    )
    run = run_settings(settings, (16, 4), 100, "cuda")
    assert (run.rollouts, run.rows, run.tokens) == (64, 16, 356)
    assert run.autocast and run.checkpointing and not run.reference
    assert run.optimizer == "adamw_8bit"
    assert (run.lora, run.lora_targets, run.vllm, run.vllm_share) == (
        *(4, ("all-linear",)),
        *("colocate", 0.5),
    )
    plain = run_settings(TrainSettings(beta=0.1), (1, 1), 1, "cpu")
    assert plain.reference and plain.optimizer == "adamw" and not plain.checkpointing


def test_the_command(capsys: pytest.CaptureFixture, tiny_model_dir: Path) -> None:
    command = ["plan", "--memory", "--model", str(tiny_model_dir), "--device-gib", "8"]
    assert cli.main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fits"] and result["complaint"] is None
    assert result["peak"] == max(result["update"], result["generation"])
    assert result["bytes"]["weights"] == 4 * result["model"]["parameters"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "kv cache" in shown and "fits: a GPU of 8 GiB" in shown
    assert cli.main([*command[:-1], "0.1"]) == 0
    assert "this run needs about" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words_", "said"),
    [
        ([], "add --model MODEL"),
        (["--model", "./nowhere"], "no model folder"),
        (["--model", "tiny-reasoner", "--dtype", "float8"], "unknown dtype"),
        (["--model", "tiny-reasoner", "--vllm-share", "2"], "vllm_share is 2"),
        (["--model", "tiny-reasoner", "--num-generations", "0"], "num_generations is 0"),
        (["--model", "tiny-reasoner", "--device-gib", "-1"], "must be above 0"),
    ],
)
def test_mistakes(words_: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["plan", "--memory", *words_]) == 2
    assert said in capsys.readouterr().err


def test_a_run_is_warned_before_its_weights_are_loaded(
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = words(tmp_path, tiny_model_dir, steps=1)
    with caplog.at_level(logging.WARNING, "dopr"):
        small = Device("cpu", "this machine", 64 * GIB, 100_000)
        monkeypatch.setattr(fit, "this_device", lambda: small)
        assert train(*arguments) == 0
        assert [r.message for r in caplog.records if "this run needs about" in r.message]
        caplog.clear()
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        fit.check_memory(TrainSettings(model=str(tiny_model_dir)), (4, 1), ["1+1=?"])
        assert not caplog.records
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setattr(fit, "this_device", lambda: replace(small, total=1000))
    with pytest.raises(UserError, match="alone take"):
        fit.check_memory(TrainSettings(model=str(tiny_model_dir)), (4, 1), ["1+1=?"])

"""Real vLLM on a CPU, for the tests of tests/test_vllm_*.py; nothing here imports it before it is
asked for."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import ALPHABET, make_tokenizer

MODEL_LENGTH = 128

# What a file of such tests is marked with.
NEEDS_VLLM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed here; `make test-vllm` makes an environment that has it",
    ),
]

# Largest difference of a token's log-probability between vLLM and transformers, both in float32 and
# at equal weights. Observed: 1e-5.
SAME = 1e-4

# Little memory for the cache, and threads left where the system puts them.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def prepare() -> None:
    """Set vLLM's environment and keep its weights as they are; call before an engine is made."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    keep_plain_weights()


def keep_plain_weights() -> None:
    """Let vLLM's layers on the CPU multiply by the weights that `load_weights` writes.

    After loading, vLLM packs each layer's weight for the CPU's own kernels, multiplies by the
    packed copy from then on, and drops the original (or, for the output layer, keeps it unused).
    Weights that arrive later then find no place, or change nothing. Here every layer takes what
    vLLM falls back to where there is no such kernel: torch's own product with the layer's weight.
    """
    from vllm.model_executor.layers import utils

    def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


def save_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers whose heads are as wide as vLLM's attention needs them."""
    make_wide_model(seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_wide_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ALPHABET) + 3,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MODEL_LENGTH,
            initializer_range=0.2,  # so that greedy completions depend on the weights
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


@contextmanager
def serve(model: Path, log: Path, extension: str) -> Iterator[str]:
    """The address of `vllm serve`, started as docs/vllm.md says, plus what a CPU needs.

    Args:
        model: the folder to serve.
        log: where it writes to.
        extension: class of a module of tests/helpers to mix into its worker.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        # What `vllm serve MODEL` runs; that command itself looks for a package named vllm, and the
        # CPU's is named otherwise.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--weight-transfer-config", '{"backend": "nccl"}'),
        *("--logprobs-mode", "processed_logprobs"),
        *("--max-model-len", str(MODEL_LENGTH)),
        *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32"),
        *("--worker-extension-cls", extension),
    ]
    environment = environment_of_helpers() | {"VLLM_SERVER_DEV_MODE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def environment_of_helpers() -> dict[str, str]:
    """For a process with vLLM that imports modules of this folder."""
    return os.environ | ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parent)}


def _wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Until the server answers, for at most four minutes."""
    import requests

    for _ in range(240):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if requests.get(address, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


class OneEngine:
    """Stands where TRL calls `vllm.LLM`: makes the engine once, for all trainers of a process.

    TRL pushes the policy's weights before it first generates, so trainers can share an engine. It
    is made with the arguments that TRL gives, in float32 and without compiling: exact and quick to
    start.
    """

    def __init__(self) -> None:
        self.engine: Any = None
        self.model = ""
        self.asked: list[tuple[list[list[int]], Any]] = []

    def __call__(self, model: str, **arguments: Any) -> Any:
        from vllm import LLM

        if self.engine is None:
            self.model = model
            self.engine = LLM(model=model, **arguments, dtype="float32", enforce_eager=True)
            self._generate = self.engine.generate
            self.engine.generate = self._note_and_generate
        assert model == self.model
        return self.engine

    def _note_and_generate(self, prompts: Any, sampling_params: Any, **options: Any) -> Any:
        self.asked.append(([prompt["prompt_token_ids"] for prompt in prompts], sampling_params))
        return self._generate(prompts, sampling_params=sampling_params, **options)

    def greedy(self, prompts: list[list[int]], length: int) -> list[list[int]]:
        """The engine's likeliest completions, with the weights it has now."""
        from vllm import SamplingParams

        inputs = [{"prompt_token_ids": ids} for ids in prompts]
        wanted = SamplingParams(temperature=0.0, max_tokens=length)
        outputs = self._generate(inputs, sampling_params=wanted, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


@torch.no_grad()
def greedy(model: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
    """The likeliest completions by transformers, ended at the end token."""
    completions = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            pad_token_id=0,
            eos_token_id=1,
        )
        completions.append(made[0, len(prompt) :].tolist())
    return completions

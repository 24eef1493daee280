"""Loaded into the workers of a vLLM server: weights by way of a file, where NCCL cannot carry them.

TRL sends weights to a server over NCCL, which needs GPUs. For a server on the CPU the tests let the
trainer write them to a file and have the server's worker load that with the same `load_weights`.
"""

from typing import Any

from safetensors.torch import load_file

from vllm_tools import keep_plain_weights

keep_plain_weights()  # vLLM imports this module before it loads the model


class DiskWeights:
    """What `vllm serve --worker-extension-cls` mixes into the worker."""

    model_runner: Any

    def load_from_disk(self, file: str) -> None:
        self.model_runner.model.load_weights(load_file(file).items())

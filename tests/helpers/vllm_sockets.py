"""Weights from TRL's asynchronous trainer to a vLLM server on the CPU: sockets instead of NCCL.

vLLM broadcasts packed weights over NCCL, on CUDA streams. Here the same broadcasts go through the
store in which the two sides find each other. All the rest is vLLM's and TRL's own: the requests,
vLLM's weight transfer engine, packing, and how a layer takes in new weights.

Loaded into the server's worker by `--worker-extension-cls`, and by the trainer's script.
"""

from typing import Any

import torch

from vllm_tools import keep_plain_weights


class SocketGroup:
    """Stands where vLLM makes its NCCL communicator.

    Args:
        group: vLLM's `StatelessProcessGroup`, whose broadcasts go through its store.
    """

    def __init__(self, group: Any) -> None:
        self.group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        sent = self.group.broadcast(tensor, src)
        if self.group.rank != src:
            tensor.copy_(sent)


class NoStream:
    """Stands for a CUDA stream; what runs on the CPU is done when it returns."""

    def synchronize(self) -> None:
        pass


def meet(host: str, port: int, rank: int, world_size: int, device: Any) -> SocketGroup:
    """As vLLM's `stateless_init_process_group`, without the NCCL on top."""
    from vllm.distributed.utils import StatelessProcessGroup

    return SocketGroup(StatelessProcessGroup.create(host, port, rank, world_size))


def install() -> None:
    """Let this process send or receive weights by sockets."""
    from vllm.distributed.weight_transfer import nccl_common, packed_tensor

    nccl_common.stateless_init_process_group = meet
    packed_tensor._get_streams = lambda device, count: (NoStream(),) * count
    torch.accelerator.current_device_index = lambda: 0  # it fails where there is no accelerator


class SocketWeights:
    """What `vllm serve --worker-extension-cls` mixes into the worker; vLLM imports this module."""


keep_plain_weights()
install()

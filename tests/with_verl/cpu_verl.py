"""Lets verl train on a CPU: a platform, and an inference server made of transformers.

verl has neither, but places to put them. With `VERL_USE_EXTERNAL_MODULES=cpu_verl,...` every
process of a run loads this file. All else is verl's own: Ray, TransferQueue, the FSDP2 worker,
agent loops, reward loops and checkpoints.
"""

from contextlib import contextmanager
from types import ModuleType

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

SERVER = "cpu_server"


class _CPUModule(ModuleType):
    """torch.cpu, and 0 for what only an accelerator has, such as its memory in use."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "mem_get_info":
            return lambda *args: (0, 0)
        if name == "get_device_name":
            return lambda *args: "CPU"
        return getattr(torch.cpu, name, lambda *args, **kwargs: 0)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _CPUModule("cpu_module")

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def profiler_start(self):
        pass

    profiler_stop = profiler_start

    def ray_resource_name(self):
        return "GPU"  # one that Ray is told of; nobody looks for it

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


_init_process_group = torch.distributed.init_process_group


def _with_gloo(backend=None, *args, **kwargs):
    """verl asks for gloo on the CPU and the platform's backend beside it: here twice the same."""
    return _init_process_group("gloo" if backend else None, *args, **kwargs)


torch.distributed.init_process_group = _with_gloo


@ray.remote(num_cpus=0)
class CPUServer:
    """Samples by transformers; the n-th completion of a prompt under the same weights is fixed."""

    def __init__(self, path: str):
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.version, self.counts = 0, {}

    def set_weights(self, weights: dict, version: int):
        weights = {name: value.float() for name, value in weights.items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
        self.version, self.counts = version, {}

    async def generate(self, request_id, *, prompt_ids, sampling_params, **kwargs):
        count = self.counts[tuple(prompt_ids)] = self.counts.get(tuple(prompt_ids), -1) + 1
        torch.manual_seed(hash((self.version, count, *prompt_ids)) % 2**31)
        prompt = torch.tensor([list(prompt_ids)])
        with torch.no_grad():
            full = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=sampling_params.get("max_tokens", 12),
                do_sample=sampling_params["temperature"] > 0,
                temperature=sampling_params["temperature"] or None,
                top_k=0,
            )
            logits = self.model(full).logits[0, len(prompt_ids) - 1 : -1].float()
        token_ids = full[0, len(prompt_ids) :]
        log_probs = logits.log_softmax(-1).gather(1, token_ids[:, None])[:, 0]
        return TokenOutput(
            token_ids=token_ids.tolist(),
            log_probs=log_probs.tolist(),
            stop_reason="completed",
            extra_fields={"global_steps": self.version},
        )


class CPURollout(BaseRollout):
    """The worker's half: sends the trained weights to the server."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(
        self, weights, wire_format="named_tensors", global_steps=None, **kwargs
    ):
        named = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        await ray.get_actor(SERVER).set_weights.remote(named, global_steps or 0)


class CPUReplica(RolloutReplica):
    """The trainer's half: starts the server."""

    async def launch_servers(self):
        path = self.model_config.path
        self._server_handle = CPUServer.options(name=SERVER, max_concurrency=1).remote(path)
        self._server_address = SERVER
        self.servers = [self._server_handle]

    async def sleep(self):
        pass

    async def wake_up(self):
        pass


_ROLLOUT_REGISTRY[("cpu", "async")] = "cpu_verl.CPURollout"
RolloutReplicaRegistry.register("cpu", lambda: CPUReplica)

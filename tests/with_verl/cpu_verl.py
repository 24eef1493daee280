"""Lets verl train on a CPU: a platform, inference servers made of transformers, a way to them.

verl has none of them, but places to put them. With `VERL_USE_EXTERNAL_MODULES=cpu_verl,...` every
process of a run loads this file. All else is verl's own: Ray, TransferQueue, the FSDP2 worker,
agent loops, reward loops and checkpoints.
"""

import asyncio
from contextlib import contextmanager
from types import ModuleType

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput
from verl.workers.rollout.utils import ensure_async_iterator

SERVER = "cpu_server_{}"  # with the rank of its replica
CHUNK = 4  # tokens between looks whether generation was stopped


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
    """Samples by transformers; the n-th completion of a prompt under the same weights is fixed.

    Stopped, it gives back what it has of each sequence, and holds new requests until it goes on, or
    gives them back as they are where it is not to go on soon.
    """

    def __init__(self, path: str):
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.version, self.counts = 0, {}
        self.going = asyncio.Event()
        self.going.set()
        self.stops, self.rejects = 0, False

    async def set_weights(self, weights: dict, version: int):
        weights = {name: value.float() for name, value in weights.items()}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
        self.version, self.counts = version, {}

    async def abort_all_requests(self, reject_request=False):
        self.going.clear()
        self.stops, self.rejects = self.stops + 1, reject_request

    async def resume_generation(self):
        self.rejects = False
        self.going.set()

    async def release_kv_cache(self):
        pass

    async def resume_kv_cache(self):
        pass

    async def generate(self, request_id, *, prompt_ids, sampling_params, **kwargs):
        if not self.rejects:
            await self.going.wait()
        version, stops = self.version, self.stops
        count = self.counts[tuple(prompt_ids)] = self.counts.get(tuple(prompt_ids), -1) + 1
        seed = hash((version, count, *prompt_ids))
        token_ids, log_probs, done = [], [], False
        limit = sampling_params.get("max_tokens", 12)
        eos = self.model.generation_config.eos_token_id
        while len(token_ids) < limit and stops == self.stops and self.going.is_set():
            torch.manual_seed((seed + len(token_ids)) % 2**31)
            left, temperature = limit - len(token_ids), sampling_params["temperature"]
            new = self._sample([*prompt_ids, *token_ids], left, temperature)
            token_ids += new[0]
            log_probs += new[1]
            done = len(token_ids) >= limit or token_ids[-1] == eos
            if done:
                break
            await asyncio.sleep(0)
        return TokenOutput(
            token_ids=token_ids,
            log_probs=log_probs,
            stop_reason="completed" if done else "aborted",
            extra_fields={"global_steps": version},
        )

    def _sample(self, prompt_ids: list[int], limit: int, temperature: float):
        prompt = torch.tensor([prompt_ids])
        with torch.no_grad():
            full = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=min(CHUNK, limit),
                do_sample=temperature > 0,
                temperature=temperature or None,
                top_k=0,
            )
            logits = self.model(full).logits[0, len(prompt_ids) - 1 : -1].float()
        new = full[0, len(prompt_ids) :]
        log_probs = logits.log_softmax(-1).gather(1, new[:, None])[:, 0]
        return new.tolist(), log_probs.tolist()


class CPURollout(BaseRollout):
    """The worker's half: sends the trained weights to the server of its replica."""

    def __init__(self, *args, replica_rank: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.replica_rank = replica_rank

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(
        self, weights, wire_format="named_tensors", global_steps=None, **kwargs
    ):
        named = {}
        async for name, tensor in ensure_async_iterator(weights):
            named[name] = tensor.detach().cpu().clone()
        server = ray.get_actor(SERVER.format(self.replica_rank))
        await server.set_weights.remote(named, global_steps or 0)


class CPUReplica(RolloutReplica):
    """The trainer's half: starts the server."""

    async def launch_servers(self):
        name = SERVER.format(self.replica_rank)
        options = {"name": name, "max_concurrency": self.max_concurrency}
        self._server_handle = CPUServer.options(**options).remote(self.model_config.path)
        self._server_address = name
        self.servers = [self._server_handle]

    async def sleep(self):
        pass

    async def wake_up(self):
        pass


@ray.remote(num_cpus=0)
class Mailbox:
    def __init__(self):
        self.letters = asyncio.Queue()

    async def put(self, weights: dict):
        await self.letters.put(weights)

    async def take(self) -> dict:
        return await self.letters.get()


@CheckpointEngineRegistry.register("cpu")
class CPUCheckpointEngine(CheckpointEngine):
    """From one training process to one server with GPUs of its own, by a Ray actor between them."""

    def __init__(self, bucket_size: int, **kwargs):
        self.mailbox = None

    def prepare(self):
        options = {"name": "cpu_mailbox", "get_if_exists": True, "lifetime": "detached"}
        self.mailbox = Mailbox.options(**options).remote()
        return {}

    @classmethod
    def build_topology(cls, actors, rollouts, metadata):
        assert actors == rollouts == 1
        return {}, {}

    def init_process_group(self, **kwargs):
        pass

    def finalize(self):
        pass

    async def send_weights(self, weights, global_steps=None):
        named = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        await self.mailbox.put.remote(named)

    async def receive_weights(self, global_steps=None):
        for name, tensor in (await self.mailbox.take.remote()).items():
            yield name, tensor


_ROLLOUT_REGISTRY[("cpu", "async")] = "cpu_verl.CPURollout"
RolloutReplicaRegistry.register("cpu", lambda: CPUReplica)

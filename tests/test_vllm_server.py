"""DoPRTrainer with a vLLM server on the CPU: real requests, weights by way of a file.

See `vllm_disk` for why the weights do not take TRL's own way here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import vllm_tools
from dopr import DoPRConfig, DoPRTrainer
from tiny import digits_reward, make_dataset, make_tokenizer, settings
from training import TwoRounds, metrics
from vllm_tools import SAME

pytestmark = vllm_tools.NEEDS_VLLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_tools.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with vllm_tools.serve(folder, log, "vllm_disk.DiskWeights") as address:
        yield address


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Let weights go by a file; (prompts, n) of every request that was sent."""
    from trl.generation.vllm_client import VLLMClient

    requests: list[tuple[int, int]] = []
    usual = VLLMClient.generate

    def send_weights(client: Any, metadata: Any, named_params: Any) -> None:
        file = tmp_path / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in named_params}, file)
        body = {"method": "load_from_disk", "args": [str(file)]}
        reply = client.session.post(f"{client.base_url}/collective_rpc", json=body)
        assert reply.status_code == 200, reply.text

    def generate(client: Any, prompts: Any, n: int = 1, **options: Any) -> Any:
        requests.append((len(prompts), n))
        return usual(client, prompts, n=n, **options)

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda client, device: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", send_weights)
    monkeypatch.setattr(VLLMClient, "generate", generate)
    return requests


def train(folder: Path, server: str, output: Path, strategy: Any = None, **changes: Any) -> Any:
    wanted = {
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_base_url": server,
        "model_init_kwargs": {"dtype": "float32"},
    }
    trainer = DoPRTrainer(
        str(folder),
        digits_reward,
        DoPRConfig(**settings(output, **(wanted | changes))),
        make_dataset(),
        processing_class=make_tokenizer(),
        strategy=strategy,
    )
    trainer.train()
    return trainer


def test_regular_groups_are_sampled_from_one_prompt_each(
    folder: Path, server: str, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    """The server prefills a prompt once and samples its group from there (n = group size)."""
    trainer = train(folder, server, tmp_path, max_steps=5)
    assert asked == [(2, 4)] * 5
    assert trainer.driver.spent.rollouts == 5 * 8
    rows = metrics(tmp_path)
    assert all(row["sampling/sampling_logp_difference/max"] < SAME for row in rows)


def test_unequal_groups_and_several_rounds_are_answered(
    folder: Path, server: str, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    """Unequal groups are sent row by row; a round of one size is a regular one again."""
    trainer = train(folder, server, tmp_path, TwoRounds(), max_steps=3)
    assert asked == [(8, 1), (1, 4)] * 3
    assert trainer.driver.spent.rollouts == 3 * 12
    rows = metrics(tmp_path)
    assert all(row["sampling/sampling_logp_difference/max"] < SAME for row in rows)

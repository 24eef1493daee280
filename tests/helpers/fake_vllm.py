"""An engine in vLLM's place that samples from the policy itself, for tests of what is around it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer


class FakeEngine:
    """What TRL's VLLMGeneration does for the trainer; log-probabilities are those of a policy that
    is a little off, as an engine's are."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model, self.settings = model, settings
        server = {"model_config": {"logprobs_mode": "processed_logprobs"}}
        self.vllm_client = SimpleNamespace(get_server_info=lambda: server)

    def sync_weights(self) -> None:
        pass

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        assert len(prompts) % num_generations == 0
        length = self.settings["max_completion_length"]
        completions, logprobs = [], []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            tokens, found = [], []
            for _ in range(length):
                logits = self.model(input_ids=ids).logits[0, -1] / self.settings["temperature"]
                token = int(torch.multinomial(torch.softmax(logits, -1), 1))
                tokens.append(token)
                off = torch.log_softmax(logits * 0.8, -1)[token]
                found.append([float(off)])
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
                if token == 1:
                    break
            completions.append(tokens)
            logprobs.append(found)
        return prompts, completions, logprobs, None


def use_fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TRL take the fake for vLLM, and our own check find it installed."""
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", FakeEngine, raising=False)
    monkeypatch.setattr("dopr.engines.trl.trainer.check_engine", lambda use_vllm: None)

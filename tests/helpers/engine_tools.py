"""Stands in for vLLM behind TRL's seam, so that the fast suite sees what comes from an engine."""

from typing import Any

import torch

from dopr import DoPRTrainer

# How TRL corrects for what an engine's log-probabilities differ from the model's own.
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class FakeEngine:
    """Answers as TRL's `VLLMGeneration` does, with random completions and log-probabilities.

    The log-probabilities differ from the model's own, so importance ratios are far from 1.

    Args:
        seed: of the completions.
        unknown: every so many tokens the log-probability is missing, as vLLM's can be; 0 for none.
    """

    def __init__(self, seed: int = 0, unknown: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._unknown = unknown
        self.asked: list[tuple[int, int]] = []
        self.synced = 0
        self.given: dict[tuple[int, ...], list[float | None]] = {}

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any
    ) -> tuple[Any, ...]:
        self.asked.append((len(prompts), num_generations))
        for start in range(0, len(prompts), num_generations):
            # Server mode sends the first prompt of each group only.
            block = prompts[start : start + num_generations]
            assert len(block) == num_generations and all(p == block[0] for p in block)
        completions = [self._completion() for _ in prompts]
        logprobs = [[[value] for value in self.given[tuple(ids)]] for ids in completions]
        return prompts, completions, logprobs, None

    def _completion(self) -> list[int]:
        length = int(torch.randint(3, 9, (), generator=self._random))
        ids = torch.randint(3, 40, (length,), generator=self._random).tolist()
        values = (-4.1 + 0.3 * torch.randn(length, generator=self._random)).tolist()
        if self._unknown:
            values = [None if i % self._unknown == 0 else v for i, v in enumerate(values)]
        self.given[tuple(ids)] = values
        return ids


def use_engine(trainer: DoPRTrainer, engine: Any) -> DoPRTrainer:
    """Let a trainer that was made without vLLM take its rollouts from `engine`."""
    trainer.use_vllm = True
    trainer.vllm_generation = engine
    trainer._last_loaded_step = -1
    return trainer


class Recorder:
    """Keeps what a trainer's loss is given."""

    def __init__(self, trainer: DoPRTrainer) -> None:
        self.inputs: list[dict[str, Any]] = []
        usual = trainer._compute_loss

        def record(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            self.inputs.append(dict(inputs))
            return usual(model, inputs)

        trainer._compute_loss = record  # type: ignore[method-assign]

    def rows(self) -> list[tuple[tuple[int, ...], dict[str, torch.Tensor]]]:
        """Every row with a completion: its token ids, and its tensors cut to their length."""
        found = []
        for inputs in self.inputs:
            if "dopr_skip" in inputs:
                continue
            width = inputs["completion_ids"].size(1)
            for i, mask in enumerate(inputs["completion_mask"]):
                length = int(mask.sum())
                row = {
                    key: value[i, :length]
                    if value.ndim > 1 and value.size(1) == width
                    else value[i]
                    for key, value in inputs.items()
                    if isinstance(value, torch.Tensor) and value.ndim > 0
                }
                if length:
                    found.append((tuple(row["completion_ids"].tolist()), row))
        return found

"""Trainers of the tiny model, and a strategy whose groups are unequal."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dopr import DoPRConfig, DoPRTrainer, Request, Strategy
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings


@dataclass
class TwoRounds(Strategy):
    """Unequal pilots, then more for the first prompt; trains on a subset of each."""

    name = "two-rounds"
    summary, source, mark = "test", "test", "I"
    keep_every: int = 2

    def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
        a, b = (int(i) for i in prompts.draw(2))
        first = yield [Request(a, 5), Request(b, 3)]
        second = yield [Request(a, 4)]
        return [g.keep(np.arange(0, g.num_rollouts, self.keep_every)) for g in [*first, *second]]


def make_trainer(folder: Path, strategy: Any = None, reward: Any = digits_reward, **changes: Any):  # type: ignore[no-untyped-def]
    model = changes.pop("model", None) or make_model()
    dataset = changes.pop("dataset", None) or make_dataset()
    extra = {"peft_config": changes.pop("peft_config")} if "peft_config" in changes else {}
    return DoPRTrainer(
        model,
        reward,
        DoPRConfig(**settings(folder, **changes)),
        dataset,
        processing_class=make_tokenizer(),
        strategy=strategy,
        **extra,
    )


def parameters(trainer: DoPRTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

"""Plain GRPOTrainer and ours, made or trained alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

BOTH = [(GRPOTrainer, GRPOConfig), (DoPRTrainer, DoPRConfig)]


def made(cls: Any, config: Any, folder: Path, changes: Any = None, **arguments: Any) -> Any:
    """A trainer of either kind; uniform choice where it is ours."""
    ours = {"strategy": "uniform"} if config is DoPRConfig else {}
    given: dict[str, Any] = {
        "model": make_model(),
        "reward_funcs": digits_reward,
        "train_dataset": make_dataset(),
        "processing_class": make_tokenizer(),
    }
    args = config(**(settings(folder, max_steps=2) | ours | (changes or {})))
    return cls(args=args, **(given | arguments))


def parameters(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def both_trained(folder: Path, arguments: Callable[[], dict[str, Any]], **changes: Any) -> Any:
    """Plain GRPOTrainer's and DoPRTrainer's parameters after the same training."""
    trained = []
    for cls, config in BOTH:
        trainer = made(cls, config, folder / config.__name__, changes, **arguments())
        trainer.train()
        trained.append(parameters(trainer))
    return trained


def usual(folder: Path) -> torch.Tensor:
    trainer = made(GRPOTrainer, GRPOConfig, folder / "usual")
    trainer.train()
    return parameters(trainer)

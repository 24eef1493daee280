"""One training of TRL's trainer or ours under a case's settings, and what can be seen of it."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
import transformers
from trl import GRPOConfig

from tiny import (
    digits_reward,
    length_reward,
    make_dataset,
    make_model,
    make_tokenizer,
    mixture_of_experts,
    settings,
)
from trl_cases import Case

# What a run logs about its own time and memory, and what only ours logs.
_OF_THE_MACHINE = ("time", "_per_second", "_mem_", "total_flos")
_OURS = ("rollout/", "select/", "profiling/")
_LOADER = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "drop_last")
_LOADER += ("in_order", "multiprocessing_context")


def columns_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Depends on which columns of the dataset are there."""
    assert not any(name.startswith("dopr") for name in columns)
    scores = digits_reward(completions)
    return [-s for s in scores] if "answer" in columns else scores


def save_model(folder: Path) -> Path:
    make_model().save_pretrained(folder)
    return folder


def ends_soon() -> Any:
    """A model that ends about half of its completions before they are cut."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[1] = model.lm_head.weight.mean(0)
        model.model.norm.weight.mul_(3.0)
    return model


def drops_out() -> Any:
    model = make_model()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
        layer.mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5))
    return model


def set_back_the_process() -> None:
    """Some fields change the whole process."""
    transformers.logging.set_verbosity_warning()
    torch.use_deterministic_algorithms(False)


class Run:
    """Trains, and holds what `differences` compares.

    Args:
        cls, config: `GRPOTrainer` and `GRPOConfig`, or ours.
        case: of the settings.
        folder: for the files of the run.
        ours: settings that TRL does not have.
    """

    def __init__(self, cls: Any, config: Any, case: Case, folder: Path, **ours: Any) -> None:
        set_back_the_process()
        usual = settings(folder, max_steps=2)
        arguments = config(**(usual | case.with_ | case.fields | ours))
        model: Any = make_model()
        dataset, rewards, tokenizer = make_dataset(), [digits_reward], make_tokenizer()
        more: dict[str, Any] = {}
        for part in case.setup:
            if part == "evaluation":
                more["eval_dataset"] = make_dataset(3)
            elif part == "chat":
                dataset = make_dataset(chat=True)
                tokenizer.chat_template = "{{ 'a' if shout else 'b' }}" + tokenizer.chat_template
            elif part == "two rewards":
                rewards.append(length_reward)
            elif part == "columns reward":
                rewards = [columns_reward]
            elif part == "model by name":
                model = str(save_model(folder / "model"))
            elif part == "experts":
                model = mixture_of_experts()
            elif part == "dropout":
                model = drops_out()
            elif part == "bfloat16":
                model = make_model().to(torch.bfloat16)
            elif part == "short answers":
                model = ends_soon()
        self.folder = folder
        self.trainer = cls(model, rewards, arguments, dataset, processing_class=tokenizer, **more)
        with patch("trl.trainer.grpo_trainer.print_prompt_completions_sample") as printed:
            self.trainer.train()
        self.printed = [call.args[4:6] for call in printed.call_args_list]
        self.process = self._process()

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [p.detach() for p in self.trainer.model.parameters()]

    def seen(self) -> dict[str, Any]:
        """What is compared by ==, by name."""
        return {
            "settings": self._settings(),
            "history": self._history(),
            "files": self._files(),
            "loader": self._loader(),
            "model": self._model(),
            "engine": self._engine(),
            "printed": self.printed,
            "process": self.process,
            "best": (self.trainer.state.best_metric, self.trainer.state.best_global_step),
        }

    def tables(self) -> list[pd.DataFrame]:
        files = sorted(self.folder.glob("completions/*.parquet"))
        return [pd.read_parquet(f).drop(columns="prompt_id", errors="ignore") for f in files]

    def _settings(self) -> dict[str, Any]:
        """TRL's, as they stand after training."""
        names = [f.name for f in fields(GRPOConfig) if f.name != "output_dir"]
        return {name: getattr(self.trainer.args, name, None) for name in names}

    def _history(self) -> list[dict[str, Any]]:
        """What was logged; of what differs between any two runs only that it was."""

        def comparable(name: str, value: Any) -> Any:
            if any(word in name for word in _OF_THE_MACHINE):
                return "some"
            return "nan" if isinstance(value, float) and math.isnan(value) else value

        return [
            {k: comparable(k, v) for k, v in row.items() if not k.startswith(_OURS)}
            for row in self.trainer.state.log_history
        ]

    def _files(self) -> set[str]:
        found = {str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file()}
        return {f for f in found if "dopr_" not in f and f != "metrics.jsonl"}

    def _loader(self) -> list[Any]:
        loader = self.trainer.get_train_dataloader()
        seedable = self.trainer.accelerator.dataloader_config.use_seedable_sampler
        return [str(getattr(loader.base_dataloader, name, None)) for name in _LOADER] + [seedable]

    def _model(self) -> dict[str, Any]:
        model, generation = self.trainer.model, getattr(self.trainer, "generation_config", None)
        return {
            "dtypes": [p.dtype for p in model.parameters()],
            "use_cache": model.config.use_cache,
            "recomputed": [
                getattr(getattr(layer, "_gradient_checkpointing_func", None), "keywords", None)
                for layer in model.modules()
                if getattr(layer, "gradient_checkpointing", False)
            ],
            "cache": getattr(generation, "cache_implementation", None),
        }

    def _engine(self) -> dict[str, Any]:
        """What the engine in vLLM's place was made with, as far as it can be compared."""
        engine = getattr(self.trainer, "vllm_generation", None)
        made_with = {} if engine is None else engine.settings
        return {k: v for k, v in made_with.items() if isinstance(v, (bool, int, float, str))}

    def _process(self) -> dict[str, Any]:
        """What a run sets for the whole process."""
        compiler = self.trainer.accelerator.state.dynamo_plugin
        callbacks = self.trainer.callback_handler.callbacks
        return {
            "log level": transformers.logging.get_verbosity(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "compiler": (str(compiler.backend), compiler.mode),
            "mixed precision": self.trainer.accelerator.mixed_precision,
            "callbacks": [type(c).__name__ for c in callbacks if type(c).__name__ != "StepClock"],
        }


def differences(one: Run, other: Run) -> set[str]:
    """Names of what differs between two runs."""
    pairs = one.seen(), other.seen()
    found = {name for name in pairs[0] if pairs[0][name] != pairs[1][name]}
    if not same_parameters(one.parameters, other.parameters):
        found.add("parameters")
    tables = one.tables(), other.tables()
    if len(tables[0]) != len(tables[1]) or not all(map(pd.DataFrame.equals, *tables)):
        found.add("tables")
    return found


def same_parameters(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))

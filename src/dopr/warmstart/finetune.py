"""Supervised warm start: a small model that can sometimes do what it is asked."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from dopr.core.configuration import (
    MOST_THREADS,
    above_zero,
    at_least,
    at_most,
    check_seeds,
)
from dopr.core.errors import UserError
from dopr.policy.models import load_model
from dopr.warmstart.curate import CurateSettings, Curation, curate
from dopr.warmstart.families import FAMILIES, get_family
from dopr.warmstart.habits import Habit
from dopr.warmstart.mixture import make_mixture
from dopr.warmstart.saving import (
    LogWithCheckpoints,
    begin,
    close_folder,
    folder_for,
    last_checkpoint,
    mean_loss,
)
from dopr.warmstart.tokenizer import build_tokenizer

FACTS: dict[Habit, float] = {"careful": 0.5, "guess": 0.15, "sloppy": 0.35}
"""Shares of the first phase, in which nothing slips."""


@dataclass
class WarmstartSettings:
    """What to make and how.

    Args:
        output_dir: folder for the model, the tokenizer and the model card.
        families: reasoning-gym names, of those that `dopr.warmstart.families` knows.
        seed: seed of the data, the weights and their order.
        facts_steps: optimiser steps on both step-by-step forms without a slip, first: the facts.
        steps: optimiser steps on the mixture of habits, slips and all, second.
        batch_size: completions a step.
        learning_rate: the first phase's peak, reached after `warmup_steps`, then a cosine to zero.
        mixture_rate: the second phase's peak as a share of the first's.
        warmup_steps: optimiser steps of linear warm-up.
        hidden_size: width of the model.
        num_layers: transformer layers.
        num_heads: attention heads; must divide `hidden_size`.
        intermediate_size: width of the feed-forward layers.
        max_length: longest sequence in tokens, prompt and completion together.
        careful_share: weight of careful solutions in the mixture.
        guess_share: weight of bare guesses.
        sloppy_share: weight of sloppy solutions.
        measure_prompts: prompts a family for the figures in the model card; 0 measures nothing.
        measure_rollouts: completions sampled for each of them.
        save_every: optimiser steps between checkpoints, for `resume`; 0 saves none.
        threads: torch threads; 0 leaves the setting alone.
        base: finetune this model (local folder, Hub id or `tiny-reasoner`) instead of a fresh one;
            the first phase and the settings of size are then left out, and `learning_rate` is
            taken as it is, so give a smaller one.
        curate: solutions to train on instead of the mixture of habits; see
            `dopr.warmstart.curate.CurateSettings`.
    """

    output_dir: str = "runs/tiny-reasoner"
    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    seed: int = 0
    facts_steps: int = 2200
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 4e-3
    mixture_rate: float = 0.3
    warmup_steps: int = 100
    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 344
    max_length: int = 256
    careful_share: float = 0.25
    guess_share: float = 0.35
    sloppy_share: float = 0.40
    measure_prompts: int = 128
    measure_rollouts: int = 16
    save_every: int = 200
    threads: int = 0
    base: str | None = None
    curate: CurateSettings | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: naming the setting and the mend.
        """
        if not self.families:
            raise UserError("families is empty; name at least one, such as chain_sum")
        for name in self.families:
            get_family(name)
        at_least(self, 1, "steps", "batch_size", "hidden_size", "num_layers", "num_heads")
        at_least(self, 1, "intermediate_size", "max_length", "measure_rollouts")
        at_least(self, 0, "facts_steps", "warmup_steps", "measure_prompts", "threads")
        at_least(self, 0, "save_every")
        above_zero(self, "learning_rate", "mixture_rate")
        at_most(self, MOST_THREADS, "threads")
        check_seeds({"seed": self.seed})
        if self.hidden_size % (2 * self.num_heads):
            raise UserError(
                f"hidden_size {self.hidden_size} must be a multiple of twice num_heads "
                f"({2 * self.num_heads})"
            )
        shares = self.shares.values()
        at_least(self, 0, "careful_share", "guess_share", "sloppy_share")
        if sum(shares) <= 0:
            raise UserError("the habits' shares must not all be zero")

    @property
    def shares(self) -> dict[Habit, float]:
        """Weight of each habit in the mixture."""
        return {
            "careful": self.careful_share,
            "guess": self.guess_share,
            "sloppy": self.sloppy_share,
        }


def build_model(config: WarmstartSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A small Llama with fresh weights, in float32."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _arguments(config: WarmstartSettings, folder: Path, steps: int, rate: float) -> SFTConfig:
    """TRL's settings: one batch a step, so that the loss is a mean over its completion tokens."""
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(config.warmup_steps, steps // 2),
        completion_only_loss=True,
        max_length=config.max_length,
        packing=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if config.save_every else "no",
        save_steps=config.save_every or 1,
        save_total_limit=1,
        report_to=[],
        logging_steps=100,
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=False,
    )


def _finetune(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    config: WarmstartSettings,
    rows: list[dict[str, Any]],
    folder: Path,
    steps: int,
    rate: float,
) -> float:
    """One supervised phase, over and over the rows, from its last checkpoint in the folder on;
    returns its mean loss in nats a token.
    """
    trainer = SFTTrainer(
        model=model,
        args=_arguments(config, folder, steps, rate),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[LogWithCheckpoints()],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return mean_loss(trainer.state)


def _learn_facts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    config: WarmstartSettings,
    folder: Path,
) -> None:
    """The first phase: both step-by-step forms without a slip."""
    count = config.facts_steps * config.batch_size
    no_slips = dict.fromkeys(config.families, 0.0)
    rows = make_mixture(config.families, count, FACTS, 2 * config.seed + 1, no_slips)
    _finetune(model, tokenizer, config, rows, folder, config.facts_steps, config.learning_rate)


def _rows(config: WarmstartSettings) -> tuple[list[dict[str, Any]], Curation | None]:
    """What the second phase trains on, and how it was curated."""
    if config.curate is not None:
        curation = curate(config.curate)
        return curation.rows, curation
    count = config.steps * config.batch_size
    return make_mixture(config.families, count, config.shares, 2 * config.seed), None


def run_warmstart(config: WarmstartSettings, resume: bool = False) -> dict[str, Any]:
    """Make a model: data, tokenizer, supervised training, figures, model card.

    Args:
        config: what to make and how.
        resume: go on with what was interrupted in the same folder; from the start where nothing
            was begun.

    Returns:
        `output_dir`, `parameters`, `train_seconds`, `train_loss`, `threads`, the figures of the
        `curation` if there was one and, for each family, the `figures` of
        `dopr.warmstart.describe.describe_family`.

    Raises:
        UserError: the base model or the solutions cannot be used, or the folder holds another warm
            start.
    """
    from dopr.warmstart.card import write_card
    from dopr.warmstart.describe import describe_model

    if config.threads:
        torch.set_num_threads(config.threads)
    unfinished = folder_for(config, resume)
    rows, curation = _rows(config)
    set_seed(config.seed)
    if config.base is None:
        tokenizer = build_tokenizer(config.families, config.max_length)
        model = build_model(config, tokenizer)
    else:
        model, tokenizer = load_model(config.base)
    begin(unfinished, config)
    started = time.perf_counter()
    rate = config.learning_rate
    if config.facts_steps and config.base is None:
        _learn_facts(model, tokenizer, config, unfinished / "facts")
        rate *= config.mixture_rate
    loss = _finetune(model, tokenizer, config, rows, unfinished / "mixture", config.steps, rate)
    result: dict[str, Any] = {
        "output_dir": config.output_dir,
        "parameters": model.num_parameters(),
        "train_seconds": round(time.perf_counter() - started, 1),
        "train_loss": round(loss, 4),
        "threads": torch.get_num_threads(),
    }
    folder = Path(config.output_dir)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if curation is not None:
        result["curation"] = curation.figures
        lines = [json.dumps(row, ensure_ascii=False) for row in curation.rows]
        (folder / "curated.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result["figures"] = {}
    if config.measure_prompts:
        result["figures"] = describe_model(
            model, tokenizer, config.families, config.measure_prompts, config.measure_rollouts
        )
    write_card(folder, config, result)
    close_folder(unfinished)
    return result

"""What a run is made of: model, tokenizer, prompts and rewards, loaded once and checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from dopr.core.errors import UserError
from dopr.core.preparation import Sizes, prepare
from dopr.policy.embedder import embedding_reward
from dopr.policy.models import is_adapter, load_model, lora_config
from dopr.policy.prompts import within_context
from dopr.rewards import load_reward
from dopr.runs.memory import check_memory
from dopr.runs.settings import TrainSettings
from dopr.strategies import make_strategy
from dopr.tasks import load_task

_MOST_ROWS = 128  # rollouts in one forward pass of the update where nothing is said


@dataclass
class Materials:
    """What a run is made of, loaded once."""

    model: Any
    tokenizer: Any
    dataset: Dataset
    eval_dataset: Dataset | None
    rewards: list[Callable[..., Any]]


def load_materials(settings: TrainSettings) -> Materials:
    """Model, tokenizer, prompts and rewards.

    Raises:
        UserError: one of them does not exist or does not fit.
    """
    names = [settings.reward] if isinstance(settings.reward, str) else settings.reward
    rewards = [
        load_reward(
            name,
            embedding=embedding_reward,
            timeout_s=settings.reward_timeout_s,
            judge=settings.judge,
            max_completion_length=settings.max_completion_length,
        )
        for name in names
    ]
    if settings.reward_weights is not None and len(settings.reward_weights) != len(rewards):
        raise UserError(
            f"reward_weights has {len(settings.reward_weights)} numbers for {len(rewards)} rewards"
        )
    if settings.lora is not None:
        lora_config(settings.lora)  # refused before anything is loaded
    if settings.lora is not None and is_adapter(settings.model):
        raise UserError(
            f"model {settings.model!r} is a LoRA adapter, and its own weights are trained on; "
            "leave `lora` out, or merge the adapter into its model first"
        )
    assert settings.dataset is not None  # checked
    dataset = load_task(
        settings.dataset,
        split=settings.split,
        limit=settings.limit,
        shares=settings.mixing,
        **_presentation(settings),
    )
    eval_dataset = None
    if settings.eval_dataset:
        eval_dataset = load_task(
            settings.eval_dataset,
            split=settings.eval_split,
            limit=settings.eval.num_prompts,
            name_sources=isinstance(settings.eval_dataset, list),
            **_presentation(settings),
        )
    check_memory(settings, batch_shape(settings), dataset["prompt"])
    model, tokenizer = load_model(
        settings.model, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code
    )
    dataset = _short_enough(dataset, settings, model, tokenizer)
    if eval_dataset is not None:
        eval_dataset = _short_enough(eval_dataset, settings, model, tokenizer)
    return Materials(model, tokenizer, dataset, eval_dataset, rewards)


def _short_enough(dataset: Dataset, settings: TrainSettings, model: Any, tokenizer: Any) -> Dataset:
    return within_context(
        dataset,
        model,
        tokenizer,
        settings.max_completion_length,
        settings.overlong_prompts,
        max_prompt_length=settings.max_prompt_length,
        template_options=settings.template_options,
    )


def _presentation(settings: TrainSettings) -> dict[str, Any]:
    return {
        "columns": settings.columns,
        "chat": settings.chat,
        "system_prompt": settings.system_prompt,
        "seed": settings.data_seed,
    }


def batch_shape(settings: TrainSettings) -> tuple[int, int]:
    """Rollouts in a forward pass and passes in an update; what is not set fits the strategy."""
    options = {"num_generations": settings.num_generations} | settings.strategy_args
    strategy = make_strategy(settings.strategy, **options)
    ready = prepare(strategy, Sizes(prompts_per_step=strategy.usual_prompts))
    prompts = getattr(ready, "prompts_per_step", 1)
    rows = prompts * settings.num_generations
    batch, passes = settings.batch_size, settings.gradient_accumulation_steps
    if batch is None:
        parts = passes or -(-rows // _MOST_ROWS)
        batch = -(-rows // parts)
    if passes is None:
        passes = max(1, -(-rows // batch))
    # TRL wants whole groups in a batch.
    while (batch * passes) % settings.num_generations:
        batch += 1
    return batch, passes


def steps_on_a_batch(settings: TrainSettings, batch: int, passes: int) -> int:
    """Optimiser steps that a batch of rollouts is used for.

    Args:
        batch, passes: as of `batch_shape`.
    """
    given = settings.trl
    generated = given.get("steps_per_generation")
    if generated is None and given.get("generation_batch_size") is not None:
        generated = int(given["generation_batch_size"]) // batch
    return max(1, int(generated or passes) * settings.num_iterations // passes)

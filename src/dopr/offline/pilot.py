"""Success rates of a pool, measured with a few rollouts of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dopr.core.errors import UserError
from dopr.core.strategy import RIGHT
from dopr.offline.pool_rates import PoolRates


@dataclass
class PilotSettings:
    """A small measurement before planning.

    Args:
        model: as for `dopr.policy.models.load_model`.
        dataset: tasks.
        reward: names of rewards.
        rollouts: of each prompt.
        prompts: at most so many, a seeded sample of the task.
        max_tokens: tokens a completion.
        temperature: of the sampling.
        seed: of the sampling.
        trust_remote_code: run the model's own code.
    """

    model: str
    dataset: Sequence[str]
    reward: Sequence[str] = ("math",)
    rollouts: int = 8
    prompts: int = 64
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    trust_remote_code: bool = False

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            UserError: naming the setting.
        """
        if not self.dataset:
            raise UserError("a pilot needs prompts; name a task with --dataset")
        for name in ("rollouts", "prompts", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"the pilot's {name} must be at least 1")


def run_pilot(settings: PilotSettings) -> PoolRates:
    """Roll out a model on a task and count what it solves.

    Uncertainty is that of each prompt's posterior and, where the task has more prompts, of which
    were drawn; simulated pools as large as the task are drawn from the sample.

    Raises:
        UserError: bad settings, or nothing that a plan could be made of.
    """
    settings.check()
    from dopr.policy.embedder import embedding_reward
    from dopr.policy.models import best_device, load_model
    from dopr.policy.prompts import within_context
    from dopr.policy.sampling import Sampling
    from dopr.rewards import load_reward
    from dopr.runs.evaluation import evaluate
    from dopr.tasks import load_task

    rewards = [
        load_reward(name, embedding=embedding_reward, max_completion_length=settings.max_tokens)
        for name in settings.reward
    ]
    dataset = load_task(list(settings.dataset), split="train")
    population = len(dataset)
    if settings.prompts < population:
        rng = np.random.default_rng(settings.seed)
        dataset = dataset.select(np.sort(rng.choice(population, settings.prompts, replace=False)))
    model, tokenizer = load_model(settings.model, trust_remote_code=settings.trust_remote_code)
    dataset = within_context(dataset, model, tokenizer, settings.max_tokens)
    result = evaluate(
        model.to(best_device()),
        tokenizer,
        dataset,
        rewards,
        Sampling(settings.max_tokens, settings.temperature, seed=settings.seed),
        k=settings.rollouts,
    )
    scored = ~np.isnan(result.rewards)
    right = np.where(scored, result.rewards, -np.inf) >= RIGHT
    solved = int(right.sum())
    return PoolRates.of_counts(
        right.sum(axis=1),
        scored.sum(axis=1),
        f"pilot of {len(dataset)} prompts x {settings.rollouts}",
        resampled=len(dataset) < population,
        population=population,
        tokens_to_solution=result.generated_tokens / solved if solved else None,
    )

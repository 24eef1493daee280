"""docs/theory.md's bound against real training: `python benchmarks/theory_tiny.py`.

The shipped tiny model is trained with each batch used once. After every update the divergence
KL(new || old) of whole completions is measured on prompts of the pool, from completions of the new
policy, together with the pool's mean success rate. Checked are step 3 on the path (the turn of
arcsin sqrt(mean rate) is at most the sum of arccos exp(-divergence / 2)) and step 5 (rollouts spent
against the shared bound, with the run's own mean divergence and informative groups an update).
Writes docs/results/theory-tiny.json.
"""

import argparse
import json
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from dopr.offline.bounds import rollouts_per_informative_group
from dopr.policy.models import load_model
from dopr.policy.sampling import Sampling, generate, isolated_random_state, score
from dopr.runs.materials import load_materials
from dopr.runs.settings import TrainSettings
from dopr.runs.train import build_trainer

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "theory-tiny.json"
MEASURED, SAMPLES = 256, 2  # prompts of the pool, and completions of each after every update
GROUP = 8
RUNS: dict[str, dict[str, Any]] = {
    "dopr": {"strategy": "dopr", "strategy_args": {"prompts_per_step": 4}},
    "uniform": {"strategy": "uniform", "strategy_args": {"prompts_per_step": 4}},
    "oracle": {
        "strategy": "oracle",
        "strategy_args": {"prompts_per_step": 4, "refresh": 8, "samples": 4},
    },
}


def settings_of(name: str, seed: int, updates: int, folder: str) -> TrainSettings:
    settings = TrainSettings(
        model="tiny-reasoner",
        dataset="tiny:leg_counting/half",
        reward="gym",
        **RUNS[name],
        num_generations=GROUP,
        learning_rate=3e-4,
        lr_scheduler_type="linear",
        max_completion_length=64,
        steps=updates,
        threads=1,
        save_every=0,
        completions_every=0,
        seed=seed,
        output_dir=folder,
    )
    settings.check()
    return settings


@torch.no_grad()
def log_probability(model: Any, prompts: list[list[int]], completions: list[list[int]]) -> Any:
    """Log-probability of each whole completion, shape (n,)."""
    rows = [p + c for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    each = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None]).squeeze(2)
    places = torch.arange(1, width)[None]
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    return (each * ((places >= starts) & (places < ends))).sum(1).double().numpy()


class Measure(TrainerCallback):
    """Divergence from the weights before the update, and the pool's mean success rate after it."""

    def __init__(self, model: Any, tokenizer: Any, pool: Any, rewards: list[Any]) -> None:
        self.model, self.tokenizer, self.rewards = model, tokenizer, rewards
        self.pool = pool.select(range(0, len(pool), len(pool) // MEASURED))
        # Not a copy: TRL ties a model's forward to the object.
        self.before = load_model("tiny-reasoner")[0].eval()
        self.divergences: list[float] = []
        self.rates: list[float] = []

    def sampled(self, seed: int) -> tuple[list[list[int]], list[list[int]], float]:
        sampling = Sampling(max_new_tokens=64, batch_size=MEASURED * SAMPLES)
        with isolated_random_state(seed):
            prompts = list(self.pool["prompt"])
            ids = generate(self.model, self.tokenizer, prompts, SAMPLES, sampling)
            rewards = score(self.pool, ids, self.tokenizer, self.rewards, SAMPLES)
        encoded = self.tokenizer(prompts)["input_ids"]
        return [row for row in encoded for _ in range(SAMPLES)], ids, float(np.nanmean(rewards))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(self.sampled(0)[2])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        prompts, ids, rate = self.sampled(state.global_step)
        training = self.model.training
        self.model.eval()
        ratio = log_probability(self.before, prompts, ids) - log_probability(
            self.model, prompts, ids
        )
        self.model.train(training)
        # Of the same mean as -ratio under the new policy, never negative, less noisy.
        self.divergences.append(float(np.mean(np.exp(ratio) - 1 - ratio)))
        self.rates.append(rate)
        self.before.load_state_dict(self.model.state_dict())


def one_run(name: str, seed: int, updates: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(name, seed, updates, folder)
        materials = load_materials(settings)
        trainer = build_trainer(settings, materials, Path(folder))
        measure = Measure(trainer.model, materials.tokenizer, materials.dataset, materials.rewards)
        trainer.add_callback(measure)
        trainer.train()
        spent = trainer.driver.spent
    # One measurement is noisy: the mean of the last five stands for the end.
    first, last = measure.rates[0], float(np.mean(measure.rates[-5:]))
    turn = float(np.arcsin(np.sqrt(last)) - np.arcsin(np.sqrt(first)))
    divergences = np.array(measure.divergences)
    reach = float(np.arccos(np.exp(-divergences / 2)).sum())
    informative = spent.informative_groups / updates
    cost = rollouts_per_informative_group(0.5, GROUP)
    bound = informative * turn / float(np.sqrt(divergences.mean())) * cost
    return {
        "strategy": name,
        "seed": seed,
        "updates": updates,
        "rate_before": first,
        "rate_after": last,
        "turn": turn,
        "reach": reach,
        "divergence_mean": float(divergences.mean()),
        "divergence_max": float(divergences.max()),
        "informative_groups_an_update": informative,
        "rollouts": spent.rollouts,
        "bound": bound,
        "rollouts_over_bound": spent.rollouts / bound,
        "reach_over_turn": reach / turn,
        "divergences": [round(d, 5) for d in measure.divergences],
        "rates": [round(r, 4) for r in measure.rates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        for name in RUNS:
            runs.append(one_run(name, seed, options.updates))
            print({k: v for k, v in runs[-1].items() if k not in ("divergences", "rates")})
    result = {
        "command": "python benchmarks/theory_tiny.py",
        "none_below": all(run["rollouts_over_bound"] >= 1 for run in runs),
        "path_holds": all(run["reach_over_turn"] >= 1 for run in runs),
        "runs": runs,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl")},
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Does the variety of a warm start matter to what follows? `python benchmarks/tailor_study.py`.

Four models are finetuned from one base on equally many correct solutions for equally many steps:
`diverse` ones over all clusters of reasoning patterns, `random` ones, and those of the largest and
of the second largest cluster alone (`narrow-0`, `narrow-1`). Then `dopr` trains each with the same
settings over the same seeds, and what is compared are the rollouts to a target accuracy.

The solutions are sampled from the base itself and kept where reasoning-gym says they are right, so
no arm knows more than another. What sampling and warm start cost is equal for all arms and not
counted. Everything lies in --output, and the same command goes on where it was stopped.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dopr.compare import Comparison, run_comparison
from dopr.compare.comparison import PoolMeasurement, Target
from dopr.core.files import write_atomically
from dopr.policy.models import best_device, load_model
from dopr.policy.sampling import Sampling, generate, isolated_random_state, score
from dopr.rewards import load_reward
from dopr.tasks import load_task
from dopr.warmstart.curate import CurateSettings
from dopr.warmstart.families import get_family
from dopr.warmstart.finetune import WarmstartSettings, run_warmstart
from dopr.warmstart.mixture import problems

ARMS: dict[str, dict[str, Any]] = {
    "diverse": {"keep": "diverse"},
    "random": {"keep": "random"},
    "narrow-0": {"keep": "narrow", "cluster": 0},
    "narrow-1": {"keep": "narrow", "cluster": 1},
}
PROBLEM_SEED = 4242  # neither the shipped model's warm start nor any pool draws from it


@dataclass
class Study:
    """Sizes of the study.

    Args:
        output: folder of everything.
        base: model that all arms start from.
        families: reasoning-gym families, of the tiny model's; trained and measured on together.
        problems: problems to sample solutions of, of each family.
        samples: solutions sampled of each.
        size: correct solutions that every arm is finetuned on.
        clusters: patterns to tell apart.
        steps, batch_size, learning_rate: of the finetuning.
        seeds: of the reinforcement learning.
        max_rollouts: of a run.
        rl_learning_rate: the same for all arms.
        target: accuracy that the rollouts are counted up to.
        eval_every: rollouts between evaluations.
        eval_prompts: held-out prompts; None takes all.
        threads: torch threads.
        arms: those to train, of `ARMS`.
    """

    output: Path = Path("runs/tailor")
    base: str = "tiny-reasoner"
    families: list[str] = field(default_factory=lambda: ["leg_counting"])
    problems: int = 1024
    samples: int = 4
    size: int = 256
    clusters: int = 3
    steps: int = 60
    batch_size: int = 32
    learning_rate: float = 3e-4
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    max_rollouts: int = 1536
    rl_learning_rate: float = 1.6e-4
    target: float = 0.85
    eval_every: int = 64
    eval_prompts: int | None = None
    threads: int = 2
    arms: list[str] = field(default_factory=lambda: [*ARMS])


def sample_solutions(study: Study) -> Path:
    """Solutions of the base to problems within reach, with verdicts, in solutions.jsonl."""
    file = study.output / "solutions.jsonl"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    entries: list[Any] = []
    for family in study.families:
        drawn = problems(family, 2 * study.problems, PROBLEM_SEED)
        within = [entry for entry in drawn if get_family(family).regime(entry) == "reach"]
        entries += within[: study.problems]
    task = file.with_name("problems.jsonl")
    task.write_text("\n".join(json.dumps(entry, default=str) for entry in entries) + "\n")
    dataset = load_task(str(task))
    model, tokenizer = load_model(study.base)
    sampling = Sampling(max_new_tokens=64)
    with isolated_random_state(PROBLEM_SEED):
        prompts = list(dataset["prompt"])
        ids = generate(model.to(best_device()), tokenizer, prompts, study.samples, sampling)
        rewards = score(dataset, ids, tokenizer, [load_reward("gym")], study.samples)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    lines = [
        json.dumps(
            {"prompt": prompts[i // study.samples], "response": text, "reward": float(value)}
        )
        for i, (text, value) in enumerate(zip(texts, rewards, strict=True))
    ]
    write_atomically(file, "\n".join(lines) + "\n")
    return file


def warm_start(study: Study, arm: str, solutions: Path) -> Path:
    """The arm's model; made only if it is not there yet."""
    folder = study.output / "models" / arm
    if not (folder / "warmstart.json").is_file():  # written last
        run_warmstart(
            WarmstartSettings(
                output_dir=str(folder),
                base=study.base,
                families=study.families,
                steps=study.steps,
                batch_size=study.batch_size,
                learning_rate=study.learning_rate,
                warmup_steps=min(10, study.steps),
                measure_prompts=0,
                threads=study.threads,
                curate=CurateSettings(
                    data=str(solutions), size=study.size, clusters=study.clusters, **ARMS[arm]
                ),
            )
        )
    return folder


def make_comparison(study: Study, models: dict[str, Path]) -> Comparison:
    """Equal runs of `dopr` that differ in the model they start from."""
    base = {
        "dataset": [f"tiny:{family}/half" for family in study.families],
        "eval_dataset": [f"tiny:{family}/eval" for family in study.families],
        "reward": "gym",
        "strategy": "dopr",
        "strategy_args": {"prompts_per_step": 4},
        "num_generations": 4,
        "num_iterations": 3,
        "max_completion_length": 64,
        "max_rollouts": study.max_rollouts,
        "learning_rate": study.rl_learning_rate,
        "lr_scheduler_type": "linear",
        "completions_every": 16,
        "save_every": 100,
        "eval": {
            "every_rollouts": study.eval_every,
            "k": 1,
            "batch_size": 512,
            "num_prompts": study.eval_prompts,
        },
    }
    return Comparison(
        strategies={arm: {"model": str(folder)} for arm, folder in models.items()},
        base=base,
        seeds=study.seeds,
        output_dir=str(study.output / "compare"),
        target=Target(value=study.target),
        pool=PoolMeasurement(measure=False),  # every arm's model has its own
        headline=["diverse"],
        final_window=3,
        threads=study.threads,
    )


def summarise(study: Study, comparison: dict[str, Any]) -> dict[str, Any]:
    """What each arm was finetuned on, where it started, and what it took to the target."""
    summary: dict[str, Any] = {"target": study.target, "seeds": study.seeds, "arms": {}}
    for arm, found in comparison["strategies"].items():
        made = json.loads((study.output / "models" / arm / "warmstart.json").read_text())
        starts = []
        for seed in study.seeds:
            run = study.output / "compare" / "runs" / arm / f"seed-{seed}" / "eval.jsonl"
            starts.append(json.loads(run.read_text().splitlines()[0])["avg@k"])
        summary["arms"][arm] = {
            "curation": made["curation"],
            "accuracy_at_start": starts,
            "rollouts_to_target": found["rollouts_to_target"],
            "final": found["final"],
        }
    summary["ratios"] = {name: ratio["rollouts"] for name, ratio in comparison["ratios"].items()}
    return summary


def run(study: Study) -> dict[str, Any] | None:
    """All stages; None where it was stopped."""
    solutions = sample_solutions(study)
    models = {arm: warm_start(study, arm, solutions) for arm in study.arms}
    comparison = run_comparison(make_comparison(study, models), quiet=True)
    if comparison is None:
        return None
    summary = summarise(study, comparison)
    write_atomically(study.output / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Study.output)
    parser.add_argument("--base", default=Study.base)
    parser.add_argument("--families", nargs="+", default=["leg_counting"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    for name in ("problems", "samples", "size", "clusters", "steps", "max_rollouts", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Study, name))
    for name in ("learning_rate", "rl_learning_rate", "target"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=getattr(Study, name))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    summary = run(Study(**vars(parser.parse_args())))
    print("stopped; the same command goes on" if summary is None else json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()

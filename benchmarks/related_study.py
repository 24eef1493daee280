"""What training in stages changes: `python benchmarks/related_study.py srl`, `rlpt`, `embedding`.

- srl: supervised RL on 48 solved sums, then verifiable rewards, against verifiable rewards alone
  with the same number of rollouts, and with those of the second stage alone.
- rlpt: next-sentence prediction on a text of sums, against verifiable rewards with the same number
  of rollouts; and verifiable rewards after it, against the same from the base.
- embedding: a reward model fitted to the completions of a run with the verifier, then a run from
  the base on that reward alone; both judged by the verifier.

Every run is kept under --output, and the same command goes on where it was stopped. Writes
docs/results/related/PART.json. Differences are paired by seed, with 95% bootstrap intervals.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dopr.core.files import write_atomically
from dopr.core.statistics import middle, resampled
from dopr.policy.models import load_model
from dopr.policy.sampling import Sampling
from dopr.rewards import load_reward
from dopr.runs.evaluation import evaluate
from dopr.runs.reward_model.fit import FitSettings, fit_rewards
from dopr.runs.settings import EvalSettings, TrainSettings
from dopr.runs.train import train
from dopr.tasks import load_task

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "related"
EXAMPLES = Path(__file__).parent.parent / "examples" / "data"
RECIPE: dict[str, Any] = {
    "strategy": "dopr",
    "strategy_args": {"prompts_per_step": 4},
    "num_generations": 4,
    "num_iterations": 3,
    "learning_rate": 1.6e-4,
    "lr_scheduler_type": "linear",
    "max_completion_length": 64,
    "completions_every": 0,
    "save_every": 0,
    "threads": 1,
}
SUMS = {"dataset": "tiny:chain_sum/half", "reward": "gym"}
TARGET = 0.7


class Runs:
    """Runs below one folder, each made once.

    Args:
        folder: where they lie.
        task: held-out task that every run is judged by.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder, task

    def make(self, name: str, seed: int, **settings: Any) -> Path:
        """A finished run's folder; `curve.json` in it holds [rollouts, accuracy]."""
        folder = self.folder / name / f"seed-{seed}"
        if (folder / "curve.json").is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        evaluation = EvalSettings(every_rollouts=96, k=1, batch_size=512)
        given = {"model": "tiny-reasoner"} | RECIPE | settings
        judged = {"eval_dataset": self.task} if given["reward"] == "gym" else {}
        made = TrainSettings(**given, **judged, seed=seed, output_dir=str(folder), eval=evaluation)
        made.check()
        result = train(made, quiet=True)
        if not result.finished:
            raise SystemExit("stopped; the same command goes on")
        curve = [[row["rollouts_total"], row["avg@k"]] for row in result.evals]
        if not curve:
            curve = [[result.rollouts, self.judge(folder / "model")]]
        write_atomically(folder / "curve.json", json.dumps(curve))
        print(name, seed, curve[-1], flush=True)
        return folder

    def judge(self, model_folder: Path) -> float:
        """Accuracy by the verifier, as a run's own evaluation measures it."""
        model, tokenizer = load_model(str(model_folder))
        found = evaluate(
            model,
            tokenizer,
            load_task(self.task),
            [load_reward("gym")],
            Sampling(64, batch_size=512, seed=EvalSettings().seed),
        )
        return float(found.summary["avg@k"])


def read(folder: Path) -> list[list[float]]:
    """A run's curve."""
    found: list[list[float]] = json.loads((folder / "curve.json").read_text())
    return found


def interval(values: list[float]) -> dict[str, Any]:
    """Median with its 95% bootstrap interval over seeds, and the values."""
    drawn = resampled(np.array(values), np.median, np.random.default_rng(0), 4000)
    low, high = middle(drawn)
    return {"median": float(np.median(values)), "low": low, "high": high, "values": values}


def final(curve: list[list[float]]) -> float:
    """Mean of the last three evaluations."""
    return float(np.mean([accuracy for _, accuracy in curve[-3:]]))


def to_target(curve: list[list[float]], paid_before: float = 0) -> float:
    """Rollouts to the target; infinite where it was missed."""
    return next((paid_before + spent for spent, value in curve if value >= TARGET), float("inf"))


def compare(runs: dict[str, list[float]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Each arm's figure, and differences of pairs by seed."""
    return {
        "arms": {name: interval(values) for name, values in runs.items()},
        "differences": {
            f"{a} - {b}": interval([x - y for x, y in zip(runs[a], runs[b], strict=True)])
            for a, b in pairs
        },
    }


def srl(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """SRL, then verifiable rewards, against verifiable rewards alone."""
    runs = Runs(folder, "tiny:chain_sum/eval")
    first, second = 800, 1536
    ends: dict[str, list[float]] = {"after SRL": [], "SRL + RLVR": [], "RLVR, as many": []}
    ends |= {"RLVR, second stage only": []}
    costs: dict[str, list[float]] = {"SRL + RLVR": [], "RLVR, as many": []}
    for seed in seeds:
        steps = runs.make(
            "srl",
            seed,
            dataset=f"srl:{EXAMPLES / 'sums-by-steps.jsonl'}?thought=none&separator=",
            reward="srl",
            strategy="dapo",
            strategy_args={"prompts_per_step": 4, "min_reward_std": 0.05},
            num_generations=8,
            num_iterations=2,
            max_rollouts=first,
        )
        after = runs.make("srl-rlvr", seed, model=str(steps / "model"), max_rollouts=second, **SUMS)
        alone = runs.make("rlvr-long", seed, max_rollouts=first + second, **SUMS)
        short = runs.make("rlvr", seed, max_rollouts=second, **SUMS)
        ends["after SRL"].append(read(after)[0][1])
        for name, run in zip(list(ends)[1:], (after, alone, short), strict=True):
            ends[name].append(final(read(run)))
        costs["SRL + RLVR"].append(to_target(read(after), first))
        costs["RLVR, as many"].append(to_target(read(alone)))
    names = ("RLVR, as many", "RLVR, second stage only")
    return {
        "final_accuracy": compare(ends, [("SRL + RLVR", name) for name in names]),
        "rollouts_to_target": {"target": TARGET, "values": costs},
        "stages": {"SRL": first, "RLVR": second},
    }


def rlpt(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Next-sentence prediction, alone and before verifiable rewards."""
    runs = Runs(folder, "tiny:chain_sum/eval")
    budget = 768
    names = ("base", "RLPT", "RLVR", "RLPT + RLVR", "RLVR, as many")
    ends: dict[str, list[float]] = {name: [] for name in names}
    text = f"rlpt:{EXAMPLES / 'sums.txt'}?ask=next&thought=none&context=1&min_words=1"
    for seed in seeds:
        reading = runs.make("rlpt", seed, dataset=text, reward="rlpt", max_rollouts=budget)
        direct = runs.make("rlvr-768", seed, max_rollouts=budget, **SUMS)
        after = runs.make(
            "rlpt-rlvr", seed, model=str(reading / "model"), max_rollouts=budget, **SUMS
        )
        longer = runs.make("rlvr-1536", seed, max_rollouts=2 * budget, **SUMS)
        ends["base"].append(read(direct)[0][1])
        ends["RLPT"].append(read(reading)[-1][1])
        for name, run in zip(names[2:], (direct, after, longer), strict=True):
            ends[name].append(final(read(run)))
    pairs = [("RLPT", "base"), ("RLPT + RLVR", "RLVR"), ("RLPT + RLVR", "RLVR, as many")]
    return {"final_accuracy": compare(ends, pairs), "rollouts_of_a_stage": budget}


def embedding(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """A fitted reward in the verifier's place."""
    runs = Runs(folder, "tiny:leg_counting/eval")
    names = ("base", "verifier", "fitted reward, one head", "fitted reward, lowest of five")
    ends: dict[str, list[float]] = {name: [] for name in names}
    heads = {"one": {"head": "classify"}}
    heads["five"] = {"head": "ensemble", "member": "classify", "aggregate": "lowest"}
    held_out: dict[str, list[float]] = {name: [] for name in heads}
    common = {"dataset": "tiny:leg_counting/half", "max_rollouts": 512}
    for seed in seeds:
        scored = runs.make("verifier", seed, reward="gym", **common | {"completions_every": 1})
        ends["base"].append(read(scored)[0][1])
        ends["verifier"].append(read(scored)[-1][1])
        for name, (head, options) in zip(names[2:], heads.items(), strict=True):
            model = folder / f"reward-{head}" / f"seed-{seed}"
            if not (model / "report.json").is_file():
                fit_rewards(FitSettings([str(scored)], str(model), seed=seed, **options))
            report = json.loads((model / "report.json").read_text())
            held_out[head].append(report["noise"][0]["pair_accuracy"])
            trained = runs.make(f"fitted-{head}", seed, reward=f"embedding:{model}", **common)
            ends[name].append(read(trained)[-1][1])
    pairs = [(names[2], "base"), (names[2], "verifier"), (names[3], names[2])]
    return {
        "final_accuracy": compare(ends, pairs),
        "held_out_pair_accuracy": {name: interval(v) for name, v in held_out.items()},
        "rollouts": 512,
    }


PARTS: dict[str, Callable[[Path, list[int]], dict[str, Any]]] = {
    "srl": srl,
    "rlpt": rlpt,
    "embedding": embedding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--output", type=Path, default=Path("runs/related"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = PARTS[options.part](options.output / options.part, options.seeds)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl")}
    result = {
        "command": f"python benchmarks/related_study.py {options.part}",
        "seeds": options.seeds,
        **found,
        "machine": {"threads": 1, "python": platform.python_version(), **versions},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / f"{options.part}.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

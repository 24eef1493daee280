"""Carries a comparison out, one run after another, and goes on where it was stopped.

Runs do not share the machine with each other: two trainings side by side on a few cores slow each
other down many times over, and their timings would say nothing.
"""

import dataclasses
import gc
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dopr.compare.comparison import Comparison
from dopr.compare.summary import FinishedRun, comparison_mapping, summarise
from dopr.compare.tuning import tune
from dopr.core.configuration import to_yaml
from dopr.core.errors import UserError
from dopr.core.files import write_atomically
from dopr.policy.models import best_device
from dopr.policy.sampling import Sampling
from dopr.runs.evaluation import measure_signal_rate
from dopr.runs.materials import load_materials
from dopr.runs.progress import Goal, Progress
from dopr.runs.run_dir import refuse_other_settings
from dopr.runs.settings import TrainSettings
from dopr.runs.train import TrainingDivergedError, TrainResult, end_diverged, train

_PACKAGES = ("dopr", "torch", "transformers", "trl", "reasoning-gym", "numpy")
# Settings that may change between two calls without making the runs another comparison.
_FREE = ("output_dir", "save_every", "save_total_limit", "completions_every", "report_to")
# Settings that make the pool another one, or its rewards; how it is sampled aside.
_OF_POOL = (
    *("model", "dtype", "dataset", "split", "limit", "mixing", "data_seed", "columns"),
    *("chat", "system_prompt", "max_prompt_length", "overlong_prompts"),
    *("reward", "reward_weights", "judge"),
)


def run_comparison(comparison: Comparison, quiet: bool = False) -> dict[str, Any] | None:
    """Run what is missing and write comparison.json and report.html.

    Runs that are finished are kept; the one that was interrupted goes on from its checkpoint.

    Returns:
        The content of comparison.json, or None when it was stopped by a signal.

    Raises:
        UserError: the comparison cannot be carried out, or a run in the folder has other settings.
    """
    open_folder(comparison)

    def run_one(settings: TrainSettings, label: str) -> TrainResult | None:
        return run_training(settings, label, quiet)

    def run_try(settings: TrainSettings, label: str) -> TrainResult | None:
        return run_training(settings, label, quiet, may_diverge=True)

    pool = _pool(comparison, quiet)
    tuned = tune(comparison, run_try)
    if tuned is None:
        return None
    if tuned["strategies"]:
        write_atomically(comparison.folder / "tuning.json", json.dumps(tuned, indent=2))
    chosen = {
        name: tuned["strategies"].get(name, {}).get("chosen", comparison.tries(name)[0])
        for name in comparison.strategies
    }
    runs: dict[str, list[FinishedRun]] = {name: [] for name in comparison.strategies}
    for seed in comparison.seeds:  # seed by seed, so that paired timings are near in time
        for name in comparison.strategies:
            done = run_one(comparison.settings(name, seed, chosen[name]), f"{name} seed {seed}")
            if done is None:
                return None
            runs[name].append(_as_finished(name, seed, done))
    facts = {"pool": pool, "machine": _machine(), "versions": _versions()}
    if tuned["strategies"]:
        facts["tuning"] = tuned
    result = summarise(comparison, runs, chosen, {k: v for k, v in facts.items() if v is not None})
    write_atomically(comparison.folder / "comparison.json", json.dumps(result, indent=2))
    from dopr.report import write_report

    write_report(comparison.folder)
    return result


def open_folder(comparison: Comparison) -> None:
    """Check the comparison, make its folder and set the number of threads.

    Raises:
        UserError: it cannot be carried out, or the folder cannot be written.
    """
    comparison.check()
    try:
        comparison.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(comparison.folder / "config.yaml", to_yaml(comparison_mapping(comparison)))
    except OSError as error:
        raise UserError(
            f"output_dir {comparison.output_dir!r} cannot be written ({error.strerror}); "
            "choose another"
        ) from None
    if comparison.threads:
        torch.set_num_threads(comparison.threads)


def run_training(
    settings: TrainSettings, label: str, quiet: bool, may_diverge: bool = False
) -> TrainResult | None:
    """One run, from where it was left; None when a signal stopped it.

    A finished run's checkpoints are deleted: with the optimiser's state they take three times the
    room of the weights, and nothing goes on from them. So are the weights of a try.

    Args:
        settings: of the run.
        label: what stands before its progress.
        quiet: show none.
        may_diverge: the run is a try: one that diverges is finished with that.

    Raises:
        UserError: the folder holds a run of other settings, the run ended before its budget, or it
            diverged and may not.
    """
    names = (each.name for each in dataclasses.fields(settings) if each.name not in _FREE)
    refuse_other_settings(settings, names)
    if settings.early_stop_evals is not None:
        raise UserError(
            "early_stop_evals ends runs before their budget, and a comparison is of equal budgets; "
            "leave it out"
        )
    try:
        result = train(settings, resume=True, quiet=quiet, label=label)
    except TrainingDivergedError:
        if not may_diverge:
            raise
        result = end_diverged(settings)
    gc.collect()
    if result.diverged:
        return result
    if not result.finished:
        return None
    if not settings.is_spent(dataclasses.asdict(result)):
        raise UserError(
            f"run {label!r} ended after {result.steps} steps and {result.rollouts} rollouts, "
            "before its budget was spent; its strategy has stopped asking for rollouts"
        )
    for name in ("checkpoints", "model") if may_diverge else ("checkpoints",):
        shutil.rmtree(Path(settings.output_dir) / name, ignore_errors=True)
    return result


def _as_finished(name: str, seed: int, done: TrainResult) -> FinishedRun:
    totals = {
        "rollouts": float(done.rollouts),
        "tokens": float(done.generated_tokens + done.measured_tokens),
        "wall_s": done.training_seconds,
    }
    # Runs from before evaluations told of both had the generated ones alone.
    evals = [{"tokens_total": row.get("generated_tokens_total")} | row for row in done.evals]
    return FinishedRun(name, seed, evals, totals)


def _pool(comparison: Comparison, quiet: bool) -> dict[str, Any] | None:
    """Size and signal rate of the pool under the base model, measured once."""
    if not comparison.pool.measure:
        return None
    file = comparison.folder / "pool.json"
    first = next(iter(comparison.strategies))
    settings = comparison.settings(first, comparison.seeds[0], comparison.tries(first)[0])
    sampling = Sampling(
        settings.max_completion_length,
        settings.temperature,
        settings.top_p,
        settings.eval.batch_size,
        settings.eval.seed,
        settings.template_options,
        settings.generation_options,
    )
    group_size = comparison.pool.group_size or settings.num_generations
    what = {
        **{name: getattr(settings, name) for name in _OF_POOL},
        "plan": dataclasses.asdict(comparison.pool),
        "group_size": group_size,
        "sampling": dataclasses.asdict(sampling),
    }
    if file.is_file():
        known = json.loads(file.read_text())
        if known.get("of") == what:
            return dict(known)
    progress = Progress(Goal(), quiet=quiet)
    if not quiet:
        progress.say("measuring the pool's signal rate")
    materials = load_materials(settings)
    found = measure_signal_rate(
        materials.model.to(best_device()),
        materials.tokenizer,
        materials.dataset,
        materials.rewards,
        sampling,
        group_size=group_size,
        num_prompts=comparison.pool.num_prompts,
        weights=settings.reward_weights,
    )
    progress.close()
    found["of"] = what
    write_atomically(file, json.dumps(found, indent=2))
    return found


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": device,
        "system": platform.system(),
    }


def _cpu_name() -> str:
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in _PACKAGES}

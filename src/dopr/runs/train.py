"""`dopr train`: from settings to a run directory."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, set_seed

from dopr.core.configuration import to_mapping, to_yaml
from dopr.core.errors import UserError
from dopr.core.files import write_atomically
from dopr.core.json_lines import read_lines
from dopr.engines.trl import checkpoints
from dopr.engines.trl.config import DoPRConfig
from dopr.engines.trl.processes import ChoicesDifferError, is_first_process, naming_a_lost_process
from dopr.engines.trl.setup import check_engine, check_saving
from dopr.engines.trl.trainer import DoPRTrainer
from dopr.policy.decoding import DivergedError
from dopr.policy.models import best_device, lora_config
from dopr.policy.sampling import Sampling
from dopr.rewards.noisy import flip_verdicts
from dopr.runs.best import has_stopped_improving
from dopr.runs.callbacks import Interrupt, RunCallback, write_ledger
from dopr.runs.evaluation import evaluate
from dopr.runs.materials import Materials, batch_shape, load_materials, steps_on_a_batch
from dopr.runs.progress import Goal, Progress
from dopr.runs.run_dir import (
    DONE_FILE,
    WHAT_A_RUN_IS,
    is_disk_error,
    open_run_dir,
    refuse_other_settings,
    rewind,
    step_of,
)
from dopr.runs.settings import TrainSettings
from dopr.runs.watching import AlarmCallback

logger = logging.getLogger(__name__)

_NO_END = 10**9  # steps, where tokens or seconds end the run


@dataclass
class TrainResult:
    """How a run ended.

    Attributes:
        run_dir: where its files are.
        steps, rollouts, generated_tokens: totals.
        measured_tokens: read to choose by.
        training_seconds: evaluation and saving left out.
        informative_groups, groups: how many groups had reward variance, of how many.
        finished: the budget is spent, or evaluations had stopped getting better; False when it was
            stopped.
        stopped_early: evaluations had stopped getting better.
        signal: number of the signal that stopped it.
        resumed_from: the checkpoint's step, or None.
        evals: the lines of eval.jsonl.
    """

    run_dir: Path
    steps: int
    rollouts: int
    generated_tokens: int
    training_seconds: float
    measured_tokens: int = 0
    informative_groups: int = 0
    groups: int = 0
    finished: bool = True
    stopped_early: bool = False
    diverged: bool = False
    signal: int | None = None
    resumed_from: int | None = None
    evals: list[dict[str, Any]] = field(default_factory=list)


class TrainingDivergedError(UserError):
    """The policy's weights are not finite any more."""


def train(
    settings: TrainSettings,
    resume: bool = False,
    quiet: bool = False,
    label: str = "",
) -> TrainResult:
    """Run what the settings say and leave a run directory.

    Args:
        settings: checked ones.
        resume: continue from the newest whole checkpoint; from the start where there is none.
        quiet: show no progress.
        label: what stands before the progress.

    Raises:
        UserError: what is asked for cannot be done, or a reward misbehaves; what was trained until
            then is saved.
        OSError: the output cannot be written any more, or another process of the run is gone.
    """
    settings.check()
    check_engine(settings.use_vllm)
    run_dir = Path(settings.output_dir)
    found = open_run_dir(run_dir, resume)
    finished = finished_result(settings) if resume else None
    if finished is not None:
        return finished
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    materials = load_materials(settings)
    trainer = build_trainer(settings, materials, run_dir)
    if trainer.accelerator.is_main_process:
        rewind(run_dir, found)
        write_atomically(run_dir / "config.yaml", to_yaml(to_mapping(settings)))
    progress = Progress(Goal(settings.limits), label, quiet or not is_first_process())
    for departure in settings.objective_departures:
        progress.say(f"note: {departure}")
    try:
        with Interrupt(progress.say) as interrupt:
            evaluator = _evaluator(settings, materials, trainer)
            callback = RunCallback(trainer, settings, run_dir, evaluator, progress, interrupt)
            trainer.add_callback(callback)
            trainer.add_callback(AlarmCallback(run_dir, progress.say))
            with _saving_on_error(trainer, run_dir), naming_a_lost_process(run_dir):
                if found and _nothing_is_left(found, settings):
                    callback.finish(found)
                else:
                    trainer.train(resume_from_checkpoint=str(found) if found else None)
                result = _result(run_dir, trainer, step_of(found) if found else None)
                result.signal = interrupt.received
                spent = settings.is_spent(asdict(result))
                result.stopped_early = not spent and _has_stopped_improving(settings)
                result.finished = result.signal is None or spent or result.stopped_early
                _finish(result, trainer, materials)
    finally:
        progress.close()
    if result.groups and not result.informative_groups:
        progress.say(
            f"warning: in none of the {result.groups} groups of this run did rewards differ; check "
            "the reward, or choose easier or harder prompts"
        )
    return result


# -- the run directory -----------------------------------------------------------------------


def finished_result(settings: TrainSettings) -> TrainResult | None:
    """The result of a run that has nothing left to do, None where there is something."""
    run_dir = Path(settings.output_dir)
    file = run_dir / DONE_FILE
    if not file.is_file():
        return None
    try:
        done = json.loads(file.read_text())
    except ValueError:
        done = None
    if not isinstance(done, dict):
        raise UserError(f"{str(file)!r} is damaged; delete it and resume the run")
    diverged = done.get("diverged", False)
    spent = settings.is_spent(done)
    stopped = not spent and _has_stopped_improving(settings)
    if not (spent or stopped or diverged):
        return None
    refuse_other_settings(settings, WHAT_A_RUN_IS)
    known = {
        key: done[key] for key in ("steps", "rollouts", "generated_tokens", "training_seconds")
    }
    known["measured_tokens"] = done.get("measured_tokens", 0)
    evals = read_lines(run_dir / "eval.jsonl")
    return TrainResult(run_dir, **known, stopped_early=stopped, diverged=diverged, evals=evals)


def end_diverged(settings: TrainSettings) -> TrainResult:
    """Mark a run that has diverged as one with nothing left to do: a try that nothing came of."""
    run_dir = Path(settings.output_dir)
    evals = read_lines(run_dir / "eval.jsonl")
    last = evals[-1] if evals else {}
    result = TrainResult(
        run_dir,
        steps=last.get("step", 0),
        rollouts=last.get("rollouts_total", 0),
        generated_tokens=last.get("generated_tokens_total", 0),
        training_seconds=last.get("wall_s", 0.0),
        measured_tokens=last.get("tokens_total", 0) - last.get("generated_tokens_total", 0),
        diverged=True,
        evals=evals,
    )
    _mark_done(result)
    return result


def _has_stopped_improving(settings: TrainSettings) -> bool:
    evals = read_lines(Path(settings.output_dir) / "eval.jsonl")
    return has_stopped_improving(evals, settings.keep_best, settings.early_stop_evals)


def _nothing_is_left(found: Path, settings: TrainSettings) -> bool:
    """Whether the run was stopped between its last step and its end."""
    state = checkpoints.load_state(found)
    totals = state["spent"] | {key: state[key] for key in ("training_seconds",)}
    spent = settings.is_spent(totals | {"steps": step_of(found)})
    return spent or _has_stopped_improving(settings)


# -- the trainer -------------------------------------------------------------------


def trainer_arguments(settings: TrainSettings, run_dir: Path) -> DoPRConfig:
    """TRL's settings of the run.

    Raises:
        UserError: TRL or transformers refuses a value.
    """
    on_gpu = torch.cuda.is_available()
    batch, passes = batch_shape(settings)
    reused = steps_on_a_batch(settings, batch, passes)
    bf16, checkpointing = settings.bf16, settings.gradient_checkpointing
    mixes = on_gpu and settings.mixes_on_gpu
    values: dict[str, Any] = settings.for_trainer | {
        "output_dir": str(run_dir),
        # A batch costs at least one rollout, so this never stops a run before its budget does.
        "max_steps": settings.steps or (settings.max_rollouts or _NO_END) * reused,
        # Steps of different strategies cost unequally; where no number of them is given, the
        # schedule follows what is spent.
        "rollout_budget": None if settings.steps else settings.max_rollouts,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": passes,
        "bf16": mixes and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
        "gradient_checkpointing": on_gpu if checkpointing is None else checkpointing,
        "use_cpu": best_device() == "cpu",
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "log_completions": settings.completions_every > 0,
        "num_completions_to_print": 0,
        "save_strategy": "steps" if settings.save_every else "no",
        # Inside a reused batch nothing can be resumed exactly: the rollouts are not saved.
        "save_steps": -(-(settings.save_every or 500) // reused) * reused,
        "disable_tqdm": True,
        "log_level": "error",
    }
    try:
        return DoPRConfig(**(values | settings.trl))
    except (ValueError, TypeError) as error:
        raise UserError(f"TRL refuses these settings: {' '.join(str(error).split())}") from None


def build_trainer(settings: TrainSettings, materials: Materials, run_dir: Path) -> DoPRTrainer:
    """The trainer, ready to run.

    Raises:
        UserError: the settings do not go together.
    """
    arguments = trainer_arguments(settings, run_dir)
    lora = lora_config(settings.lora) if settings.lora is not None else None
    try:
        trainer = DoPRTrainer(
            materials.model,
            [flip_verdicts(r, settings.reward_noise, settings.seed) for r in materials.rewards],
            arguments,
            materials.dataset,
            processing_class=materials.tokenizer,
            peft_config=lora,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        # A tracker whose package is missing is told of by a RuntimeError.
        if isinstance(error, RuntimeError) and "to be installed" not in str(error):
            raise
        raise UserError(f"TRL refuses these settings: {' '.join(str(error).split())}") from error
    check_saving(trainer.accelerator)
    trainer.checkpoint_dir = run_dir / "checkpoints"
    trainer.remove_callback(PrinterCallback)
    return trainer


def _evaluator(
    settings: TrainSettings, materials: Materials, trainer: DoPRTrainer
) -> Callable[[], dict[str, Any]] | None:
    """What evaluates the policy as it is now, or None without held-out prompts."""
    dataset, how = materials.eval_dataset, settings.eval
    if dataset is None:
        return None
    sampling = Sampling(
        settings.max_completion_length,
        how.temperature,
        how.top_p,
        how.batch_size,
        how.seed,
        settings.template_options,
        settings.generation_options,
    )

    def run() -> dict[str, Any]:
        return evaluate(
            trainer.accelerator.unwrap_model(trainer.model),
            materials.tokenizer,
            dataset,
            materials.rewards,
            sampling,
            k=how.k,
            weights=settings.reward_weights,
        ).summary

    return run


# -- the end ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _saving_on_error(trainer: DoPRTrainer, run_dir: Path) -> Iterator[None]:
    """A misbehaving reward or a full disk loses nothing: what was trained is saved first."""
    try:
        yield
    except (ChoicesDifferError, TrainingDivergedError):
        raise
    except UserError as error:
        folder = trainer.save_checkpoint()
        if folder is None:
            raise
        write_ledger(trainer, run_dir)
        step = trainer.state.global_step
        raise UserError(f"{error}; saved at step {step}, continue with --resume") from error
    except Exception as error:
        if _has_diverged(error):
            # Not saved: a checkpoint of weights that are no numbers is worth nothing.
            raise _diverged(trainer) from error
        if not is_disk_error(error, run_dir):
            raise
        kept = checkpoints.latest_checkpoint(run_dir / "checkpoints")
        advice = f"continue from {kept.name} with --resume" if kept else "then start again"
        raise OSError(
            f"cannot write to {str(run_dir)!r} any more ({' '.join(str(error).split())[:200]}); "
            f"make room, {advice}"
        ) from error


def _has_diverged(error: BaseException) -> bool:
    """Whether sampling met weights that are not finite; the library's own loop has other words."""
    return isinstance(error, DivergedError) or "probability tensor contains" in str(error)


def _diverged(trainer: DoPRTrainer) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"the policy's weights are not finite after step {trainer.state.global_step}: training has "
        "diverged; lower learning_rate and start again in another output_dir"
    )


def _result(run_dir: Path, trainer: DoPRTrainer, resumed_from: int | None) -> TrainResult:
    spent = trainer.driver.spent
    return TrainResult(
        run_dir,
        steps=trainer.state.global_step,
        rollouts=spent.rollouts,
        generated_tokens=spent.generated_tokens,
        training_seconds=trainer.training_seconds,
        measured_tokens=spent.measured_tokens,
        informative_groups=spent.informative_groups,
        groups=spent.groups,
        resumed_from=resumed_from,
        evals=read_lines(run_dir / "eval.jsonl"),
    )


def _finish(result: TrainResult, trainer: DoPRTrainer, materials: Materials) -> None:
    """Ledger, model, and the mark that the run is done."""
    run_dir = result.run_dir
    if trainer.accelerator.is_main_process:
        write_ledger(trainer, run_dir)
    if not result.finished:
        return
    alone = trainer.accelerator.num_processes == 1  # elsewhere a process holds a part
    if alone and not all(bool(p.isfinite().all()) for p in trainer.model.parameters()):
        raise _diverged(trainer)
    trainer.save_model(str(run_dir / "model"))
    if not trainer.accelerator.is_main_process:
        return
    materials.tokenizer.save_pretrained(run_dir / "model")
    _mark_done(result)


def _mark_done(result: TrainResult) -> None:
    left_out = ("run_dir", "evals", "signal")
    done = {k: v for k, v in asdict(result).items() if k not in left_out}
    done["threads"] = torch.get_num_threads()
    write_atomically(result.run_dir / DONE_FILE, json.dumps(done))

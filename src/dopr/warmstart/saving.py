"""A warm start that was interrupted goes on from its last checkpoint."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from dopr.core.errors import UserError
from dopr.core.files import write_atomically

if TYPE_CHECKING:
    from dopr.warmstart.finetune import WarmstartSettings

FOLDER = "unfinished"  # below the model's, until that is there
_SETTINGS = "settings.json"


def folder_for(config: "WarmstartSettings", resume: bool) -> Path:
    """The folder for checkpoints; it need not be there yet.

    Raises:
        UserError: there is a model or an unfinished one already and nobody asked to go on, or it
            was begun with other settings.
    """
    folder = Path(config.output_dir) / FOLDER
    begun = folder / _SETTINGS
    if begun.exists():
        if not resume:
            raise UserError(
                f"{config.output_dir!r} holds a warm start that was interrupted; add --resume to "
                "go on with it or choose another output_dir"
            )
        before = json.loads(begun.read_text(encoding="utf-8"))
        settings = _settings(config)
        changed = sorted(key for key in settings if before.get(key) != settings[key])
        if changed:
            raise UserError(
                f"the warm start in {config.output_dir!r} was begun with another "
                f"{' and '.join(changed)}; go on with what it had or choose another output_dir"
            )
    elif (Path(config.output_dir) / "warmstart.json").exists():
        raise UserError(
            f"{config.output_dir!r} already holds a finished warm start; choose another output_dir"
        )
    return folder


def begin(folder: Path, config: "WarmstartSettings") -> None:
    """Make the folder and note with which settings; once these are known to work."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _SETTINGS, json.dumps(_settings(config), indent=2) + "\n")


def _settings(config: "WarmstartSettings") -> dict[str, Any]:
    """As they read back from JSON; where the folder is does not matter."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(config) | {"output_dir": None}))
    return found


def close_folder(folder: Path) -> None:
    """Remove the checkpoints; the model is there."""
    shutil.rmtree(folder)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, None without any."""
    whole = sorted(
        (file.parent for file in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}") if _whole(file)),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    return str(whole[-1]) if whole else None


def _whole(state: Path) -> bool:
    # The library writes this file last.
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


class LogWithCheckpoints(TrainerCallback):
    """Log the loss at every checkpoint and at the end, so that the log has that of all steps."""

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True


def mean_loss(state: TrainerState) -> float:
    """Mean loss of all steps by the log, those before an interruption included."""
    total, before = 0.0, 0
    for row in state.log_history:
        if "loss" in row:
            step = int(row["step"])
            total += row["loss"] * (step - before)
            before = step
    return total / before if before else float("nan")

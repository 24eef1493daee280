"""The folder of a run: made, checked, and wound back to a checkpoint."""

import errno
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from dopr.core.configuration import build, load_yaml, to_mapping
from dopr.core.errors import UserError
from dopr.core.json_lines import keep_lines_until
from dopr.engines.trl import checkpoints
from dopr.runs.alarms import WARNINGS_FILE
from dopr.runs.settings import TrainSettings

DONE_FILE = "done.json"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
WHAT_A_RUN_IS = (
    *("model", "dataset", "reward", "strategy", "strategy_args", "seed"),
    *("num_generations", "num_iterations", "learning_rate"),
)
_RUN_FILES = ("metrics.jsonl", "eval.jsonl", "checkpoints", DONE_FILE)


def open_run_dir(run_dir: Path, resume: bool) -> Path | None:
    """Make the folder and see that it can be written; the checkpoint to go on from, if any."""
    if not resume and any((run_dir / name).exists() for name in _RUN_FILES):
        raise UserError(
            f"{str(run_dir)!r} already holds a run; add --resume to continue it or choose another "
            "output_dir"
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        probe = run_dir / f".probe-{os.getpid()}"
        probe.write_text("dopr")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output_dir {str(run_dir)!r} cannot be written ({error.strerror}); choose another"
        ) from None
    if not resume:
        return None
    found = checkpoints.latest_checkpoint(run_dir / "checkpoints")
    # One without a manifest was being written when the run was stopped: there is nothing in it yet.
    if found is None and any(run_dir.glob(f"checkpoints/*/{checkpoints.MANIFEST_FILE}")):
        raise UserError(
            f"no checkpoint in {str(run_dir)!r} is whole any more; put back what was there, or "
            "start a new run in another output_dir"
        )
    return found


def step_of(folder: Path) -> int:
    """The step that a checkpoint was made at, by its folder's name."""
    return int(folder.name.rpartition("-")[2])


def rewind(run_dir: Path, found: Path | None) -> None:
    """Drop what was written after the checkpoint, all of it where there is none."""
    step = step_of(found) if found else -1
    for name in ("metrics.jsonl", "eval.jsonl", WARNINGS_FILE):
        keep_lines_until(run_dir / name, step)
    for table in run_dir.glob("completions/completions_*.parquet"):
        number = re.search(r"(\d+)$", table.stem)
        if number and int(number[1]) > step:
            table.unlink()
    (run_dir / DONE_FILE).unlink(missing_ok=True)
    if found is None:
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


def is_disk_error(error: BaseException, folder: Path | None = None) -> bool:
    """Whether the disk is full or cannot be written; libraries say so in different ways."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return True
    if folder is not None and isinstance(error, (OSError, RuntimeError)):
        # torch reports a full disk as whatever went wrong with its own file.
        return shutil.disk_usage(folder).free < 1 << 20
    return "No space left" in str(error) or "os error 28" in str(error)


def refuse_other_settings(settings: TrainSettings, names: Iterable[str]) -> None:
    """A run that was made with other settings is no answer to who asks for these.

    Args:
        settings: asked for; their folder may hold a run.
        names: of the settings that must be the same.

    Raises:
        UserError: naming the first that is not.
    """
    file = Path(settings.output_dir) / "config.yaml"
    if not file.is_file():
        return
    # Through the settings, so that one which came after that run has its default.
    old, new = to_mapping(build(TrainSettings, load_yaml(file))), to_mapping(settings)
    for name in names:
        if old.get(name) != new[name]:
            raise UserError(
                f"{settings.output_dir!r} was run with {name} {old.get(name)!r}, now it is "
                f"{new[name]!r}; delete that folder or choose another output_dir"
            )

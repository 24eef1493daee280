"""Checkpoints with a part of ours beside TRL's: none goes before the next one is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from dopr.core.errors import UserError
from dopr.engines.trl import checkpoints


def save_whole(
    trainer: Any, trial: Any, save: Callable[[], None], add: Callable[[Path], None]
) -> None:
    """Save a checkpoint that says when it is whole.

    Args:
        trainer: a transformers `Trainer`.
        trial: as in its `_save_checkpoint`.
        save: writes TRL's part, on every process.
        add: writes our part into the checkpoint, on the process that saves.
    """
    args = trainer.args
    # Rotation waits until the new checkpoint is known to be whole, or a full disk could leave
    # none at all; so does the upload, or it would go without our part.
    limit, args.save_total_limit = args.save_total_limit, None
    uploads, args.push_to_hub = args.push_to_hub, False
    try:
        save()
    finally:
        args.save_total_limit, args.push_to_hub = limit, uploads
    trainer.accelerator.wait_for_everyone()
    if not args.should_save:
        return
    run_dir = trainer._get_output_dir(trial=trial)
    folder = Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
    add(folder)
    checkpoints.write_manifest(folder)
    if uploads:
        trainer._push_from_checkpoint(str(folder))
    rotate_checkpoints(
        output_dir=run_dir,
        save_total_limit=limit,
        best_model_checkpoint=trainer.state.best_model_checkpoint,
        use_mtime=True,
    )


def newest_whole(trainer: Any) -> str | bool:
    """What `resume_from_checkpoint=True` stands for: the newest checkpoint that is whole.

    Returns:
        Its folder; True where there are no checkpoints, so that transformers says so.

    Raises:
        UserError: there are checkpoints and none of them is whole.
    """
    folder = Path(trainer._get_output_dir(None))
    whole = checkpoints.latest_checkpoint(folder, nested=False)
    if whole is None and any(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        raise UserError(
            f"no checkpoint in {folder} is whole and holds the state of a strategy, so that "
            "training cannot go on from there; to begin anew with the weights of one, give its "
            "folder as the model, and another output_dir"
        )
    return True if whole is None else str(whole)

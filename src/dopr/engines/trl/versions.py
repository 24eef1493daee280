"""Where the supported versions of TRL and transformers differ, and the one place that knows.

`make test-matrix` runs the trainer's tests with the oldest and the newest of them and two between.
Most of what moved needs no branch, because what TRL passes is handed on as it came.
"""

from importlib.metadata import version
from typing import Any

from packaging.version import Version

TRL = Version(version("trl"))

# TRL before 1.6 counts a rollout that no function could score as one with reward 0, in the mean of
# its group too; from 1.6 on it is left out.
UNSCORED_COUNTS_AS_ZERO = Version("1.6") > TRL


def add_missing_attributes(trainer: Any) -> None:
    """Give a trainer of an older TRL the attributes that newer ones set, in place.

    Args:
        trainer: a `GRPOTrainer` whose constructor has run.
    """
    if not hasattr(trainer, "_tokenizer"):  # TRL before 1.3
        processor = trainer.processing_class
        trainer._tokenizer = getattr(processor, "tokenizer", processor)


def logps_and_entropies(result: Any) -> tuple[Any, Any]:
    """Log-probabilities and entropies, each of shape (B, T) or None.

    Args:
        result: of TRL's `_get_per_token_logps_and_entropies`, a pair before TRL 1.7 and a triple
            with the router's auxiliary loss since.
    """
    return result[0], result[1]


def rotate_checkpoints(trainer: Any, folder: str) -> None:
    """Delete the oldest checkpoints beyond `save_total_limit`, as transformers does after saving.

    Args:
        trainer: a transformers `Trainer`.
        folder: which holds the checkpoints.
    """
    try:
        from transformers.trainer_utils import rotate_checkpoints as rotate
    except ImportError:  # transformers before 5.2 has it as a method
        trainer._rotate_checkpoints(use_mtime=True, output_dir=folder)
        return
    rotate(
        output_dir=folder,
        save_total_limit=trainer.args.save_total_limit,
        best_model_checkpoint=trainer.state.best_model_checkpoint,
        use_mtime=True,
    )

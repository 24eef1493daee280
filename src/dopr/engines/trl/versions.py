"""Where the supported versions of TRL differ, and the one place that knows.

`make test-matrix` runs the trainer's tests with the oldest and the newest of them and two between.
Most of what moved needs no branch, because what TRL passes is handed on as it came.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

TRL = tuple(int(part) for part in version("trl").split(".")[:2])

# TRL before 1.6 counts a rollout that no function could score as one with reward 0, in the mean of
# its group too; from 1.6 on it is left out.
UNSCORED_COUNTS_AS_ZERO = TRL < (1, 6)

# TRL before 1.6 bounds the ratio to another engine from above alone, under this name.
_FORMER_NAMES = {"vllm_importance_sampling_clip_max": "vllm_importance_sampling_cap"}
_ABSENT = ("vllm_importance_sampling_clip_min",)


def known_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `GRPOConfig` under the names that the installed TRL has for them.

    Args:
        settings: under the newest names. One that TRL lacks altogether must be None.
    """
    if TRL >= (1, 6):
        return dict(settings)
    assert all(settings.get(name) is None for name in _ABSENT)
    return {_FORMER_NAMES.get(k, k): v for k, v in settings.items() if k not in _ABSENT}


def add_missing_attributes(trainer: Any) -> None:
    """Give a trainer of an older TRL the attributes that newer ones set, in place.

    Args:
        trainer: a `GRPOTrainer` whose constructor has run.
    """
    if not hasattr(trainer, "_tokenizer"):  # TRL before 1.3
        processor = trainer.processing_class
        trainer._tokenizer = getattr(processor, "tokenizer", processor)


def per_token(result: Any) -> tuple[Any, Any, Any]:
    """Log-probabilities and entropies, each of shape (B, T) or None, and the router's loss or None.

    Args:
        result: of TRL's `_get_per_token_logps_and_entropies`; before TRL 1.7 it lacks the last.
    """
    logps, entropies, *rest = result
    return logps, entropies, rest[0] if rest else None

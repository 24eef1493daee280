"""Where the supported versions of TRL differ, and the one place that knows.

`make test-matrix` runs the trainer's tests with the oldest and the newest of them and two between.
Most of what moved needs no branch, because what TRL passes is handed on as it came.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError

TRL = tuple(int(part) for part in version("trl").split(".")[:2])

# Before 1.16 the entropies that TRL gives to the loss carry no gradient.
ENTROPIES_HAVE_GRADIENT = TRL >= (1, 16)

# Before 1.14 the liger kernel computes the loss without the entropies.
LIGER_HIDES_ENTROPIES = TRL < (1, 14)

# Before 1.14 the loss `luspo` with a ratio for each token counts what stands in the padding.
LUSPO_COUNTS_PADDING = TRL < (1, 14)

# TRL before 1.6 bounds the ratio to another engine from above alone, under this name.
_FORMER_NAMES = {"vllm_importance_sampling_clip_max": "vllm_importance_sampling_cap"}
_ABSENT = ("vllm_importance_sampling_clip_min",)


def check_entropies(ibro_coefficient: float | None, estimator: str, use_liger: bool) -> None:
    """Refuse what needs token entropies that the installed TRL does not give.

    Args:
        ibro_coefficient, estimator: of our settings.
        use_liger: TRL's `use_liger_kernel`.

    Raises:
        UserError: IBRO's term without a gradient, or `zvp` without entropies.
    """
    if ibro_coefficient and not ENTROPIES_HAVE_GRADIENT:
        raise UserError(
            f"TRL {version('trl')} gives entropies without a gradient, so ibro_coefficient would "
            "do nothing; install trl 1.16 or newer, or set it to 0"
        )
    if estimator == "zvp" and use_liger and LIGER_HIDES_ENTROPIES:
        raise UserError(
            f"with use_liger_kernel TRL {version('trl')} computes no token entropies, which "
            "advantage_estimator 'zvp' needs; install trl 1.14 or newer, or turn one of them off"
        )


def miscounts_unscored(rewards: NDArray[np.float64]) -> bool:
    """Whether this TRL's own advantages are wrong for rollouts that no function could score: before
    1.6 they count as ones with reward 0, in the mean of their group too; from 1.6 on they are left
    out.

    Args:
        rewards: of a round, shape (n,); NaN where no function could score.
    """
    return TRL < (1, 6) and bool(np.isnan(rewards).any())


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
        from transformers import ProcessorMixin

        processor = trainer.processing_class
        trainer._tokenizer = getattr(processor, "tokenizer", processor)
        trainer._is_vlm = isinstance(processor, ProcessorMixin)


def per_token(result: Any) -> tuple[Any, Any, Any]:
    """Log-probabilities and entropies, each of shape (B, T) or None, and the router's loss or None.

    Args:
        result: of TRL's `_get_per_token_logps_and_entropies`; before TRL 1.7 it lacks the last.
    """
    logps, entropies, *rest = result
    return logps, entropies, rest[0] if rest else None

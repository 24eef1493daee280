"""Where the supported versions of TRL differ, and the one place that knows.

`make test-matrix` runs the trainer's tests with the oldest and the newest of them and two between.
Most of what moved needs no branch, because what TRL passes is handed on as it came.
"""

import contextlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.policy import token_scores

TRL = tuple(int(part) for part in version("trl").split(".")[:2])

# Before 1.16 the entropies that TRL gives to the loss carry no gradient.
ENTROPIES_HAVE_GRADIENT = TRL >= (1, 16)

# Before 1.14 the liger kernel computes the loss without the entropies.
LIGER_HIDES_ENTROPIES = TRL < (1, 14)

# Before 1.14 the loss `luspo` with a ratio for each token counts what stands in the padding.
LUSPO_COUNTS_PADDING = TRL < (1, 14)

# From 1.16 on the loss scores tokens by this class, which goes through the logits in tiles.
_TILED_HEAD = "_ChunkedLogProbFunction"
_HEAD_ARGUMENTS = 9

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


class _Head:
    """In the place of TRL's class: the same call, and its own way where that is better."""

    def __init__(self, tiled: Any) -> None:
        self.tiled = tiled

    def apply(self, *args: Any) -> Any:
        if len(args) != _HEAD_ARGUMENTS:
            return self.tiled.apply(*args)
        hidden, weight, bias, targets, temperature, _, softcap, scale, outputs = args
        plain = softcap is None and set(outputs) <= {"log_probs", "entropy"}
        if not plain or not token_scores.are_few(hidden, weight):
            return self.tiled.apply(*args)
        logps, entropies = token_scores.token_scores(
            hidden, weight, bias, targets, scale / temperature
        )
        return logps, entropies if "entropy" in outputs else None, None, None, None


@contextlib.contextmanager
def whole_logits() -> Iterator[None]:
    """Let TRL's loss keep the logits where they are few; the same result up to rounding."""
    from trl.trainer import utils

    tiled = getattr(utils, _TILED_HEAD, None)
    if TRL < (1, 16) or tiled is None:
        yield
        return
    setattr(utils, _TILED_HEAD, _Head(tiled))
    try:
        yield
    finally:
        setattr(utils, _TILED_HEAD, tiled)

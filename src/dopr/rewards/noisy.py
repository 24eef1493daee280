"""A reward that errs: a share of its verdicts flipped, for studies of what noise does."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from dopr.core.errors import UserError

Reward = Callable[..., list[float | None]]


def flip_verdicts(
    reward: Reward, share: float, seed: int = 0, low: float = 0.0, high: float = 1.0
) -> Reward:
    """The reward with a share of its values mirrored, low for high and high for low.

    Which ones depends on seed, step, place in the batch and completion alone, so a resumed run errs
    in the same places. None stays None.

    Args:
        reward: in TRL's signature.
        share: in [0, 1).
        seed: of the flips.
        low, high: ends of the reward's range.

    Raises:
        UserError: a share outside [0, 1); at a call, a value outside the range.
    """
    if not 0 <= share < 1:
        raise UserError(f"reward_noise is {share}; it must lie in [0, 1)")
    if share == 0:
        return reward

    @functools.wraps(reward)
    def noisy(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        values = reward(prompts=prompts, completions=completions, **columns)
        outside = [v for v in values if v is not None and not low <= v <= high]
        if outside:
            raise UserError(
                f"reward_noise flips verdicts between {low:g} and {high:g}, and a reward gave "
                f"{outside[0]:g}; set reward_noise to 0"
            )
        step = getattr(columns.get("trainer_state"), "global_step", 0)
        return [
            low + high - value
            if value is not None and _uniform(seed, step, place, completion) < share
            else value
            for place, (value, completion) in enumerate(zip(values, completions, strict=True))
        ]

    return noisy


def _uniform(*what: Any) -> float:
    """A number in [0, 1) that depends on the arguments alone."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

"""A penalty on overlong completions, which grows before they are cut off."""

from collections.abc import Sequence
from typing import Any

from dopr.core.errors import UserError
from dopr.rewards.mathematics import RewardFunction

_DAPO_SHARE = 5  # DAPO: 4096 of 20480 tokens


def make_length_penalty(max_length: int | None = None, cache: int | None = None) -> RewardFunction:
    """DAPO's soft overlong punishment, as TRL computes it (`get_soft_overlong_punishment`).

    0 up to `max_length - cache` tokens, then falling linearly to -1 at `max_length`, and -1 beyond.
    It is added to another reward and scores lengths alone.

    Source: DAPO [2503.14476], equation 13.

    Args:
        max_length: tokens at which the penalty is -1; a completion is cut off there, so give what
            limits completions (`max_completion_length`).
        cache: tokens before it over which the penalty grows; a fifth of `max_length` by default,
            as in DAPO. 0 punishes only what is longer than `max_length`.

    Raises:
        UserError: no `max_length`, or numbers that do not fit; at a call, completions without
            their tokens.
    """
    if max_length is None:
        raise UserError(
            "length_penalty needs to know the longest completion; write "
            "length_penalty?max_length=N (tokens)"
        )
    if cache is None:
        cache = max_length // _DAPO_SHARE
    if max_length < 1 or not 0 <= cache <= max_length:
        raise UserError(
            f"length_penalty has max_length {max_length} and cache {cache}; max_length must be at "
            "least 1 and cache between 0 and max_length"
        )
    from trl.rewards import get_soft_overlong_punishment

    punish = get_soft_overlong_punishment(max_length, cache)

    def length_penalty(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """0 for short completions, down to -1 for those at the longest length and beyond."""
        if completion_ids is None:
            raise UserError(
                "length_penalty counts tokens, and these completions come without; use it in "
                "training and evaluation"
            )
        penalties: list[float | None] = list(punish(completion_ids=completion_ids))
        return penalties

    return length_penalty

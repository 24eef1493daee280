"""Named presets of TRL's loss settings, and the one loss term that TRL lacks.

A preset is plain settings of `GRPOConfig`: whatever is set beside its name wins. The term is
IBRO's advantage-weighted token entropy, which any preset may add.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dopr.core.errors import UserError, unknown_name
from dopr.engines.trl.versions import known_settings

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

IBRO_SCHEDULES = ("constant", "linear")


@dataclass(frozen=True)
class Objective:
    """A named loss.

    Attributes:
        summary: one line.
        source: the paper.
        mark: certainty of the settings, V, S or I.
        settings: of TRL's `GRPOConfig`.
        ibro_coefficient: weight of IBRO's term.
    """

    summary: str
    source: str
    mark: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ibro_coefficient: float = 0.0


_CLIPPED = {"importance_sampling_level": "token", "epsilon": 0.2}
_DAPO = {**_CLIPPED, "loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28}

OBJECTIVES: dict[str, Objective] = {
    "grpo": Objective(
        "mean over each rollout's tokens, then over rollouts; divided by the group's deviation",
        "GRPO, arXiv 2402.03300",
        "V",
        {**_CLIPPED, "loss_type": "grpo", "scale_rewards": "group", "epsilon_high": 0.2},
    ),
    "dr_grpo": Objective(
        "constant divisor and A = R - mean: no bias by length or difficulty",
        "Dr.GRPO, arXiv 2503.20783",
        "V",
        {**_CLIPPED, "loss_type": "dr_grpo", "scale_rewards": "none", "epsilon_high": 0.2},
    ),
    "dapo": Objective(
        "mean over the tokens of the step, clipped higher above than below",
        "DAPO, arXiv 2503.14476",
        "V",
        _DAPO,
    ),
    "gspo": Objective(
        "one importance ratio a rollout, clipped tightly",
        "GSPO, arXiv 2507.18071",
        "S",
        {
            "loss_type": "grpo",
            "scale_rewards": "group",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "cispo": Objective(
        "the importance ratio clipped as a weight, so that no token loses its gradient",
        "CISPO, arXiv 2506.13585",
        "S",
        {
            "loss_type": "cispo",
            "scale_rewards": "group",
            "importance_sampling_level": "token",
            # TRL takes this as the largest ratio itself, not as what it may exceed 1 by.
            "epsilon_high": 5.0,
        },
    ),
    "minirl": Objective(
        "token-level REINFORCE, corrected for the inference engine, stopped outside the clip",
        "MiniRL, arXiv 2512.01374",
        "V",
        known_settings(
            {
                "loss_type": "dr_grpo",
                "scale_rewards": "none",
                "importance_sampling_level": "token",
                "epsilon": 0.2,
                "epsilon_high": 0.27,
                "vllm_importance_sampling_correction": True,
                "vllm_importance_sampling_mode": "token_truncate",
                "vllm_importance_sampling_clip_max": 5.0,
                "vllm_importance_sampling_clip_min": None,
            }
        ),
    ),
    "ibro": Objective(
        "dapo plus the advantage-weighted token entropy",
        "IBRO, arXiv 2507.18391",
        "S",
        _DAPO,
        ibro_coefficient=0.005,
    ),
}


def find_objective(name: str) -> Objective:
    """The preset of this name.

    Raises:
        UserError: there is none; the nearest one is offered.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def departures(name: str, values: Mapping[str, Any]) -> list[str]:
    """Where settings that win over a preset leave it, one sentence each.

    Args:
        name: of the preset.
        values: settings of `GRPOConfig` as they will be used; what is absent is as the preset says.

    Raises:
        UserError: unknown preset, or a loss that gives another meaning to the preset's clipping.
    """
    preset = find_objective(name).settings
    loss_type = values.get("loss_type", preset["loss_type"])
    same_clip = values.get("epsilon_high") == preset["epsilon_high"]
    if same_clip and (loss_type == "cispo") != (preset["loss_type"] == "cispo"):
        raise UserError(
            f"loss_type {loss_type!r} reads objective {name!r}'s epsilon_high "
            f"{preset['epsilon_high']} in another sense; drop loss_type, name another objective, "
            "or set trl.epsilon_high too"
        )
    return [
        f"objective {name!r} has {key} {usual!r}; the setting {values[key]!r} wins"
        for key, usual in preset.items()
        if key in values and _plain(key, values[key]) != usual
    ]


def _plain(key: str, value: Any) -> Any:
    """`scale_rewards` may be given as true or false."""
    is_switch = key == "scale_rewards" and isinstance(value, bool)
    return {True: "group", False: "none"}[value] if is_switch else value


def laid_under(objective: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preset with what is given laid over them; of no preset what is given alone.

    Args:
        objective: name of the preset, or None.
        given: settings of a trainer, those that somebody has set.

    Raises:
        UserError: there is no such preset.
    """
    if objective is None:
        return dict(given)
    preset = find_objective(objective)
    return {"ibro_coefficient": preset.ibro_coefficient, **preset.settings, **given}


def fill_config(args: Any) -> None:
    """Lay the preset named by `args.objective` under a trainer's settings, in place.

    A field that has TRL's default counts as not set.

    Args:
        args: a `DoPRConfig` before TRL reads it.

    Raises:
        UserError: unknown preset, or a loss that gives another meaning to its clipping.
    """
    if args.objective is None:
        return
    defaults = {f.name: f.default for f in dataclasses.fields(args)}
    names = laid_under(args.objective, {})
    given = {k: getattr(args, k) for k in names if getattr(args, k) != defaults[k]}
    for key, value in laid_under(args.objective, given).items():
        setattr(args, key, value)
    settings = find_objective(args.objective).settings
    for departure in departures(args.objective, {k: getattr(args, k) for k in settings}):
        logger.warning(departure)


def ibro_weight(coefficient: float, schedule: str, progress: float) -> float:
    """The weight of IBRO's term at a point of the run.

    Args:
        coefficient: at the start.
        schedule: `constant`, or `linear` down to 0 at the end (ours: the source is not known to
            have one).
        progress: share of the run that is over, in [0, 1].
    """
    return coefficient * (max(0.0, 1.0 - progress) if schedule == "linear" else 1.0)


def ibro_term(
    entropies: Tensor, advantages: Tensor, mask: Tensor, tokens: Tensor | float
) -> Tensor:
    """Advantage-weighted token entropy, sum of A_t H_t over `tokens`: a part of the step's mean.

    The gradient flows through the entropies alone. Where a rollout did better than its group the
    policy is drawn to more entropy on its tokens, where it did worse to less.

    Source: IBRO [2507.18391, S].

    Args:
        entropies: shape (B, T), nats.
        advantages: shape (B,) or (B, T).
        mask: shape (B, T), 1 for completion tokens.
        tokens: completion tokens that the mean runs over, this micro-batch's share of the step.
    """
    weights = advantages.detach()
    weights = weights.unsqueeze(1) if weights.dim() == 1 else weights
    return (weights * entropies * mask).sum() / tokens

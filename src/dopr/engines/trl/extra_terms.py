"""TRL's terms beside the policy's loss, made independent of how a step is cut into micro-batches.

TRL takes the entropy bonus (`entropy_coef`) and the balancing loss of a mixture of experts
(`router_aux_loss_coef`) as the mean over each micro-batch divided by the accumulation steps. That
is right for micro-batches that are equally full and all there. Ours are as few as hold the kept
rollouts, so each counts by its share of the tokens.
"""

from typing import Any

import torch

from dopr.engines.trl.micro_batches import loss_mask


def bonus_coefficient(trainer: Any) -> float:
    """The factor on the mean entropy that the next micro-batch's loss subtracts; 0 for no bonus.

    Args:
        trainer: before its loss, which may move an adaptive coefficient on.
    """
    if not getattr(trainer, "_entropy_bonus_enabled", False):  # older TRL has no bonus
        return 0.0
    held_back = trainer.use_adaptive_entropy and (
        trainer._last_world_entropy > trainer.args.entropy_target
    )
    return 0.0 if held_back else float(trainer.entropy_coef)


def reweighted(
    loss: torch.Tensor,
    trainer: Any,
    inputs: dict[str, Any],
    coefficient: float,
    entropies: torch.Tensor | None,
    aux_loss: torch.Tensor | None,
) -> torch.Tensor:
    """TRL's loss of a micro-batch with the weights that our cut gives its terms.

    Args:
        loss: as TRL computed it, a scalar.
        trainer: read for its settings.
        inputs: the micro-batch; `dopr_scale` is the weight of the policy's term (1 where absent),
            `dopr_share` that of the others. Without the latter the batch is TRL's own.
        coefficient: see `bonus_coefficient`.
        entropies: of the tokens, shape (B, T), with their gradient.
        aux_loss: the balancing loss, a scalar with its gradient; None without one.
    """
    if "dopr_share" not in inputs:
        return loss
    scale = inputs.get("dopr_scale", torch.ones(())).to(loss.device)
    missing = inputs["dopr_share"].to(loss.device) - scale
    loss = loss * scale
    terms: list[torch.Tensor] = []
    if coefficient and entropies is not None:
        mask = loss_mask(inputs)
        if trainer.top_entropy_quantile < 1.0:
            lowest = 1 - trainer.top_entropy_quantile
            mask = mask * trainer.get_high_entropy_mask(entropies, mask, lowest)
        terms.append(-coefficient * (entropies * mask).sum() / mask.sum().clamp(min=1.0))
    if aux_loss is not None:
        terms.append(trainer.router_aux_loss_coef * aux_loss)
    for term in terms:
        loss = loss + missing * term / trainer.current_gradient_accumulation_steps
    return loss

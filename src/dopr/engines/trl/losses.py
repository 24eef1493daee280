"""The part of DoPRTrainer that goes with TRL's loss: our terms and weights, and token entropies."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from trl import GRPOTrainer

from dopr.core.driver import Driver
from dopr.core.stream import OfferedStream
from dopr.engines.trl import versions
from dopr.engines.trl.extra_terms import bonus_coefficient, reweighted
from dopr.engines.trl.micro_batches import loss_mask, shape_blank_advantages
from dopr.engines.trl.objectives import ibro_term, ibro_weight
from dopr.engines.trl.processes import SHARDED
from dopr.engines.trl.schedule import share_over
from dopr.engines.trl.selection import Selection
from dopr.policy import shared_prefixes
from dopr.policy.entropies import EntropyTotals, entropy_rows

_PLAIN_ARGUMENTS = 4  # ids, mask, width and the batch size, where TRL gives it by position


class LossTrainer(GRPOTrainer):
    """GRPOTrainer whose loss weighs micro-batches of any cut, and which notes token entropies."""

    args: Any
    model: Any
    state: Any
    driver: Driver
    _settings: Selection
    _rollouts_before: int
    _entropy_totals: EntropyTotals
    # Of the forward pass that the loss makes, with their gradients.
    _entropies: torch.Tensor | None = None
    _aux_loss: torch.Tensor | None = None
    _loss_inputs: dict[str, Any] | None = None

    @property
    def training_rollouts(self) -> int:
        """Rollouts of this training, where `train` was called more than once."""
        return self.driver.spent.rollouts - self._rollouts_before

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if "dopr_skip" in inputs:
            # No parameter gets a gradient, so an optimiser step after only such batches is none.
            return torch.zeros((), device=self.accelerator.device, requires_grad=True)
        self._loss_inputs = inputs
        coefficient = bonus_coefficient(self)
        loss = super()._compute_loss(model, inputs)
        self._loss_inputs = None
        loss = reweighted(loss, self, inputs, coefficient, self._entropies, self._aux_loss)
        self._aux_loss = None
        if self._settings.ibro_coefficient and self.model.training:
            loss = loss - self._ibro(inputs)
        if "dopr_prompt" in inputs and self.model.training:
            self._note_entropies(inputs)
        return loss

    def _ibro(self, inputs: dict[str, Any]) -> torch.Tensor:
        """IBRO's weighted term; the mean runs over the tokens of an optimiser step, as TRL's `dapo`
        loss counts them, whatever the loss.
        """
        settings = self._settings
        assert settings.ibro_coefficient is not None and self._entropies is not None
        over = share_over(self.state, self.training_rollouts, settings.rollout_budget)
        weight = ibro_weight(settings.ibro_coefficient, settings.ibro_schedule, over)
        self._metrics["train"]["ibro/coefficient"].append(weight)
        updates = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        mask = loss_mask(inputs)
        return weight * ibro_term(self._entropies, inputs["advantages"], mask, tokens / updates)

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        read = functools.partial(super()._get_per_token_logps_and_entropies, model)
        whole = self.accelerator.unwrap_model(model)
        if self._shares_prefixes(whole, args, kwargs):
            with versions.whole_logits():
                result = _read_packed(read, whole, *args, **kwargs)
        else:
            result = read(*args, **kwargs)
        _, self._entropies, self._aux_loss = versions.per_token(result)
        if self._loss_inputs is not None and self._settings.advantage_estimator == "zvp":
            shape_blank_advantages(self._loss_inputs, self._entropies)
        return result

    def _shares_prefixes(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a prompt's rollouts may be read with the prompt read once.

        Args:
            model: without wrappers.
            args, kwargs: what TRL gives beside the model: ids, mask and width, the batch size by
                position or by name, and what else is to be read or told.
        """
        wanted = self._settings.share_prefixes and self.model.training
        # The loader's order promises TRL's own result, to the last bit.
        if not wanted or isinstance(self.driver.stream, OfferedStream):
            return False
        if self.accelerator.distributed_type in SHARDED:
            return False
        if self.loss_type == "luspo" and versions.LUSPO_COUNTS_PADDING:
            return False
        plain = ("batch_size", "compute_entropy")
        text_alone = all(v is None or v is False for k, v in kwargs.items() if k not in plain)
        known = len(args) <= _PLAIN_ARGUMENTS
        return known and text_alone and shared_prefixes.is_supported(model)

    def _note_entropies(self, inputs: dict[str, Any]) -> None:
        """Add a micro-batch's token entropies to its prompts; the forward pass is paid anyway."""
        if self._entropies is None:
            return
        rows = entropy_rows(inputs["dopr_prompt"], self._entropies.detach(), loss_mask(inputs))
        self._entropies = None
        self._entropy_totals.add(self.accelerator.gather(rows).tolist())


def _read_packed(
    read: Callable[..., Any],
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    width: int,
    batch_size: int | None = None,
    **kwargs: Any,
) -> Any:
    """What `read` gives for rows, by packed rows where these are shorter; 0 where nothing counts.

    Args:
        read: TRL's `_get_per_token_logps_and_entropies` with its model.
        model: the same without wrappers.
        ids, mask, width, batch_size, kwargs: what TRL gives it.
    """
    size = batch_size or len(ids)
    fewest = shared_prefixes.fewest_saved(model)
    found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        row = shared_prefixes.pack(ids[some], mask[some], width, fewest)
        if row is None:
            result = read(ids[some], mask[some], width, **kwargs)
            found.append(versions.per_token(result)[:2])
            continue
        with shared_prefixes.reading(model, row):
            result = read(
                row.labels, torch.ones_like(row.labels), row.labels.shape[1] - 1, **kwargs
            )
        logps, entropies, _ = versions.per_token(result)
        found.append((row.as_rows(logps), None if entropies is None else row.as_rows(entropies)))
    logps = torch.cat([logps for logps, _ in found])
    has_entropies = found[0][1] is not None
    entropies = torch.cat([e for _, e in found if e is not None]) if has_entropies else None
    return (logps, entropies, None)[: len(result)]

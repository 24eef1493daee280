"""Any number of kept rollouts, from any rounds, as the micro-batches of one training step."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.engines.trl import rollout_tensors
from dopr.engines.trl.rounds import Round
from dopr.strategies import Group

# Losses that TRL averages over rows or over a micro-batch's tokens rather than over all tokens of
# the step: with a varying number of rows their scale has to be set right from outside.
_MEAN_OVER_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
_MEAN_OVER_MICRO_BATCH_TOKENS = ("bnpo",)

# A kept group with the advantages of all its rollouts.
Trained = tuple[Group, NDArray[np.float64]]


def whole_batch(
    kept: list[Group], advantages: NDArray[np.float64] | None, accelerator: Any
) -> dict[str, Any]:
    """TRL's own batch of a plain step, with the prompts it holds and, where given, our advantages.

    Args:
        kept: groups of one round, see `is_plain_batch`.
        advantages: of all rollouts in order, shape (n,).
        accelerator: the processes.
    """
    done: Round = kept[0].handle[0].round
    first = accelerator.process_index * done.local_rows
    mine = slice(first, first + done.local_rows)
    sizes = [group.num_rollouts for group in kept]
    batch = dict(done.batch)
    for key, values in (
        ("dopr_prompt", [group.prompt_id for group in kept]),
        ("dopr_blank", [int(not group.informative) for group in kept]),
    ):
        batch[key] = torch.as_tensor(np.repeat(values, sizes)[mine], device=accelerator.device)
    if advantages is not None:
        batch["advantages"] = torch.as_tensor(
            advantages[mine], dtype=torch.float32, device=accelerator.device
        )
    return batch


def loss_mask(inputs: dict[str, Any]) -> torch.Tensor:
    """Which completion tokens count, shape (B, T)."""
    mask = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def cut_micro_batches(
    trained: list[Trained], args: Any, accelerator: Any, loss_type: str, pad_token_id: int
) -> list[dict[str, Any]]:
    """The kept rollouts as `steps_per_generation` micro-batches, blank ones first.

    The full ones come last because the optimiser acts (and processes average their gradients) at
    the last micro-batch of an accumulation window. `dopr_scale` makes the gradient independent of
    how the rows are cut, and `dopr_share` that of the terms which TRL averages over a micro-batch
    whatever the loss (`dopr.engines.trl.extra_terms`).

    Args:
        trained: kept groups with the advantages of all their rollouts; empty skips the update.
        args: TRL's settings.
        accelerator: the processes.
        loss_type: TRL's name of the loss.
        pad_token_id: for completions of unequal length.

    Raises:
        UserError: there is nothing to train on, under DeepSpeed or with fp16's scaler.
    """
    steps, processes = args.steps_per_generation, accelerator.num_processes
    skip = {"dopr_skip": torch.ones(())}
    parts, per_process = _local_rows(trained, accelerator)
    total = int(per_process.sum())
    needs_gradients = _what_needs_gradients(accelerator)
    if total == 0 and needs_gradients:
        raise UserError(
            f"a step kept no rollouts to train on, and {needs_gradients} cannot skip an update; "
            "leave empty_update at `take`, or use bf16, and FSDP2 or whole copies"
        )
    if total == 0:
        return [skip] * steps
    batch = rollout_tensors.concatenate(parts, pad_token_id)
    dense = steps == args.gradient_accumulation_steps
    pieces, rows = rollout_tensors.micro_batch_shape(
        int(per_process.max()), args.per_device_train_batch_size, steps, dense
    )
    batch = rollout_tensors.fill_up(batch, pieces * rows)
    tokens = accelerator.gather(loss_mask(batch).sum()).sum()
    micro_batches = []
    for piece in rollout_tensors.cut(batch, pieces, args.pad_to_multiple_of):
        piece["num_items_in_batch"] = tokens
        piece["dopr_share"] = loss_mask(piece).sum() / tokens.clamp(min=1) * steps * processes
        if loss_type in _MEAN_OVER_ROWS:
            piece["dopr_scale"] = torch.tensor(steps * rows * processes / total)
        elif loss_type in _MEAN_OVER_MICRO_BATCH_TOKENS:
            piece["dopr_scale"] = piece["dopr_share"]
        micro_batches.append(piece)
    if needs_gradients:
        skip = _without_weight(micro_batches[0])
    return [skip] * (steps - pieces) + micro_batches


def _what_needs_gradients(accelerator: Any) -> str | None:
    """What fails at an optimiser step for which no parameter has a gradient."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return "DeepSpeed"
    return None if accelerator.scaler is None else "fp16"


def _without_weight(piece: dict[str, Any]) -> dict[str, Any]:
    """A micro-batch that goes through the model for nothing: DeepSpeed reduces gradients after each
    one, float16's scaler looks them through before each update, and both fail where there are none.
    """
    kept = {name: value for name, value in piece.items() if name != "dopr_prompt"}
    nothing = torch.zeros_like(piece["advantages"])
    return kept | {
        "advantages": nothing,
        "dopr_scale": torch.zeros(()),
        "dopr_share": torch.zeros(()),
    }


def _local_rows(
    trained: list[Trained], accelerator: Any
) -> tuple[list[rollout_tensors.Rows], NDArray[np.int64]]:
    """This process's part of every kept group, and the number of kept rows per process."""
    device, processes = accelerator.device, accelerator.num_processes
    per_process = np.zeros(processes, dtype=np.int64)
    parts, dealt = [], 0
    for group, values in trained:
        chosen = np.arange(group.num_rollouts) if group.kept is None else group.kept
        first = 0
        for segment in group.handle:
            inside = chosen[(chosen >= first) & (chosen < first + segment.count)]
            row = segment.start + inside - first
            first += segment.count
            if segment.round.shared:  # anyone can train on these: deal them out
                owner = (dealt + np.arange(len(row))) % processes
                dealt += len(row)
            else:
                owner, row = np.divmod(row, segment.round.local_rows)
            per_process += np.bincount(owner, minlength=processes)
            here = owner == accelerator.process_index
            parts.append(
                rollout_tensors.Rows(
                    segment.round.batch,
                    torch.as_tensor(row[here], device=device),
                    torch.as_tensor(values[inside[here]], dtype=torch.float32, device=device),
                    group.prompt_id,
                    not group.informative,
                )
            )
    return parts, per_process


def shape_blank_advantages(inputs: dict[str, Any], entropies: torch.Tensor) -> None:
    """Give rows of groups without variance advantages per token, shape (B, T), by token entropy.

    Source: RL-ZVP [2509.21880, S]; see `dopr.core.advantages.zero_variance`.

    Args:
        inputs: a micro-batch; its advantages are replaced.
        entropies: shape (B, T), nats.
    """
    if "dopr_blank" not in inputs or not bool(inputs["dopr_blank"].any()):
        return
    advantages, mask = inputs["advantages"].unsqueeze(1), loss_mask(inputs)
    known = entropies.detach() * mask
    most = known.max(dim=1, keepdim=True).values
    shaped = advantages * torch.where(advantages > 0, known, most - known)
    blank = inputs["dopr_blank"].bool().unsqueeze(1)
    inputs["advantages"] = torch.where(blank, shaped, advantages.expand_as(shaped))

"""Rollouts in verl's store, TransferQueue: read, weighted anew, and their entropies noted."""

from collections.abc import Sequence

import torch
import transfer_queue
from tensordict import TensorDict

from dopr.core.ledger import Ledger
from dopr.engines.adapter import Generated, TrainingBatch
from dopr.policy.entropies import EntropyTotals

TRAIN = "train"  # verl's name of the partition with rollouts to train on


def read_rollouts(keys: Sequence[str]) -> list[Generated]:
    """The stored sequences' rewards and lengths.

    Args:
        keys: `request_rollout_part`, as verl names them.
    """
    if not keys:
        return []
    stored = transfer_queue.kv_batch_get(
        keys=list(keys), partition_id=TRAIN, select_fields=["rm_scores", "response_mask"]
    )
    found = []
    for key, scores, mask in zip(keys, stored["rm_scores"], stored["response_mask"], strict=True):
        uid, rollout, part = key.rsplit("_", 2)
        reward, tokens = float(scores.sum()), int(mask.sum())
        found.append(Generated(key, uid, int(rollout), int(part), reward, tokens))
    return found


def write_advantages(advantages: dict[str, float]) -> None:
    """Put our advantages in the place of verl's."""
    if not advantages:
        return
    keys = list(advantages)
    stored = transfer_queue.kv_batch_get(
        keys=keys, partition_id=TRAIN, select_fields=["response_mask"]
    )
    masks = zip(advantages.values(), stored["response_mask"], strict=True)
    spread = torch.nested.as_nested_tensor(
        [value * mask.float() for value, mask in masks], layout=torch.jagged
    )
    fields = TensorDict({"advantages": spread, "returns": spread.clone()}, batch_size=len(keys))
    transfer_queue.kv_batch_put(keys=keys, partition_id=TRAIN, fields=fields)


def note_entropies(batch: TrainingBatch, ledger: Ledger) -> None:
    """Tell the ledger the token entropies that verl computed with the old log-probabilities."""
    fields = ["entropy", "response_mask"]
    keys = batch.keys
    stored = transfer_queue.kv_batch_get(keys=keys, partition_id=TRAIN, select_fields=fields)
    if "entropy" not in stored:
        return  # verl's bypass mode takes the sampler's log-probabilities and has none
    entropies = EntropyTotals()
    for key, values, mask in zip(keys, stored["entropy"], stored["response_mask"], strict=True):
        total = float((values * mask).sum())
        entropies.add([(batch.prompts[key], total, int(mask.sum()))])
    entropies.flush(ledger)

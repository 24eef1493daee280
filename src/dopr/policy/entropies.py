"""Mean token entropy of each prompt's rollouts, taken from the forward pass of the loss."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dopr.core.ledger import Ledger


class EntropyTotals:
    """Sums over the micro-batches of one step."""

    def __init__(self) -> None:
        self._totals: dict[int, tuple[float, int]] = {}

    def add(self, rows: Iterable[tuple[float, float, float]]) -> None:
        """Note rollouts as (prompt id, sum of token entropies in nats, tokens); -1 is padding."""
        for prompt, total, count in rows:
            if prompt >= 0 and count:
                old_total, old_count = self._totals.get(int(prompt), (0.0, 0))
                self._totals[int(prompt)] = (old_total + total, old_count + int(count))

    def flush(self, ledger: Ledger) -> None:
        """Write the finished step's entropies to the ledger and start anew."""
        if not self._totals:
            return
        for prompt, (total, count) in self._totals.items():
            ledger.observe_entropy(prompt, total / count)
        totals = self._totals.values()
        mean = sum(total for total, _ in totals) / sum(count for _, count in totals)
        ledger.observe_policy_entropy(mean)
        self._totals = {}


def entropy_rows(prompts: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """What `EntropyTotals.add` takes, of a micro-batch; shape (B, 3).

    Args:
        prompts: prompt ids, shape (B,).
        entropies: of the tokens in nats, shape (B, T).
        mask: 1 for completion tokens, shape (B, T).
    """
    sums = (entropies * mask).sum(1).double()
    return torch.stack([prompts.double(), sums, mask.sum(1).double()], dim=1)


def mean_entropies(entropies: Tensor, mask: Tensor) -> Tensor:
    """The mean token entropy of each completion in nats, 0 for an empty one; shape (B,).

    Args:
        entropies: of the tokens in nats, shape (B, T).
        mask: 1 for completion tokens, shape (B, T).
    """
    return (entropies * mask).sum(1) / mask.sum(1).clamp(min=1)

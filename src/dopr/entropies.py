"""Mean token entropy of each prompt's rollouts, taken from the forward pass of the loss."""

from collections.abc import Iterable

from dopr.ledger import Ledger


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

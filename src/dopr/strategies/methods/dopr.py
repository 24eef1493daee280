"""DoPR with success rates shared between like prompts: the rule that we measure best.

The acquisition is that of `dopr.strategies.methods.dopr_paper`, with another volatility. Two things
spoil the plain one on pools that are larger than a run: most candidates were never seen, and what
is known of the others is old. Both are answered by one estimate of a prompt's success rate now,

    p_i ~ Beta(a_i, b_i),   V_i = E[4 p_i (1 - p_i)],

in which what was seen of the prompt counts the less the older it is, and the prior is what like
prompts did lately: see `dopr.strategies.parts.shared_rates`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.methods.dopr_paper import DoPRPaper, Scores
from dopr.strategies.parts.shared_rates import Known, Rates, SharedRates


@dataclass
class DoPR(DoPRPaper, SharedRates):
    """A few prompts a step, chosen by the volatility of success rates that like prompts share.

    Args:
        prompts_per_step: prompts rolled out, the best ones. None takes four, or as many as the
            trainer's batch holds.
        exploration, discount: as in `DoPRPaper`, with other defaults.
        prior: `predicted` shares success rates. `optimistic` and `pool` are the paper's, and leave
            the rule of `DoPRPaper`; only these know another `volatility` than `total`.
        candidates, volatility, entropy, prior_strength: see `DoPRPaper`.
        patience, prior_rollouts, memory, signal_std: of `predicted`, see `SharedRates`.

    Source: the acquisition is DoPR's [2602.00815], reconstructed; the sharing is ours.
    """

    name = "dopr"
    summary = "the most informative prompts of a candidate batch, by rates shared with like ones"
    priors: ClassVar[tuple[str, ...]] = (*DoPRPaper.priors, "predicted")

    prompts_per_step: int | None = None
    exploration: float = 0.0
    discount: float = 0.5
    prior: str = "predicted"

    def __post_init__(self) -> None:
        DoPRPaper.__post_init__(self)
        SharedRates.__post_init__(self)
        require(
            self.volatility == "total" or self.prior != "predicted",
            f"prior 'predicted' knows no volatility {self.volatility!r}; use prior 'pool'",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self.prior != "predicted":
            return (yield from super().step(prompts, ledger))
        candidates = prompts.draw(min(self.candidates, prompts.size))
        embeddings = None
        if "embedding" in self.can_measure:
            both = np.concatenate([self._ids, candidates])
            embeddings = yield from self.embed(prompts, both)
        rates = self.rates_now(candidates, embeddings, ledger)
        chosen = candidates[self.choose(self.score(candidates, ledger, rates), prompts)]
        before = Known.of(chosen, ledger)
        groups = yield self.requests(chosen)
        self.watch_drift(groups, before, ledger)
        self.remember(groups)
        return groups

    def score(
        self, candidates: NDArray[np.int64] | None, ledger: Ledger, rates: Rates | None = None
    ) -> Scores:
        """Score candidates.

        Args:
            candidates: prompt ids of shape (k,), or None for the whole pool.
            ledger: what is known.
            rates: posteriors of the candidates' success rates; None scores as `DoPRPaper` does.
        """
        if rates is None:
            return super().score(candidates, ledger)
        rows: Any = slice(None) if candidates is None else candidates
        volatility = (rates.volatility * self.spread(rows, ledger)).astype(np.float32)
        bonus = self.bonus(rows, ledger)
        return Scores(volatility + bonus, volatility, bonus)

    def spread(self, rows: Any, ledger: Ledger) -> NDArray[np.float64]:
        """How far a prompt's rewards vary, of what its mean allows: 1 for verdicts, shape (k,).

        A reward between the ends can have a mean of 1/2 and no variance at all. What is known of
        the prompt itself is shrunk to 1 with the weight of four rollouts.
        """
        mean = to_unit(ledger.mean[rows], ledger)
        most = 4 * mean * (1 - mean)
        weight = np.where(most > 1e-3, ledger.weight[rows], 0.0)
        share = np.minimum(ledger.volatility("total")[rows] / np.maximum(most, 1e-3), 1.0)
        share = np.where(share > 1 - 1e-3, 1.0, share)  # rounding must not rank verdicts
        return (weight * share + 4) / (weight + 4)

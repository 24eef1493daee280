"""Dynamic One-Shot Policy Refinement: each step, the most informative prompt of a candidate batch.

The paper's text beyond its abstract was not available when this was written, so the rule is a
reconstruction (docs/method.md says what is known and what is ours):

    score_i = V_i + c * g(H) * sqrt(ln(1 + t) / (1 + n_i))

V is the prompt's reward volatility, n its visits, t the steps so far, g a modulation by entropy.
With `prior="predicted"` V is that of a success rate which like prompts help to estimate, and what
was seen long ago counts less: our addition, see `dopr.strategies.parts.shared_rates`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import VOLATILITY_KINDS, Ledger, VolatilityKind
from dopr.core.strategy import StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import success_rates, to_unit
from dopr.strategies.parts.candidates import requests_for
from dopr.strategies.parts.posterior import sized
from dopr.strategies.parts.shared_rates import Known, Rates, SharedRates

ENTROPY_KINDS = ("prompt", "policy", "inverse", "none")
PRIORS = ("optimistic", "pool", "predicted")
_SORTED_UP_TO = 4096  # candidates; sorting a million of them would take longer than scoring them


@dataclass(frozen=True, slots=True)
class Scores:
    """Why candidates rank as they do; every array has the shape of the candidates, (k,)."""

    score: NDArray[np.float32]
    volatility: NDArray[np.float32]
    bonus: NDArray[np.float32]


@dataclass
class DoPR(SharedRates):
    """A few prompts a step, chosen by reward volatility and an exploration bonus.

    Args:
        candidates: prompts drawn each step to choose from; 0 < candidates.
        prompts_per_step: how many of them are rolled out, the k best. None takes four, or as many
            as the trainer's batch holds; 1 is the paper's one shot.
        exploration: c, the weight of the bonus.
        discount: lambda in (0, 1], how past rewards of a prompt fade at each visit.
        volatility: `total`, `within` or `between`, see `Ledger.volatility`; or `disagreement`, the
            chance that two rollouts of the prompt's last group gave different answers, as SGAC
            [2605.01823, S] suggests. Other than `total` goes with the priors `optimistic` and
            `pool` only.
        entropy: what modulates the bonus. `prompt`: the prompt's mean token entropy over the mean
            of all prompts; `inverse`: one over that; `policy`: the batch's entropy over its value
            at the start; `none`: nothing.
        prior: the volatility assumed for a prompt never visited. `optimistic`: 1, Beta(1, 1);
            `pool`: the mean volatility of the prompts visited so far, shrunk to 1 while few are;
            `predicted`: that of the success rate which like prompts had lately. The prediction also
            corrects what the ledger knows of prompts visited, see `SharedRates`.
        prior_strength: how many imaginary fair coins the mean of `pool` starts with.
        difficulty: with `predicted`, exponent d of a factor (2 (1 - p))^d on the volatility; above
            0 the rarer success is preferred among prompts of equal volatility.
        pairing: of several prompts a step, take the best hard one (success below 1/2) and the best
            easy one by turns, as "Beyond Variance" [2602.03452, S] pairs them.
        patience, prior_rollouts, memory, signal_std: of `predicted`, see `SharedRates`.

    Source: reconstruction of DoPR [2602.00815]; the abstract is V, the formula is I.
    """

    name = "dopr"
    summary = "the most informative prompt of a candidate batch, by volatility and exploration"
    source = "DoPR, arXiv 2602.00815 (reconstructed)"
    mark = "I"
    usual_prompts = 4

    candidates: int = 64
    prompts_per_step: int | None = None
    exploration: float = 0.0
    discount: float = 0.5
    volatility: VolatilityKind | Literal["disagreement"] = "total"
    entropy: Literal["prompt", "policy", "inverse", "none"] = "prompt"
    prior: Literal["optimistic", "pool", "predicted"] = "predicted"
    prior_strength: float = 4.0
    difficulty: float = 0.0
    pairing: bool = False
    # Disagreement in the last group of each prompt, NaN for none; shape (size,).
    _disagreement: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), init=False, repr=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.candidates >= 1, f"candidates is {self.candidates}; it must be at least 1")
        require(
            self.prompts_per_step is None or 1 <= self.prompts_per_step <= self.candidates,
            f"prompts_per_step is {self.prompts_per_step}; it must lie between 1 and candidates "
            f"({self.candidates})",
        )
        require(
            self.exploration >= 0, f"exploration is {self.exploration}; it must not be negative"
        )
        require(
            0 < self.discount <= 1,
            f"discount is {self.discount}; it must lie in (0, 1]",
        )
        require(self.prior_strength > 0, "prior_strength must be positive")
        require(np.isfinite(self.difficulty), f"difficulty is {self.difficulty}; it must be finite")
        for kind, value, known in (
            ("volatility", self.volatility, (*VOLATILITY_KINDS, "disagreement")),
            ("entropy modulation", self.entropy, ENTROPY_KINDS),
            ("prior", self.prior, PRIORS),
        ):
            if value not in known:
                raise unknown_name(kind, str(value), known)
        require(
            self.volatility == "total" or self.prior != "predicted",
            f"prior 'predicted' knows no volatility {self.volatility!r}; use prior 'pool'",
        )
        vars(self)["reads_answers"] = self.volatility == "disagreement"

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        candidates = prompts.draw(min(self.candidates, prompts.size))
        rates = None
        if self.prior == "predicted":
            embeddings = None
            if "embedding" in self.can_measure:
                both = np.concatenate([self._ids, candidates])
                embeddings = yield from self.embed(prompts, both)
            rates = self.rates_now(candidates, embeddings, ledger)
        scores = self.score(candidates, ledger, rates)
        success = None
        if self.pairing:
            success = success_rates(ledger, candidates) if rates is None else rates.mean
        chosen = self.choose(scores, prompts, success)
        self._explain(scores, chosen)
        before = Known.of(candidates[chosen], ledger) if self.prior == "predicted" else None
        # A pool smaller than the step is repeated to fill it, as 1-shot RLVR fills its batch.
        wanted = np.resize(candidates[chosen], self.prompts_per_step or self.usual_prompts)
        groups = yield requests_for(wanted, self.num_generations)
        if before is not None:
            self.watch_drift(groups, before, ledger)
            self.remember(groups)
        if self.reads_answers:
            self._disagreement = sized(self._disagreement, prompts.size, np.nan)
            self._disagreement[[g.prompt_id for g in groups]] = [g.disagreement for g in groups]
        return groups

    def score(
        self,
        candidates: NDArray[np.int64] | None,
        ledger: Ledger,
        rates: Rates | None = None,
    ) -> Scores:
        """Score candidates.

        Args:
            candidates: prompt ids of shape (k,), or None for the whole pool.
            ledger: what is known.
            rates: posteriors of the candidates' success rates, where they are predicted.
        """
        rows: Any = slice(None) if candidates is None else candidates
        visits = ledger.visits[rows]
        if rates is None and self.volatility == "disagreement":
            volatility = self._last_disagreement(rows, len(visits))
        elif rates is None:
            volatility = ledger.volatility(self.volatility, candidates)  # type: ignore[arg-type]
            unseen = np.float32(self.unseen_volatility(ledger))
            volatility = np.where(visits == 0, unseen, volatility)
        else:
            tilt = np.power(2 * (1 - rates.mean), self.difficulty)
            volatility = (rates.volatility * tilt * self.spread(rows, ledger)).astype(np.float32)
        # One over the visits first: a million square roots are cheaper than a million divisions.
        bonus = np.reciprocal(visits + np.float32(1))
        np.multiply(bonus, np.float32(np.log1p(ledger.step)), out=bonus)
        np.sqrt(bonus, out=bonus)
        if (modulation := self._modulation(rows, ledger)) is not None:
            np.multiply(bonus, modulation, out=bonus)
        np.multiply(bonus, np.float32(self.exploration), out=bonus)
        return Scores(volatility + bonus, volatility, bonus)

    def choose(
        self, scores: Scores, prompts: PromptStream, success: NDArray[np.float64] | None = None
    ) -> NDArray[np.int64]:
        """Positions of the `prompts_per_step` best, shape (prompts_per_step,), best first.

        Ties fall by the stream's seeded generator.

        Args:
            scores: of the candidates.
            prompts: whose generator breaks ties.
            success: with `pairing`, success rates in [0, 1], shape (k,): half of the choice is then
                the best of those below 1/2, half the best of the others, as far as there are any.
        """
        wanted = self.prompts_per_step or self.usual_prompts
        if wanted == 1:
            best = (scores.score == scores.score.max()).nonzero()[0]
            # NumPy draws nothing for a single one either, but takes its time.
            return best[prompts.rng.integers(len(best), size=1)] if len(best) > 1 else best
        if success is None and len(scores.score) > _SORTED_UP_TO:
            return _best_of_many(scores.score, wanted, prompts.rng)
        tie_break = prompts.rng.random(len(scores.score))
        order = np.lexsort((tie_break, -scores.score))
        if success is None:
            return order[:wanted]
        hard = success[order] < 0.5
        rank = np.where(hard, np.cumsum(hard), np.cumsum(~hard))  # of each among its own kind
        return order[np.argsort(rank, kind="stable")][:wanted]

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

    def _last_disagreement(self, rows: Any, count: int) -> NDArray[np.float32]:
        """Disagreement of prompts; where none is known, 1 or the mean of those known."""
        known = ~np.isnan(self._disagreement)
        usual = 1.0
        if self.prior == "pool" and known.any():
            seen = float(known.sum())
            usual = (self.prior_strength + float(self._disagreement[known].sum())) / (
                self.prior_strength + seen
            )
        if not len(self._disagreement):
            return np.full(count, usual, np.float32)
        return np.nan_to_num(self._disagreement[rows], nan=usual)

    def unseen_volatility(self, ledger: Ledger) -> float:
        """What a prompt never visited is assumed to score, in units of a fair coin."""
        if self.prior == "optimistic" or not ledger.visited_count:
            return 1.0
        seen = ledger.visited_count
        known = ledger.mean_volatility(self.volatility) * seen  # type: ignore[arg-type]
        return (self.prior_strength + known) / (self.prior_strength + seen)

    def _modulation(self, rows: Any, ledger: Ledger) -> NDArray[np.float32] | np.float32 | None:
        """g(H), None for 1."""
        if self.entropy == "policy":
            ratio = ledger.policy_entropy / max(ledger.initial_entropy, 1e-6)
            return np.float32(1.0 if np.isnan(ratio) else ratio)
        if self.entropy == "none" or np.isnan(ledger.mean_entropy):
            return None
        relative = ledger.entropy[rows] / np.float32(max(ledger.mean_entropy, 1e-6))
        relative = np.where(np.isnan(relative), np.float32(1.0), relative)
        if self.entropy == "inverse":
            return np.reciprocal(np.maximum(relative, np.float32(1e-3)))
        return relative

    def _explain(self, scores: Scores, chosen: NDArray[np.int64]) -> None:
        self._last = {
            "select/score": _mean(scores.score, chosen),
            "select/volatility": _mean(scores.volatility, chosen),
            "select/bonus": _mean(scores.bonus, chosen),
        }


def _mean(values: NDArray[np.float32], chosen: NDArray[np.int64]) -> float:
    # Mostly it is one, and a NumPy mean of one costs as much as scoring a few candidates.
    return float(values[chosen].mean()) if len(chosen) > 1 else values.item(chosen[0])


def _best_of_many(
    score: NDArray[np.float32], wanted: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of the best without sorting all, best first; ties at the edge fall at random."""
    edge = np.partition(score, len(score) - wanted)[len(score) - wanted]
    above, level = np.flatnonzero(score > edge), np.flatnonzero(score == edge)
    drawn = rng.choice(level, size=wanted - len(above), replace=False)
    chosen = np.concatenate([above, drawn])
    return chosen[np.argsort(-score[chosen], kind="stable")]

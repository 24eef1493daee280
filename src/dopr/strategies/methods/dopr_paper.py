"""Dynamic One-Shot Policy Refinement as its abstract has it: the rule, reconstructed.

Each step, of a batch of candidates, the prompt that scores best:

    score_i = V_i + c * g(H) * sqrt(ln(1 + t) / (1 + n_i))

V is the prompt's reward volatility, n its visits, t the steps so far, g a modulation by entropy.
The paper's text beyond its abstract was not available when this was written; docs/method.md says
what is known and what is ours. `dopr.strategies.methods.dopr` has the rule that we measure best.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import VOLATILITY_KINDS, Ledger, VolatilityKind
from dopr.core.strategy import Request, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import best, requests_for

ENTROPY_KINDS = ("prompt", "policy", "inverse", "none")


@dataclass(frozen=True, slots=True)
class Scores:
    """Why candidates rank as they do; every array has the shape of the candidates, (k,)."""

    score: NDArray[np.float32]
    volatility: NDArray[np.float32]
    bonus: NDArray[np.float32]


@dataclass
class DoPRPaper(Strategy):
    """One prompt a step, chosen by reward volatility and an exploration bonus.

    Args:
        candidates: prompts drawn each step to choose from; 0 < candidates.
        prompts_per_step: how many of them are rolled out, the k best; 1 is the paper's one shot.
            None takes as many as `usual_prompts`, or as the trainer's batch holds.
        exploration: c, the weight of the bonus.
        discount: lambda in (0, 1], how past rewards of a prompt fade at each visit.
        volatility: `total`, `within` or `between`, see `Ledger.volatility`.
        entropy: what modulates the bonus. `prompt`: the prompt's mean token entropy over the mean
            of all prompts; `inverse`: one over that; `policy`: the batch's entropy over its value
            at the start; `none`: nothing.
        prior: the volatility assumed for a prompt never visited. `optimistic`: 1, Beta(1, 1);
            `pool`: the mean volatility of the prompts visited so far, shrunk to 1 while few are.
        prior_strength: how many imaginary fair coins the mean of `pool` starts with.

    Source: reconstruction of DoPR [2602.00815]; the abstract is V, the formula is I.
    """

    name = "dopr-paper"
    summary = "DoPR's plain reconstruction: unseen prompts look like fair coins"
    source = "DoPR, arXiv 2602.00815 (reconstructed)"
    mark = "I"
    usual_prompts = 4
    priors: ClassVar[tuple[str, ...]] = ("optimistic", "pool")

    candidates: int = 64
    prompts_per_step: int | None = 1
    exploration: float = 1.0
    discount: float = 0.9
    volatility: VolatilityKind = "total"
    entropy: Literal["prompt", "policy", "inverse", "none"] = "prompt"
    prior: str = "optimistic"
    prior_strength: float = 4.0

    def __post_init__(self) -> None:
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
        for kind, value, known in (
            ("volatility", self.volatility, VOLATILITY_KINDS),
            ("entropy modulation", self.entropy, ENTROPY_KINDS),
            ("prior", self.prior, self.priors),
        ):
            if value not in known:
                raise unknown_name(kind, str(value), known)

    @property
    def ledger_discount(self) -> float:
        return self.discount

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        candidates = prompts.draw(min(self.candidates, prompts.size))
        chosen = candidates[self.choose(self.score(candidates, ledger), prompts)]
        groups = yield self.requests(chosen)
        return groups

    def choose_many(
        self, prompts: PromptStream, ledger: Ledger, count: int
    ) -> NDArray[np.int64] | None:
        """The prompts of so many steps of one prompt that are begun at once, shape (count,).

        Each is the best of candidates of its own. None where steps are not of that kind.

        Args:
            prompts: the stream.
            ledger: what is known, for all of them.
            count: steps.
        """
        total = count * self.candidates
        plain = self.prompts_per_step == 1 and type(self).step is DoPRPaper.step
        if not plain or total > prompts.size - len(prompts.withheld):
            return None
        drawn = prompts.draw(total)
        scores = self.score(drawn, ledger).score.reshape(count, self.candidates)
        # Candidates come in a random order, so that the first of equals is any of them.
        return drawn.reshape(count, self.candidates)[np.arange(count), scores.argmax(axis=1)]

    def score(self, candidates: NDArray[np.int64] | None, ledger: Ledger) -> Scores:
        """Score candidates.

        Args:
            candidates: prompt ids of shape (k,), or None for the whole pool.
            ledger: what is known.
        """
        rows: Any = slice(None) if candidates is None else candidates
        volatility = ledger.volatility(self.volatility, candidates)
        unseen = np.float32(self.unseen_volatility(ledger))
        volatility = np.where(ledger.visits[rows] == 0, unseen, volatility)
        bonus = self.bonus(rows, ledger)
        return Scores(volatility + bonus, volatility, bonus)

    def unseen_volatility(self, ledger: Ledger) -> float:
        """What a prompt never visited is assumed to score, in units of a fair coin."""
        if self.prior == "optimistic" or not ledger.visited_count:
            return 1.0
        seen = ledger.visited_count
        known = ledger.mean_volatility(self.volatility) * seen
        return (self.prior_strength + known) / (self.prior_strength + seen)

    def bonus(self, rows: Any, ledger: Ledger) -> NDArray[np.float32]:
        """c g(H) sqrt(ln(1 + t) / (1 + n)) of the ledger's rows, shape (k,)."""
        if not self.exploration:
            return np.zeros(len(ledger.visits[rows]), np.float32)
        # One over the visits first: a million square roots are cheaper than a million divisions.
        bonus = np.reciprocal(ledger.visits[rows] + np.float32(1))
        np.multiply(bonus, np.float32(np.log1p(ledger.step)), out=bonus)
        np.sqrt(bonus, out=bonus)
        if (modulation := self._modulation(rows, ledger)) is not None:
            np.multiply(bonus, modulation, out=bonus)
        np.multiply(bonus, np.float32(self.exploration), out=bonus)
        return bonus

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

    def choose(self, scores: Scores, prompts: PromptStream) -> NDArray[np.int64]:
        """Positions of the `prompts_per_step` best, or of all where there are fewer, best first.

        Ties fall by the stream's seeded generator.

        Args:
            scores: of the candidates.
            prompts: whose generator breaks ties.
        """
        chosen = best(scores.score, self.prompts_per_step or self.usual_prompts, prompts.rng)
        self._tell(scores, chosen)
        return chosen

    def _tell(
        self, scores: Scores, chosen: NDArray[np.int64], counted: NDArray[Any] | None = None
    ) -> None:
        """Keep for the log why prompts were chosen; `counted`, shape (chosen,), if not by score."""
        self._last = {
            "select/score": _mean(scores.score, chosen) if counted is None else counted.mean(),
            "select/volatility": _mean(scores.volatility, chosen),
            "select/bonus": _mean(scores.bonus, chosen),
        }

    def requests(self, chosen: NDArray[np.int64]) -> list[Request]:
        """A group of each prompt chosen; a pool smaller than the step is repeated to fill it, as
        1-shot RLVR fills its batch.
        """
        count = self.prompts_per_step or self.usual_prompts
        wanted = chosen if len(chosen) == count else np.resize(chosen, count)
        return requests_for(wanted.tolist(), self.num_generations)


def _mean(values: NDArray[np.float32], chosen: NDArray[np.int64]) -> float:
    # Of a few, NumPy's own mean takes as long as scoring some candidates.
    if len(chosen) == 1:
        return values.item(chosen[0])
    return float(np.add.reduce(values[chosen])) / len(chosen)

"""DoPR with success rates shared between like prompts: the rule that we measure best.

The acquisition is that of `dopr.strategies.methods.dopr_paper`, with another volatility. Two things
spoil the plain one on pools that are larger than a run: most candidates were never seen, and what
is known of the others is old. Both are answered by forecasts of a prompt's success rate now, among
them what like prompts did lately, each believed as far as it has foretold what came out
(`dopr.strategies.parts.shared_rates`). Where prompts do not help each other, those nearly solved
give way to new ones, which have more to gain. And where a pool has several kinds of prompts, taking
the best alone goes through them one after another; so what a prompt is worth falls as its like have
had their share of the choice (`dopr.strategies.parts.even_shares`).
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.moves import prompt_ids
from dopr.core.strategy import Group, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import reward_range, to_unit
from dopr.strategies.methods.dopr_paper import DoPRPaper, Scores
from dopr.strategies.parts.candidates import best as best_of
from dopr.strategies.parts.even_shares import EvenShares
from dopr.strategies.parts.expected_tokens import ExpectedTokens
from dopr.strategies.parts.shared_rates import Forecasts, SharedRates

COSTS = ("rollouts", "tokens")


# Of the variance that the range of rewards allows, for a forecast to be a baseline.
LEAST_FILLED = 0.05


@dataclass
class DoPR(DoPRPaper, SharedRates, EvenShares, ExpectedTokens):
    """A few prompts a step, of different kinds, chosen by the volatility of forecast success rates.

    Args:
        prompts_per_step: prompts rolled out. None takes four, or as many as the trainer's batch
            holds.
        exploration, discount: as in `DoPRPaper`, with other defaults.
        prior: `predicted` forecasts success rates. `optimistic` and `pool` are the paper's, and
            leave the rule of `DoPRPaper`; only these know another `volatility` than `total`.
        candidates, volatility, entropy, prior_strength: see `DoPRPaper`.
        signal_std: of `predicted`, see `SharedRates`.
        answers, reread: of `predicted`, see `ReferenceAnswers`.
        carry: of `predicted`, how many candidates of earlier steps stand for choice again, the best
            of those not chosen. With `answers` set `reread` too: what was read of them is not read
            again for so many steps, and few new candidates a step make many to choose from.
        draw_every: of `predicted`, steps from one draw of new candidates to the next; the steps
            between choose among those carried on, as long as there are enough of them.
        room: of `predicted`, exponent of what a prompt has left to gain, of what new prompts have,
            where prompts do not help each other; times `independence` where they may.
        balance: of `predicted`, see `EvenShares`.
        cost: of `predicted`, what a prompt's score is divided by: `rollouts`, the same for all, or
            `tokens`, those that a rollout of it is expected to take, see `ExpectedTokens`.

    Source: the acquisition is DoPR's [2602.00815], reconstructed; forecasts and shares are ours.
    """

    name = "dopr"
    summary = "the most informative prompts of a candidate batch, by rates shared with like ones"
    priors: ClassVar[tuple[str, ...]] = (*DoPRPaper.priors, "predicted")

    prompts_per_step: int | None = None
    exploration: float = 0.0
    discount: float = 0.5
    prior: str = "predicted"
    room: float = 1.25
    cost: Literal["rollouts", "tokens"] = "rollouts"
    carry: int = 0
    draw_every: int = 1

    _drawn_at: int = field(default=-1, init=False, repr=False)  # the step of the last draw
    _carried: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=prompt_ids(),
    )

    def __post_init__(self) -> None:
        DoPRPaper.__post_init__(self)
        SharedRates.__post_init__(self)
        EvenShares.__post_init__(self)
        if self.cost not in COSTS:
            raise unknown_name("cost", self.cost, COSTS)
        require(self.room >= 0, f"room is {self.room}; it must not be negative")
        require(self.carry >= 0, f"carry is {self.carry}; it must not be negative")
        require(
            not self.carry or self.prior == "predicted",
            f"carry is of prior 'predicted', not of {self.prior!r}",
        )
        require(self.draw_every >= 1, f"draw_every is {self.draw_every}; it must be at least 1")
        require(
            self.draw_every == 1 or self.carry > 0,
            "draw_every leaves steps to candidates carried on; set carry too",
        )
        require(
            not self.answers or self.prior == "predicted",
            f"answers are read for prior 'predicted'; prior {self.prior!r} makes no use of them",
        )
        require(
            self.volatility == "total" or self.prior != "predicted",
            f"prior 'predicted' knows no volatility {self.volatility!r}; use prior 'pool'",
        )

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        if self.prior != "predicted":
            return (yield from super().step(prompts, ledger))
        count = self.prompts_per_step or self.usual_prompts
        candidates = self.candidates_of_now(prompts, ledger, count)
        features = yield from self.read(prompts, candidates)
        said = yield from self.read_answers(prompts, candidates, ledger)
        forecasts = self.forecast(candidates, features, ledger, said)
        scores = self.score(candidates, ledger, forecasts)
        worth = scores.score.astype(np.float64)
        if self.cost == "tokens":
            worth /= self.expected_tokens(candidates, forecasts.inputs, ledger)
        picked = self.choose_evenly(features, worth, count, prompts.rng)
        best = picked.positions
        self._tell(scores, best, picked.counted)
        if picked.spread is not None:
            self._last["select/spread"] = picked.spread
        chosen = candidates[best]
        self._carry_on(candidates, scores, chosen, prompts)
        groups = yield self.requests(chosen)
        known = forecasts.of(best)
        self._last["select/forecast"] = float(known.mean.mean())
        rolled_out = np.array([group.prompt_id for group in groups], int)
        varied = self.variance_shown(rolled_out, ledger)
        expected = self.learn(groups, chosen, known, ledger, varied)
        if self.cost == "tokens":
            self.note_lengths(groups, chosen, known.inputs)
        return self.expecting(groups, expected, varied, ledger)

    def candidates_of_now(
        self, prompts: PromptStream, ledger: Ledger, count: int
    ) -> NDArray[np.int64]:
        """New candidates and, after them, those carried on from earlier steps, all distinct.

        Args:
            prompts: the stream to draw new ones from.
            ledger: tells the step.
            count: prompts that the step is to choose.
        """
        carried = [i for i in self._carried.tolist() if i not in prompts.withheld]
        since = ledger.step - self._drawn_at
        if self._drawn_at >= 0 and 0 <= since < self.draw_every and len(carried) >= count:
            return np.array(carried, np.int64)
        self._drawn_at = ledger.step
        new = prompts.draw(min(self.candidates, prompts.size))
        taken = set(new.tolist())
        again = [i for i in carried if i not in taken]
        return np.concatenate([new, np.array(again, np.int64)]) if again else new

    def _carry_on(
        self,
        candidates: NDArray[np.int64],
        scores: Scores,
        chosen: NDArray[np.int64],
        prompts: PromptStream,
    ) -> None:
        """Keep the `carry` best of the candidates that were not chosen."""
        if not self.carry:
            return
        self._last["select/carried"] = float(np.isin(chosen, self._carried).mean())
        left = np.flatnonzero(~np.isin(candidates, chosen))
        if left.size:
            left = left[best_of(scores.score[left], self.carry, prompts.rng)]
        self._carried = candidates[left]

    def expecting(
        self,
        groups: list[Group],
        rates: NDArray[np.float64],
        varied: NDArray[np.float64],
        ledger: Ledger,
    ) -> list[Group]:
        """The groups with the rewards that are expected of their prompts.

        The standard deviation is that of a fair coin, as far as rewards vary like verdicts, and not
        the prompt's own: divided by that, what hardly ever happens would rule the step. Where
        rewards fill so little of their range that it says nothing of them, nothing is expected.

        Args:
            groups: finished ones.
            rates: success rates to expect, shape (groups,); NaN where nothing is known.
            varied: how far their rewards vary, of what verdicts would, shape (groups,).
            ledger: what is known, these groups included.
        """
        if self.verdict_like(ledger) < LEAST_FILLED:
            return groups
        low, high = reward_range(ledger)
        stds = 0.5 * np.sqrt(varied)
        return [
            group
            if math.isnan(rate)
            else group.expecting(low + (high - low) * rate, (high - low) * std)
            for group, rate, std in zip(groups, rates.tolist(), stds.tolist(), strict=True)
        ]

    def score(
        self,
        candidates: NDArray[np.int64] | None,
        ledger: Ledger,
        forecasts: Forecasts | None = None,
    ) -> Scores:
        """Score candidates.

        Args:
            candidates: prompt ids of shape (k,), or None for the whole pool.
            ledger: what is known.
            forecasts: of the candidates' success rates; None scores as `DoPRPaper` does.
        """
        if forecasts is None:
            return super().score(candidates, ledger)
        shown = self.variance_shown(candidates, ledger)
        volatility = (forecasts.volatility * shown).astype(np.float32)
        bonus = self.bonus(slice(None) if candidates is None else candidates, ledger)
        left = np.minimum((1 - forecasts.mean) / (1 - self.mean_at_first), 1.0)
        left = left ** (self.room * self.independence)
        return Scores(left.astype(np.float32) * volatility + bonus, volatility, bonus)

    def variance_shown(
        self, candidates: NDArray[np.int64] | None, ledger: Ledger
    ) -> NDArray[np.float64]:
        """How far a prompt's rewards vary, of what its mean allows: 1 for verdicts, shape (k,).

        A reward between the ends can have a mean of 1/2 and no variance at all. What is known of
        the prompt itself is shrunk to 1 with the weight of four rollouts.

        Args:
            candidates: prompt ids of shape (k,), or None for the whole pool.
            ledger: what is known.
        """
        rows: Any = slice(None) if candidates is None else candidates
        mean = to_unit(ledger.mean[rows], ledger)
        most = 4 * mean * (1 - mean)
        weight = np.where(most > 1e-3, ledger.weight[rows], 0.0)
        found = ledger.volatility("total", candidates) / np.maximum(most, 1e-3)
        share = np.minimum(found, 1.0)
        share = np.where(share > 1 - 1e-3, 1.0, share)  # rounding must not rank verdicts
        return (weight * share + 4) / (weight + 4)

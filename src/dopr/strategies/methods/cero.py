"""CERO: where and when to spend a fixed budget of rollouts, by online dual gradients."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, in_unit_interval, requests_for
from dopr.strategies.parts.posterior import sized

Array = NDArray[np.float64]

_MOST_IDLE_ROUNDS = 1000  # in a step; some hundreds at most, but with a capacity far above the mean


@dataclass
class CERO(Strategy):
    """Each prompt has a running price, the budget another; rollouts go where theirs is higher.

    A prompt's utility of z units of rollouts is 1 - exp(-c z), c = 4 lambda q / R with q = E[p (1 -
    p)] under its Beta posterior and R the units a prompt that the whole run has. A round gives the
    prompts whose price theta exceeds that of the budget, nu, the most units they may have, highest
    first, up to `capacity`. Then the posteriors learn, and with z* what a prompt would have in all
    at the present prices, K the rounds and N the units given,

        theta <- clip(theta - (N - z* / K) / (sqrt(K) units)),
        nu <- clip(nu - (B / K - sum N) / (sqrt(K) max(B / K, capacity - B / K)))

    A round that gives nothing moves the prices only; such rounds pass within a step, which ends
    with the first one that gives something. Ours, so that a run can go on: after K rounds, or when
    the budget is spent, a new budget begins with what was learnt; and where the prices are so far
    apart that a thousand rounds would give nothing, those of highest price get a round's units.

    Args:
        prompts_per_step: B / K is so many prompts' worth of units.
        rounds: K; set it to the rounds of the run, more than its steps.
        units: most units of one prompt in a round; num_generations rollouts altogether.
        capacity: units that a round can give, as a factor on B / K (132 of 128 in the source).
        utility: lambda.
        memory: rho in [0, 1], what stays of every posterior's past after each round.

    Source: CERO [2606.05606, V]: the full text; no code.
    """

    name = "cero"
    summary = "posteriors, a concave utility, and prices of prompts and budget that move online"
    source = "CERO, arXiv 2606.05606"
    mark = "V"

    prompts_per_step: int = 8
    rounds: int = 500
    units: int = 2
    capacity: float = 132 / 128
    utility: float = 1.0
    memory: float = 1.0
    _counts: Array = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=per_prompt(1)
    )
    _theta: Array = field(
        default_factory=lambda: np.empty(0), init=False, repr=False, metadata=per_prompt(4 / 6)
    )
    _nu: float = field(default=0.5, init=False, repr=False)
    _left: float = field(default=0.0, init=False, repr=False)
    _round: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, rounds=self.rounds, units=self.units)
        require(self.capacity >= 1, f"capacity is {self.capacity}; it must be at least 1")
        require(self.utility > 0, f"utility is {self.utility}; it must be positive")
        in_unit_interval(memory=self.memory)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        size = prompts.size
        self._counts = sized(self._counts, size, 1.0)
        self._theta = sized(self._theta, size, 4 / 6)  # 4 q of Beta(1, 1)
        per_round = float(min(self.prompts_per_step, size) * self.units)
        order = np.random.default_rng([size, 0]).permutation(size)  # for ties, the same always
        for idle in range(_MOST_IDLE_ROUNDS + 1):
            if self._round == 0 or self._round >= self.rounds or self._left < 1:
                self._round, self._left = 0, per_round * self.rounds
            self._round += 1
            margin = self._theta - self._nu
            if idle == _MOST_IDLE_ROUNDS:
                wanted = within(np.full(size, self.units), margin, order, int(per_round))
            else:
                wanted = self.wanted(order, int(self.capacity * per_round))
            given = within(wanted, margin, order, int(self._left))
            if given.any():
                break
            self._learn([], ledger)
            self.move_prices(wanted, per_round)
        chosen = np.flatnonzero(given)
        self._left -= float(given.sum())
        groups: list[Group] = []
        for units in np.unique(given[chosen]):
            count = max(1, round(self.num_generations * units / self.units))
            groups += yield requests_for(chosen[given[chosen] == units], count)
        self._learn(groups, ledger)
        self.move_prices(wanted, per_round)
        self._last = {"select/price": self._nu, "select/units": float(given.sum())}
        return groups

    def wanted(self, order: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
        """Units a prompt by price alone, shape (size,), whatever is left of the budget."""
        margin = self._theta - self._nu
        return within(np.where(margin > 0, self.units, 0), margin, order, capacity)

    def move_prices(self, given: NDArray[np.int64], per_round: float) -> None:
        """Both prices after a round.

        Args:
            given: units of each prompt, shape (size,).
            per_round: units that a round has on average.
        """
        horizon, rate = self.rounds * self.units, self.rounds**-0.5
        per_prompt = per_round * self.rounds / len(given)
        a, b = self._counts.T
        slope = 4 * self.utility * a * b / ((a + b) * (a + b + 1)) / per_prompt
        price = self.utility / per_prompt * self._theta
        ideal = np.log(slope / np.maximum(price, 1e-300)) / slope
        ideal = np.clip(np.where(price >= slope, 0.0, ideal), 0, horizon)
        theta = self._theta - rate * (given - ideal / self.rounds) / self.units
        self._theta = np.clip(theta, 0, 1)
        capacity = int(self.capacity * per_round)
        gap = max(per_round, capacity - per_round)
        self._nu = float(np.clip(self._nu - rate * (per_round - given.sum()) / gap, 0, 1))

    def _learn(self, groups: list[Group], ledger: Ledger) -> None:
        """All posteriors fade, those of the round's prompts learn."""
        self._counts = 1 + self.memory * (self._counts - 1)
        for group in groups:
            outcomes = to_unit(group.scored, ledger)
            right = outcomes.sum()
            self._counts[group.prompt_id] += right, outcomes.size - right


def within(
    wanted: NDArray[np.int64], margin: Array, order: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """What is given of the units wanted, those of the highest margin first, up to a limit.

    Args:
        wanted, margin: shape (size,).
        order: permutation by which ties fall.
        limit: units in all.
    """
    ranked = order[np.argsort(-margin[order], kind="stable")]
    before = np.cumsum(wanted[ranked]) - wanted[ranked]
    given = np.zeros_like(wanted)
    given[ranked] = np.clip(limit - before, 0, wanted[ranked])
    return given

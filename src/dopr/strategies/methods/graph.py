"""Success rates from a graph of like prompts; those nearest to one half are taken."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, no_prompts, per_prompt
from dopr.core.strategy import Group, Measure, StepPlan, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    nearest,
    requests_for,
    withheld_ids,
)
from dopr.strategies.parts.graph_rates import (
    GraphRates,
    likeness_graph,
    spectral_groups,
    start_rates,
)
from dopr.strategies.parts.prediction import PoolEmbeddings

Array = NDArray[np.float64]
BY_PROMPT = ("q", "successes", "trials")  # of the estimator's state, what has a row a prompt


@dataclass
class Graph(PoolEmbeddings):
    """The graph estimator of success rates, and of the whole pool those nearest to the target.

    Prompts whose embeddings are among each other's nearest are joined; groups of joined prompts
    share a posterior, and a prompt's rate is half its group's and half its own history's
    (`dopr.strategies.parts.graph_rates`, which other rules can use). The choice is that of many
    methods; the source is about the estimate.

    Args:
        prompts_per_step: B.
        neighbours: nearest prompts that count for the graph.
        states: groups at most. None takes a fourth of the pool, 320 at most (the source has 320 for
            its pool; ours is often smaller).
        coupling: beta, how strongly neighbours share a group.
        epsilon: prior probability of another group than the graph's own; the source does not
            state it.
        target: success rate to be near to.
        tau: 0 takes the nearest; above 0 draws by softmax(-|p - target| / tau).

    Source: graph estimator [2608.17941, V]; epsilon I. Its embeddings are those of
    Qwen3-Embedding-0.6B under an instruction that asks for difficulty, without which its
    correlation falls from 0.84 to 0.58; ours are the policy's own, less their mean.
    """

    name = "graph"
    summary = "success rates shared on a graph of like prompts, the prompts nearest to one half"
    source = "Graph estimator, arXiv 2608.17941"
    mark = "V"

    prompts_per_step: int = 8
    neighbours: int = 80
    states: int | None = None
    coupling: float = 2.0
    epsilon: float = 0.1
    target: float = 0.5
    tau: float = 0.0
    _groups: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64),
        init=False,
        repr=False,
        metadata=per_prompt(-1),
    )
    _state: dict[str, Any] = field(
        default_factory=dict, init=False, repr=False, metadata=no_prompts()
    )

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, neighbours=self.neighbours)
        if self.states is not None:
            at_least_one(states=self.states)
        require(self.coupling >= 0, f"coupling is {self.coupling}; it must not be negative")
        require(0 < self.epsilon < 1, f"epsilon is {self.epsilon}; it must lie in (0, 1)")
        in_unit_interval(target=self.target)
        require(self.tau >= 0, f"tau is {self.tau}; it must not be negative")
        self._rates: GraphRates | None = None  # made of the state, and never saved

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        estimate = yield from self._estimator(prompts)
        rates = estimate.rates()
        rates[withheld_ids(prompts, self.prompts_per_step)] = np.inf
        chosen = nearest(rates, self.target, self.prompts_per_step, prompts.rng, self.tau)
        self._last = {"select/predicted_success": float(rates[chosen].mean())}
        groups = yield requests_for(chosen, self.num_generations)
        self._note((yield from self._estimator(prompts)), groups, ledger)
        return groups

    def _estimator(self, prompts: PromptStream) -> Generator[Measure, Any, GraphRates]:
        """The estimator as it stands: made at the first step and after a run was resumed."""
        yield from self.embed_pool(prompts)
        if self._rates is None:
            graph = likeness_graph(self._embeddings, self.neighbours)
            if not len(self._groups):
                number = min(320, max(1, prompts.size // 4)) if self.states is None else self.states
                self._groups = spectral_groups(graph, number, prompts.rng)
            self._rates = start_rates(graph, self._groups, self.epsilon)
            for name, value in self._state.items():
                setattr(self._rates, name, value)
        return self._rates

    def _note(self, estimate: GraphRates, groups: list[Group], ledger: Ledger) -> None:
        successes, trials = np.zeros(ledger.size), np.zeros(ledger.size)
        for group in groups:
            outcomes = to_unit(group.scored, ledger)
            successes[group.prompt_id] += outcomes.sum()
            trials[group.prompt_id] += outcomes.size
        estimate.observe(successes, trials, self.coupling)
        self._state = dict(estimate.state())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._rates = None

    def move(self, moves: Moves) -> None:
        """Follow the prompts to other rows.

        Where prompts have come or gone, graph and groups are made anew of all that are there;
        prompts keep their own histories.
        """
        super().move(moves)
        rows = {n: moves.rows(v, 0.0) for n, v in self._state.items() if n in BY_PROMPT}
        if len(moves.new) or moves.gone:
            self._groups = np.empty(0, np.int64)
            self._state = {name: value for name, value in rows.items() if name != "q"}
        else:
            self._state = self._state | rows
        self._rates = None

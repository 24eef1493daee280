"""Runs a strategy: sends its requests out, keeps the ledger, counts every rollout and token.

The trainer, the replay of histories and other engines differ only in the function that turns
requests into groups; everything a strategy may rely on is here.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger, check_discount
from dopr.core.moves import Moves
from dopr.core.strategy import Group, Measure, Request, Strategy
from dopr.core.stream import PromptStream

logger = logging.getLogger(__name__)

MAX_ROUNDS = 64  # of rollouts in one step, unless a setting says otherwise

Rollout = Callable[[list[Request]], list[Group]]
Answer = Callable[[Measure], tuple[NDArray[np.float64], int]]
Handles = Callable[[Any], Any]


@dataclass
class Spent:
    """Totals since the start of the run; every generated rollout counts, kept or not."""

    rollouts: int = 0  # those of a pre-run that the strategy rests on included
    generated_tokens: int = 0
    kept: int = 0
    measured_tokens: int = 0  # prompt tokens read to answer a `Measure`
    groups: int = 0
    informative_groups: int = 0
    empty_steps: int = 0  # steps whose kept groups had no reward variance at all
    abandoned_steps: int = 0  # steps in which the strategy had to be stopped


@dataclass
class StepOutcome:
    """One step as it went: the groups to train on and all that was generated for them."""

    kept: list[Group]
    generated: list[Group] = field(default_factory=list)

    @property
    def signal_rate(self) -> float:
        """Share of the generated groups with reward variance; NaN if none was generated."""
        if not self.generated:
            return float("nan")
        return sum(group.informative for group in self.generated) / len(self.generated)


class Driver:
    """Keeps one strategy, its stream of prompts and its ledger together.

    Args:
        strategy: what decides. The driver runs this very object and tells it what can be measured;
            engines give it a copy of their user's, see `dopr.core.preparation`.
        stream: the order in which prompts are offered.
        max_rounds: a strategy that asks more often than this within a step is stopped, and the
            step goes on with the informative groups it has paid for.
        can_measure: quantities that `measure` will be able to answer.
        discount: factor on a prompt's older rewards at each visit; None takes the strategy's
            `ledger_discount`.

    Attributes:
        strategy: with all that it has learned.
        ledger: what is known about each prompt.
        spent: totals.

    Raises:
        UserError: the strategy needs a quantity that this driver cannot measure, or a
            `ledger_discount` outside (0, 1].
    """

    def __init__(
        self,
        strategy: Strategy,
        stream: PromptStream,
        *,
        max_rounds: int = MAX_ROUNDS,
        can_measure: frozenset[str] = frozenset(),
        discount: float | None = None,
    ) -> None:
        missing = strategy.measures - can_measure
        if missing:
            raise UserError(
                f"strategy {strategy.name!r} needs {', '.join(sorted(missing))} of the policy, "
                "which this engine cannot measure; choose another strategy"
            )
        strategy.can_measure = can_measure
        self.strategy = strategy
        self._untouched = deepcopy(strategy)
        self.stream = stream
        faded = strategy.ledger_discount if discount is None else discount
        check_discount(faded)
        self.ledger = Ledger(stream.size, discount=faded)
        self.max_rounds = max_rounds
        self.spent = Spent(rollouts=strategy.prepaid_rollouts)

    def change_pool(self, stream: PromptStream) -> None:
        """Go on with other prompts: what was known of the old ones is forgotten, the totals stay.

        Args:
            stream: of the new pool.
        """
        old, self.stream = self.ledger, stream
        self.strategy = deepcopy(self._untouched)
        self.ledger = Ledger(stream.size, discount=old.discount)
        self.ledger.step = old.step
        self.ledger.policy_entropy = old.policy_entropy
        self.ledger.initial_entropy = old.initial_entropy

    def step(self, rollout: Rollout, measure: Answer | None = None) -> StepOutcome:
        """Run the strategy for one optimiser step.

        Args:
            rollout: turns requests into finished groups, in the same order.
            measure: answers a `Measure` with one value per prompt, and says how many prompt tokens
                it read for that.
        """
        generated: list[Group] = []
        plan = self.strategy.step(self.stream, self.ledger)
        answer: Any = None
        kept: list[Group] | None = None
        for _ in range(self.max_rounds):
            try:
                asked = plan.send(answer)
            except StopIteration as stop:
                kept = list(stop.value or [])
                break
            if isinstance(asked, Measure):
                assert measure is not None  # checked against `measures` at set-up
                answer, tokens = measure(asked)
                self.spent.measured_tokens += tokens
            else:
                answer = self._roll_out(asked, rollout)
                generated.extend(answer)
        if kept is None:
            plan.close()
            kept = [group for group in generated if group.informative] or generated[-1:]
            self.spent.abandoned_steps += 1
            logger.warning(
                "strategy %s asked for more than %d rounds in one step; training on the %d groups "
                "at hand",
                self.strategy.name,
                self.max_rounds,
                len(kept),
            )
        self._account(kept)
        self.ledger.end_step()
        return StepOutcome(kept, generated)

    def _roll_out(self, requests: list[Request], rollout: Rollout) -> list[Group]:
        size = self.stream.size
        for request in requests:
            if not 0 <= request.prompt_id < size or request.num_rollouts < 1:
                raise UserError(
                    f"strategy {self.strategy.name!r} made an impossible request: {request}; "
                    f"prompt ids run from 0 to {size - 1} and rollouts from 1"
                )
        groups = rollout(requests) if requests else []
        self.ledger.observe(groups)
        spent = self.spent
        spent.groups += len(groups)
        for group in groups:
            spent.informative_groups += group.informative
            spent.rollouts += group.num_rollouts
            spent.generated_tokens += sum(group.tokens.tolist())
        return groups

    def _account(self, kept: list[Group]) -> None:
        self.spent.kept += sum(group.num_kept for group in kept)
        if not any(group.informative for group in kept):
            self.spent.empty_steps += 1

    def state_dict(self, pack: Handles = tuple) -> dict[str, Any]:
        """Plain values and arrays.

        Args:
            pack: makes them of the handles of groups that the strategy holds.
        """
        return {
            "strategy_name": self.strategy.name,
            "strategy": _pack_groups(self.strategy.state_dict(), pack),
            "stream": self.stream.state_dict(),
            "ledger": self.ledger.state_dict(),
            "spent": asdict(self.spent),
        }

    def load_state_dict(
        self, state: dict[str, Any], unpack: Handles = tuple, moves: Moves | None = None
    ) -> None:
        """Continue where the saved driver stood.

        Args:
            unpack: makes handles of what `pack` gave.
            moves: where the prompts of the saved pool are now; None where all are in their rows.

        Raises:
            UserError: the checkpoint was made by another strategy or on another pool, or the
                strategy's state cannot follow the moves.
        """
        if state["strategy_name"] != self.strategy.name:
            raise UserError(
                f"the checkpoint was made by strategy {state['strategy_name']!r}, not "
                f"{self.strategy.name!r}; resume with the same strategy"
            )
        self.stream.load_state_dict(state["stream"], moves)
        self.ledger.load_state_dict(state["ledger"])
        self.strategy.load_state_dict(_unpack_groups(state["strategy"], unpack))
        if moves is not None:
            self.ledger.move(moves)
            self.strategy.move(moves)
        self.spent = Spent(**state["spent"])


_GROUP = "__group__"


def _pack_groups(value: Any, pack: Handles) -> Any:
    if isinstance(value, Group):
        plain = {f.name: getattr(value, f.name) for f in fields(value)}
        return {_GROUP: plain | {"handle": pack(value.handle)}}
    if isinstance(value, dict):
        return {key: _pack_groups(inner, pack) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack_groups(inner, pack) for inner in value]
    return value


def _unpack_groups(value: Any, unpack: Handles) -> Any:
    if isinstance(value, dict):
        if set(value) == {_GROUP}:
            plain = value[_GROUP]
            return Group(**(plain | {"handle": unpack(plain["handle"])}))
        return {key: _unpack_groups(inner, unpack) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unpack_groups(inner, unpack) for inner in value]
    return value

"""A step under way: what it has asked for, what has arrived, and how it was come by.

A strategy's generator cannot be saved. What can is what it saw: the state of strategy, stream and
ledger whenever it was run on, and the answers it got. From these it is run again up to where it
stood (`dopr.core.driver.Driver.load_state_dict`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dopr.core.outcome import StepOutcome
from dopr.core.strategy import Group, Request, StepPlan


@dataclass(slots=True)
class Seen:
    """What a strategy saw when it was run on: enough to run it on again.

    Attributes:
        strategy, stream: their states.
        ledger: position in the `LedgerPast`.
        in_flight: the ledger's.
        answer: the groups it was given; None at the start of a step.
        measured: answers to what it measured on the way.
    """

    strategy: dict[str, Any]
    stream: dict[str, Any]
    ledger: int
    in_flight: dict[int, int]
    answer: list[Group] | None
    measured: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Flight:
    """A step under way. What is of use to an engine: `index`, `open` and `outcome`.

    Attributes:
        index: number of the step, from 0, in the order in which steps were begun.
        plan: the strategy's generator.
        asked: the requests of the present round.
        arrived: for each of them what has come so far, perhaps a part of it.
        generated: the groups of the rounds before.
        prompts: those that the ledger has counted as visited by this step.
        rounds: how often the strategy was run on.
        lossy: something was given up.
        plain: the strategy could not go on with it after a restart.
        only_round: all that comes of its one round is kept; no generator is asked.
        outcome: once the step needs nothing more.
        explained: what the strategy last said of its choice.
        seen: how it was come by; empty where steps in flight are not to be saved.
    """

    index: int
    plan: StepPlan
    asked: list[Request] = field(default_factory=list)
    arrived: list[Group | None] = field(default_factory=list)
    generated: list[Group] = field(default_factory=list)
    prompts: set[int] = field(default_factory=set)
    rounds: int = 0
    lossy: bool = False
    plain: bool = False
    only_round: bool = False
    outcome: StepOutcome | None = None
    explained: dict[str, float] | None = None
    seen: list[Seen] = field(default_factory=list)

    @property
    def open(self) -> list[Request]:
        """What is still to come of the present round; a prompt's missing rollouts where some of
        its group are there.
        """
        missing = []
        for request, group in zip(self.asked, self.arrived, strict=True):
            left = request.num_rollouts - (group.num_rollouts if group is not None else 0)
            if left > 0:
                missing.append(Request(request.prompt_id, left))
        return missing

    def ask(self, requests: list[Request]) -> None:
        """Begin a round."""
        self.asked = requests
        self.arrived = [None] * len(requests)

    @property
    def single(self) -> bool:
        """Whether it is one request of which nothing has come, and all that comes is kept."""
        return self.only_round and not self.plain and self.arrived == [None]

    def take(self, group: Group, place: int | None = None) -> bool:
        """Put a group, or a part of one, in its place; False where nobody waits for it.

        Args:
            group: of a request of the present round.
            place: of that request; None takes the first that lacks as many rollouts, else the first
                that lacks more. A round that asks for a prompt twice and gets parts of both needs
                to be told: what is left could fit neither.
        """
        lacking = [
            request.num_rollouts - (there.num_rollouts if there is not None else 0)
            if request.prompt_id == group.prompt_id and place in (None, i)
            else 0
            for i, (request, there) in enumerate(zip(self.asked, self.arrived, strict=True))
        ]
        count = group.num_rollouts
        fitting = [i for i, left in enumerate(lacking) if left >= max(count, 1)]
        if not fitting:
            return False
        i = next((i for i in fitting if lacking[i] == count), fitting[0])
        there = self.arrived[i]
        self.arrived[i] = group if there is None else there.join(group)
        return True

    def round_groups(self) -> list[Group]:
        """The round's groups in the order of the requests; one without rollouts where none came."""
        return [
            nothing(request.prompt_id, self.index) if group is None else group
            for request, group in zip(self.asked, self.arrived, strict=True)
        ]


def nothing(prompt_id: int, step: int) -> Group:
    """The group of a request that was given up: no rollout, no reward."""
    return Group(prompt_id, np.empty(0), np.empty(0, dtype=np.int64), step)

"""What a strategy is: a coroutine that decides what to roll out next and what to train on.

A strategy knows no model, tokenizer or trainer. For one optimiser step it yields lists of requests,
receives the finished groups, may yield again, and returns the groups to train on:

    class OnePrompt(Strategy):
        name, summary, source, mark = "one-prompt", "one random prompt a step", "example", "I"

        def step(self, prompts, ledger):
            groups = yield [Request(int(prompts.draw(1)[0]), self.num_generations)]
            return groups

Whoever runs it is a driver (`dopr.core.driver`): the trainer, the replay of a recorded history, or
another engine's loop.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.stream import PromptStream


class UsualSize(int):
    """A group size that nobody set: where a trainer has its own, that takes its place."""


# Two rewards closer than this are the same: rounding must not make a group look informative.
REWARD_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `num_rollouts` completions of one prompt (its row number in the pool)."""

    prompt_id: int
    num_rollouts: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Ask for something the policy can tell without rollouts that count.

    The driver answers with an array, one value (or row) per prompt, and counts the forward tokens.
    A strategy lists what it may ask for in `Strategy.measures`, so that a driver that cannot answer
    refuses when the run is set up.

    Attributes:
        prompt_ids: rows of the pool.
        quantity: `perplexity`, of the prompt under the policy, shape (k,); `embedding`, the mean of
            the policy's last hidden states over the prompt, shape (k, width); `success_rate`, the
            mean reward of `samples` rollouts that nobody pays for, shape (k,): only an oracle's.
        samples: rollouts a prompt behind a success rate.
    """

    prompt_ids: tuple[int, ...]
    quantity: Literal["perplexity", "embedding", "success_rate"]
    samples: int = 8


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The finished rollouts of one request.

    Attributes:
        prompt_id: row number of the prompt in the pool.
        rewards: shape (n,), one per rollout; NaN where no reward function could score it.
        tokens: shape (n,), generated tokens per rollout.
        step: optimiser step in which it was generated.
        entropy: mean token entropy in nats, NaN where nobody measured it.
        entropies: shape (n,), mean token entropy of each rollout; None unless the strategy
            `reads_entropies`.
        disagreement: chance that two of the rollouts give different answers; NaN unless the
            strategy `reads_answers`.
        handle: the driver's own references to the rollouts, a tuple; joined groups have several.
        kept: indices of the rollouts to train on, or None for all of them.
        baseline: what to subtract from the rewards instead of the group's own mean.
        weights: shape (n,), factors on the advantages.
    """

    prompt_id: int
    rewards: NDArray[np.float64]
    tokens: NDArray[np.int64]
    step: int = 0
    entropy: float = float("nan")
    entropies: NDArray[np.float64] | None = None
    disagreement: float = math.nan
    handle: tuple[Any, ...] = ()
    kept: NDArray[np.int64] | None = None
    baseline: float | None = None
    weights: NDArray[np.float64] | None = None

    @property
    def num_rollouts(self) -> int:
        """Rollouts generated, n."""
        return len(self.rewards)

    @property
    def num_kept(self) -> int:
        """Rollouts to train on."""
        return self.num_rollouts if self.kept is None else len(self.kept)

    @property
    def scored(self) -> NDArray[np.float64]:
        """The rewards that exist, shape (m,), m <= n; `rewards` itself where all of them do."""
        rewards = self.rewards
        # A sum of squares is NaN only with a NaN in it; asked of every group, often more than once.
        return rewards[~np.isnan(rewards)] if math.isnan(rewards.dot(rewards)) else rewards

    @property
    def mean(self) -> float:
        """Mean reward, NaN where nothing could be scored."""
        scored = self.scored
        return float(np.add.reduce(scored)) / len(scored) if len(scored) else float("nan")

    @property
    def informative(self) -> bool:
        """Whether the rewards differ at all: a group without variance has no gradient."""
        # Asked several times of every group, and a group is small: a list is faster than an array.
        scored = [reward for reward in self.rewards.tolist() if reward == reward]
        return len(scored) > 1 and max(scored) - min(scored) > REWARD_TOLERANCE

    def keep(self, indices: NDArray[np.int64]) -> "Group":
        """The same group, to be trained on the given rollouts only.

        Raises:
            IndexError: an index outside the group.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.num_rollouts):
            raise IndexError(f"keep() got indices outside a group of {self.num_rollouts} rollouts")
        # Written out: dataclasses.replace takes ten times as long, and some keep from every group.
        return Group(
            self.prompt_id,
            self.rewards,
            self.tokens,
            self.step,
            self.entropy,
            self.entropies,
            self.disagreement,
            self.handle,
            indices,
            self.baseline,
            self.weights,
        )

    def join(self, other: "Group") -> "Group":
        """This group and further rollouts of the same prompt as one group, all of them kept.

        Raises:
            ValueError: the groups are of different prompts.
        """
        if other.prompt_id != self.prompt_id:
            raise ValueError(f"cannot join prompts {self.prompt_id} and {other.prompt_id}")
        both = None
        if self.entropies is not None and other.entropies is not None:
            both = np.concatenate([self.entropies, other.entropies])
        return Group(
            self.prompt_id,
            np.concatenate([self.rewards, other.rewards]),
            np.concatenate([self.tokens, other.tokens]),
            step=min(self.step, other.step),
            entropy=other.entropy,
            entropies=both,
            handle=self.handle + other.handle,
        )


# One optimiser step: yields requests (or a measure), receives groups (or values), returns groups.
StepPlan = Generator[list[Request] | Measure, Any, list[Group]]


@dataclass
class Strategy(ABC):
    """Base of all strategies: a dataclass whose fields are its options.

    Attributes:
        num_generations: rollouts in an ordinary group; where it is not given, the trainer fills in
            its own setting.

    Class attributes: `name`, `summary`, `source`, `mark` and `pays` fill the table of `dopr
    strategies`; `measures` lists the quantities of `Measure` that it needs, `may_measure` those
    that it does better with where the driver can answer (see `can_measure`); `replays` says that
    groups of earlier steps may be returned, `reads_answers` that it
    needs the rollouts' answers compared, `reads_entropies` that it needs each rollout's
    mean token entropy (either costs a forward pass a rollout).

    `usual_prompts` is what a `prompts_per_step` of None stands for, where the trainer's batch holds
    as many.

    Fields declared with `init=False` are its state: they are saved and restored with the run. They
    may hold plain values, arrays, groups, and lists or dicts (with text as keys) of these.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    mark: ClassVar[str]
    pays: ClassVar[Literal["pre", "post"]] = "pre"
    measures: ClassVar[frozenset[str]] = frozenset()
    may_measure: ClassVar[frozenset[str]] = frozenset()
    usual_prompts: ClassVar[int] = 8
    replays: ClassVar[bool] = False
    reads_entropies: ClassVar[bool] = False
    reads_answers: ClassVar[bool] = False

    num_generations: int = field(default=UsualSize(8), kw_only=True)
    # What `metrics` gives: a strategy notes here what is worth logging about a step.
    _last: dict[str, float] = field(default_factory=dict, init=False, repr=False, kw_only=True)

    # What the driver can answer; the driver says so before the first step.
    can_measure: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        """Plan one optimiser step; see the module's text."""

    @property
    def discount(self) -> float:
        """Factor by which older rewards fade in the ledger at each visit; 1 keeps them all."""
        return 1.0

    @property
    def prepaid_rollouts(self) -> int:
        """Rollouts spent for this strategy before the run; the driver counts them from the start.

        Such as the pre-run behind a recorded history.
        """
        return 0

    def metrics(self) -> dict[str, float]:
        """What to log about the last step's choice."""
        return dict(self._last)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs besides ledger and stream: the fields without `init`.

        Arrays, lists and dicts are copies: the strategy may go on changing its own.
        """
        return {f.name: copy(getattr(self, f.name)) for f in fields(self) if not f.init}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, copy(value))


def check_options(cls: type[Strategy], options: Mapping[str, Any]) -> None:
    """Refuse an option of the wrong kind, such as 1.5 prompts, before it fails in a step.

    Args:
        cls: whose options they are.
        options: by name; names that `cls` does not know are passed over.

    Raises:
        UserError: names the first such option.
    """
    try:
        hints = get_type_hints(cls)
    except NameError:  # a strategy of the user's own whose annotations are for type checkers alone
        return
    for name, value in options.items():
        hint = hints.get(name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and NoneType in kinds:
            continue
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        number = isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
        if float in kinds:
            require(number, f"{name} is {value!r}; it must be a number")
        elif int in kinds:
            require(whole, f"{name} is {value!r}; it must be a whole number")
        elif bool in kinds:
            require(isinstance(value, bool), f"{name} is {value!r}; it must be true or false")
        if name == "num_generations":
            require(value >= 1, f"num_generations is {value}; it must be at least 1")


def require(condition: bool, message: str) -> None:
    """Refuse an option that makes no sense, in one sentence.

    Raises:
        UserError: the condition does not hold.
    """
    if not condition:
        raise UserError(message)

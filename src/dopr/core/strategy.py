"""What a strategy is: a coroutine that decides what to roll out next and what to train on.

A strategy knows no model, tokenizer or trainer. For one optimiser step it yields lists of requests,
receives the finished groups, may yield again, and returns the groups to train on:

    class OnePrompt(Strategy):
        def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
            groups = yield [Request(int(prompts.draw(1)[0]), self.num_generations)]
            return groups

Whoever runs it is a driver (`dopr.core.driver`): the trainer, the replay of a recorded history, or
another engine's loop. Engines run a copy of the object they are given (`dopr.core.preparation`).
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import Moves, move_fields
from dopr.core.stream import PromptStream

# Two rewards closer than this are the same: rounding must not make a group look informative.
REWARD_TOLERANCE = 1e-6
RIGHT = 1 - REWARD_TOLERANCE  # a rollout counts as right from this reward on


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
            the policy's last hidden states over the prompt, shape (k, width); `answer_likelihood`,
            the log-likelihood in nats that a completion begins with the reference answer, shape
            (k,), NaN where there is none; `success_rate`, the mean reward of `samples` rollouts
            that nobody pays for, shape (k,): only an oracle's.
        samples: rollouts a prompt behind a success rate.
        layers: layers of the policy that an embedding goes through, at most; None takes all, 0 is
            the mean of the tokens' embeddings, a table look-up.
    """

    prompt_ids: tuple[int, ...]
    quantity: Literal["perplexity", "embedding", "answer_likelihood", "success_rate"]
    samples: int = 8
    layers: int | None = None


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
        final_answers: the final answer of each rollout, n of them; None unless the strategy
            `reads_final_answers`.
        handle: the driver's own references to the rollouts, a tuple; joined groups have several.
        kept: indices of the rollouts to train on, or None for all of them.
        baseline: what to subtract from the rewards instead of the group's own mean.
        weights: shape (n,), factors on the advantages.
        std: what `scale_rewards: group` divides by instead of the standard deviation of all the
            group's rewards, in units of reward.
        expected_mean, expected_std: of a reward of this prompt, by what the strategy had forecast
            and these rewards together; what the estimator `forecast` goes by. Advice, unlike
            `baseline` and `std`: other estimators leave it aside.
    """

    prompt_id: int
    rewards: NDArray[np.float64]
    tokens: NDArray[np.int64]
    step: int = 0
    entropy: float = float("nan")
    entropies: NDArray[np.float64] | None = None
    final_answers: Sequence[str] | None = None
    handle: tuple[Any, ...] = ()
    kept: NDArray[np.int64] | None = None
    baseline: float | None = None
    weights: NDArray[np.float64] | None = None
    std: float | None = None
    expected_mean: float | None = None
    expected_std: float | None = None

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

    @property
    def disagreement(self) -> float:
        """Chance that two of the rollouts give different answers; NaN where nobody read them."""
        if self.final_answers is None:
            return math.nan
        n = len(self.final_answers)
        same = sum(count * (count - 1) for count in Counter(self.final_answers).values())
        return 1.0 - same / (n * (n - 1)) if n > 1 else 0.0

    def keep(self, indices: NDArray[np.int64]) -> "Group":
        """The same group, to be trained on the given rollouts only.

        Raises:
            IndexError: an index outside the group.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.num_rollouts):
            raise IndexError(f"keep() got indices outside a group of {self.num_rollouts} rollouts")
        return replace(self, kept=indices)

    def expecting(self, mean: float, std: float) -> "Group":
        """The same group, with what is expected of a reward of its prompt."""
        values: tuple[Any, ...] = (*_ALL_BUT_EXPECTED(self), mean, std)
        return Group(*values)

    def join(self, other: "Group") -> "Group":
        """This group and further rollouts of the same prompt as one group.

        What is said of single rollouts goes with them: a rollout that was to be kept is kept, and
        weights stay. The step is that of the older group, the entropy the mean over the tokens of
        both. What was expected of either is dropped: it knew only a part of these rewards.

        Raises:
            ValueError: the groups are of different prompts, or have different baselines or standard
                deviations to divide by, which one group cannot have; set them after joining.
        """
        if other.prompt_id != self.prompt_id:
            raise ValueError(f"cannot join prompts {self.prompt_id} and {other.prompt_id}")
        for name in ("baseline", "std"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"cannot join groups with {name}s {mine} and {theirs}; set one on the joined "
                    "group"
                )
        both = (self, other)
        kept = weights = entropies = final_answers = None
        if self.kept is not None or other.kept is not None:
            kept = np.concatenate([_kept(self), _kept(other) + self.num_rollouts])
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([_or_fill(g.weights, 1.0, g) for g in both])
        if self.entropies is not None or other.entropies is not None:
            entropies = np.concatenate([_or_fill(g.entropies, math.nan, g) for g in both])
        if self.final_answers is not None and other.final_answers is not None:
            final_answers = (*self.final_answers, *other.final_answers)
        return Group(
            self.prompt_id,
            np.concatenate([self.rewards, other.rewards]),
            np.concatenate([self.tokens, other.tokens]),
            min(self.step, other.step),
            _mean_entropy(both),
            entropies,
            final_answers,
            self.handle + other.handle,
            kept,
            self.baseline,
            weights,
            self.std,
        )


# For `expecting`, which every group of every step goes through: `replace` takes twice as long.
_ALL_BUT_EXPECTED = attrgetter(*(f.name for f in fields(Group) if "expected" not in f.name))


def _kept(group: Group) -> NDArray[np.int64]:
    return np.arange(group.num_rollouts) if group.kept is None else group.kept


def _or_fill(column: NDArray[np.float64] | None, value: float, group: Group) -> Any:
    return np.full(group.num_rollouts, value) if column is None else column


def _mean_entropy(groups: Sequence[Group]) -> float:
    """Over the tokens of those groups whose entropy is known, NaN where it is of none."""
    known = [(g.entropy, int(g.tokens.sum())) for g in groups if not math.isnan(g.entropy)]
    total = sum(tokens for _, tokens in known)
    return sum(entropy * tokens for entropy, tokens in known) / total if total else math.nan


# One optimiser step: yields requests (or a measure), receives groups (or values), returns groups.
StepPlan = Generator[list[Request] | Measure, Any, list[Group]]


@dataclass
class Strategy(ABC):
    """Base of all strategies: a dataclass whose fields are its options.

    Attributes:
        num_generations: rollouts in an ordinary group; where it is not given, the copy that a
            trainer runs has the trainer's setting.
        can_measure: what the driver can answer; it says so before the first step.

    Class attributes, all of which have defaults:

    - `name` (the class's own), `summary`, `source`, `mark` (V: read in the source, S: from a second
      source, T: from a third party's full reading or code, I: inferred or own) and `pays` fill the
      table of `dopr strategies`;
    - `measures` lists the quantities of `Measure` that it needs, `may_measure` those that it does
      better with where the driver can answer;
    - `replays` says that groups of earlier steps may be returned, `reads_final_answers` that it
      needs the rollouts' final answers, `reads_entropies` that it needs each rollout's mean token
      entropy (which costs a forward pass a rollout);
    - `usual_prompts` is what a `prompts_per_step` of None stands for, where the trainer's batch
      holds as many; with `fills_batch` it stands for the whole batch.

    Fields declared with `init=False` are its state: they are saved and restored with the run. They
    may hold plain values, arrays, groups, and lists or dicts (with text as keys) of these. Where
    they are about single prompts their metadata says how (`dopr.core.moves`), so that a run can go
    on when its rows were reordered, added to or filtered.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = "own"
    mark: ClassVar[str] = "I"
    pays: ClassVar[Literal["pre", "post"]] = "pre"
    measures = frozenset[str]()  # of the class; some options set it for one object
    may_measure: ClassVar[frozenset[str]] = frozenset()
    usual_prompts: ClassVar[int] = 8
    fills_batch: ClassVar[bool] = False
    replays: ClassVar[bool] = False
    reads_entropies: ClassVar[bool] = False
    reads_final_answers: ClassVar[bool] = False

    num_generations: int = field(default=8, kw_only=True)
    # What `metrics` gives: a strategy notes here what is worth logging about a step.
    _last: dict[str, float] = field(default_factory=dict, init=False, repr=False, kw_only=True)

    # Without an annotation, or they would be options: what the driver can answer, and which options
    # were named when the object was made, so that a group size nobody named can be told from 8.
    can_measure = frozenset[str]()
    _named = frozenset[str]()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __new__(cls, *values: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made._named = frozenset(options)
        return made

    @abstractmethod
    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        """Plan one optimiser step; see the module's text."""

    @property
    def ledger_discount(self) -> float:
        """Factor in (0, 1] by which older rewards fade in the ledger at each visit.

        1 keeps them all. A strategy that wants another one defines it, as a property or an option;
        the setting `ledger_discount` of a run wins over it.
        """
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

    def move(self, moves: Moves) -> None:
        """Follow the prompts to other rows; called after `load_state_dict`.

        Moves the state as the metadata of its fields says (`dopr.core.moves`).

        Raises:
            UserError: the state cannot follow.
        """
        move_fields(self, moves)


def require(condition: bool, message: str) -> None:
    """Refuse an option that makes no sense, in one sentence.

    Raises:
        UserError: the condition does not hold.
    """
    if not condition:
        raise UserError(message)

"""What is known about each prompt, as NumPy columns: 52 bytes a prompt."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

VolatilityKind = Literal["total", "within", "between"]
VOLATILITY_KINDS: tuple[VolatilityKind, ...] = ("total", "within", "between")

_COLUMNS: dict[str, type] = {
    "visits": np.int32,  # steps in which the prompt was rolled out
    "rollouts": np.int32,
    "last_step": np.int32,  # -1: never
    "tokens": np.int64,  # generated tokens spent on it
    "weight": np.float32,  # discounted number of rewards
    "mean": np.float32,  # discounted mean reward
    "squares": np.float32,  # discounted sum of squared deviations from that mean
    "group_weight": np.float32,  # the same three over the means of the visits
    "group_mean": np.float32,
    "group_squares": np.float32,
    "within": np.float32,  # reward variance inside the last group
    "entropy": np.float32,  # mean token entropy of the last rollouts in nats, NaN: unknown
}


class ObservedGroup(Protocol):
    """What the ledger reads of a finished group."""

    @property
    def prompt_id(self) -> int: ...
    @property
    def scored(self) -> NDArray[np.float64]: ...
    @property
    def num_rollouts(self) -> int: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def entropy(self) -> float: ...


class Ledger:
    """Running statistics of every prompt's rewards.

    Args:
        size: number of prompts in the pool.
        discount: factor in (0, 1] on everything known about a prompt each time it is visited again.

    Attributes:
        step: number of steps observed so far.
        mean, visits, ...: the columns, each of shape (size,); see `_COLUMNS`.
    """

    visits: NDArray[np.int32]
    rollouts: NDArray[np.int32]
    last_step: NDArray[np.int32]
    tokens: NDArray[np.int64]
    weight: NDArray[np.float32]
    mean: NDArray[np.float32]
    squares: NDArray[np.float32]
    group_weight: NDArray[np.float32]
    group_mean: NDArray[np.float32]
    group_squares: NDArray[np.float32]
    within: NDArray[np.float32]
    entropy: NDArray[np.float32]

    def __init__(self, size: int, discount: float = 1.0) -> None:
        self.size = size
        self.discount = discount
        self.step = 0
        for column, dtype in _COLUMNS.items():
            setattr(self, column, np.zeros(size, dtype=dtype))
        self.last_step.fill(-1)
        self.entropy.fill(np.nan)
        self.visited_count = 0
        self.reward_low = np.inf
        self.reward_high = -np.inf
        self.policy_entropy = float("nan")
        self.initial_entropy = float("nan")
        self._variance_sums = dict.fromkeys(VOLATILITY_KINDS, 0.0)
        self._entropy_sum, self._entropy_count = 0.0, 0

    # -- learning ---------------------------------------------------------------------------

    def observe(self, groups: Iterable[ObservedGroup]) -> None:
        """Write back finished groups of the current step.

        Several groups of one prompt in one step are one visit. Rewards that could not be scored
        (NaN) are left out; their rollouts and tokens still count as spent.
        """
        for group in groups:
            i = group.prompt_id
            before = self._variances(i)
            again_this_step = self.last_step[i] == self.step
            self.rollouts[i] += group.num_rollouts
            self.tokens[i] += int(np.sum(group.tokens))
            self.last_step[i] = self.step
            if not again_this_step:
                self._count_visit(i)
            rewards = group.scored
            if rewards.size:
                self._merge(i, rewards, again_this_step)
            for kind, old, new in zip(VOLATILITY_KINDS, before, self._variances(i), strict=True):
                self._variance_sums[kind] += new - old
            if not np.isnan(group.entropy):
                self.observe_entropy(i, group.entropy)

    def end_step(self) -> None:
        """The driver's step is over: what comes next is another visit."""
        self.step += 1

    def observe_entropy(self, prompt_id: int, entropy: float) -> None:
        """Note the mean token entropy (nats) of a prompt's last rollouts."""
        old = float(self.entropy[prompt_id])
        if np.isnan(old):
            self._entropy_count += 1
        else:
            self._entropy_sum -= old
        self.entropy[prompt_id] = entropy
        self._entropy_sum += float(self.entropy[prompt_id])

    def observe_policy_entropy(self, entropy: float) -> None:
        """Note the mean token entropy (nats) of the whole training batch."""
        self.policy_entropy = entropy
        if np.isnan(self.initial_entropy):
            self.initial_entropy = entropy

    def _count_visit(self, i: int) -> None:
        if self.visits[i] == 0:
            self.visited_count += 1
        self.visits[i] += 1
        self.weight[i] *= self.discount
        self.squares[i] *= self.discount
        self.group_weight[i] *= self.discount
        self.group_squares[i] *= self.discount

    def _merge(self, i: int, rewards: NDArray[np.float64], again_this_step: bool) -> None:
        """Join a group to the discounted mean and squares (Chan's update: no cancellation)."""
        count, mean = rewards.size, float(rewards.mean())
        squares = float(np.square(rewards - mean).sum())
        self.reward_low = min(self.reward_low, float(rewards.min()))
        self.reward_high = max(self.reward_high, float(rewards.max()))
        self.within[i] = squares / count

        old_weight, delta = float(self.weight[i]), mean - float(self.mean[i])
        new_weight = old_weight + count
        self.weight[i] = new_weight
        self.mean[i] += delta * count / new_weight
        self.squares[i] += squares + delta * delta * old_weight * count / new_weight

        if again_this_step:
            return  # `between` compares visits; the first group of a visit stands for it
        old_weight, delta = float(self.group_weight[i]), mean - float(self.group_mean[i])
        new_weight = old_weight + 1
        self.group_weight[i] = new_weight
        self.group_mean[i] += delta / new_weight
        self.group_squares[i] += delta * delta * old_weight / new_weight

    # -- asking -----------------------------------------------------------------------------

    @property
    def coverage(self) -> float:
        """Share of the pool that was rolled out at least once."""
        return self.visited_count / self.size

    @property
    def mean_entropy(self) -> float:
        """Mean of the known prompts' entropies in nats, NaN while none is known."""
        return self._entropy_sum / self._entropy_count if self._entropy_count else float("nan")

    @property
    def volatility_scale(self) -> float:
        """Factor that makes a fair coin between the lowest and highest reward seen score 1."""
        spread = self.reward_high - self.reward_low
        return 4.0 / (spread * spread) if 0 < spread < np.inf else 4.0

    def volatility(
        self, kind: VolatilityKind, ids: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Reward volatility, 1 for a fair coin, 0 for a prompt never visited.

        Args:
            kind: `total`, discounted variance of every reward seen (both the spread inside groups
                and the change between visits); `within`, variance inside the last group;
                `between`, discounted variance of the visits' means.
            ids: shape (k,), or None for the whole pool.
        """
        rows: Any = slice(None) if ids is None else ids
        if kind == "within":
            return self.within[rows] * np.float32(self.volatility_scale)
        squares, weight = (
            (self.squares, self.weight)
            if kind == "total"
            else (self.group_squares, self.group_weight)
        )
        # A weight below one reward cannot occur once visited, so this only guards the unvisited.
        variance = squares[rows] / np.maximum(weight[rows], np.float32(1e-6))
        return variance * np.float32(self.volatility_scale)

    def mean_volatility(self, kind: VolatilityKind) -> float:
        """Mean volatility of the prompts visited so far, NaN while there are none."""
        if not self.visited_count:
            return float("nan")
        return self.volatility_scale * self._variance_sums[kind] / self.visited_count

    def _variances(self, i: int) -> tuple[float, float, float]:
        """Unscaled variances of one prompt, in the order of `VOLATILITY_KINDS`."""
        weight, group_weight = float(self.weight[i]), float(self.group_weight[i])
        total = float(self.squares[i]) / weight if weight else 0.0
        between = float(self.group_squares[i]) / group_weight if group_weight else 0.0
        return total, float(self.within[i]), between

    # -- saving -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {column: getattr(self, column).copy() for column in _COLUMNS}
        state["scalars"] = {
            "size": self.size,
            "discount": self.discount,
            "step": self.step,
            "visited_count": self.visited_count,
            "reward_low": self.reward_low,
            "reward_high": self.reward_high,
            "policy_entropy": self.policy_entropy,
            "initial_entropy": self.initial_entropy,
            "variance_sums": dict(self._variance_sums),
            "entropy_sum": self._entropy_sum,
            "entropy_count": self._entropy_count,
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for column, dtype in _COLUMNS.items():
            setattr(self, column, np.array(state[column], dtype=dtype))
        scalars = dict(state["scalars"])
        self._variance_sums = dict(scalars.pop("variance_sums"))
        self._entropy_sum = scalars.pop("entropy_sum")
        self._entropy_count = scalars.pop("entropy_count")
        for name, value in scalars.items():
            setattr(self, name, value)

"""What is known about each prompt, as NumPy columns: 52 bytes a prompt."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger_columns import COLUMNS as _COLUMNS
from dopr.core.ledger_columns import ObservedGroup, add_rounded, join_means
from dopr.core.moves import Moves

VolatilityKind = Literal["total", "within", "between"]
VOLATILITY_KINDS: tuple[VolatilityKind, ...] = ("total", "within", "between")

# From so many groups on, joining them into arrays costs less than going one by one.
_TOGETHER_FROM = 6


def check_discount(value: float | None) -> None:
    """Refuse a `ledger_discount` outside (0, 1]; None passes.

    Raises:
        UserError: it is.
    """
    if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
        raise UserError(f"ledger_discount is {value!r}; it must lie in (0, 1]")


class Ledger:
    """Running statistics of every prompt's rewards.

    Args:
        size: number of prompts in the pool.
        discount: factor in (0, 1] on everything known about a prompt each time it is visited again.

    Attributes:
        step: number of the step that is worked on; between steps, how many were begun.
        in_flight: rollouts asked for and not there yet, by prompt; kept by the driver.
        before_change: called with the rows that are about to change, where somebody wants to know.
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
        self.in_flight: dict[int, int] = {}
        self.before_change: Callable[[NDArray[np.int64]], None] | None = None
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
        self._fade = float(np.float32(discount))

    # -- learning ---------------------------------------------------------------------------

    def observe(self, groups: Iterable[ObservedGroup], visited: set[int] | None = None) -> None:
        """Write back finished groups of the current step.

        Several groups of one prompt in one step are one visit. Rewards that could not be scored
        (NaN) are left out; their rollouts and tokens still count as spent.

        Args:
            groups: in any order; those of a step that began earlier may come later.
            visited: prompts that this step has visited before, to which these are added. Needed
                where steps overlap; else the ledger knows by itself.
        """
        groups = list(groups)
        if self.before_change is not None:
            self.before_change(np.array([group.prompt_id for group in groups], dtype=np.int64))
        if len(groups) < _TOGETHER_FROM or not self._observe_together(groups, visited):
            for group in groups:
                self._observe_one(group, visited)

    def observe_steps(self, groups: Sequence[ObservedGroup], steps: NDArray[np.int64]) -> None:
        """Write back the only groups of several steps at once.

        Args:
            groups: one a step.
            steps: shape (k,), the number of each one's step.
        """
        if self.before_change is not None:
            self.before_change(np.array([group.prompt_id for group in groups], dtype=np.int64))
        if len(groups) < _TOGETHER_FROM or not self._observe_together(groups, None, steps):
            begun = self.step
            for group, self.step in zip(groups, steps.tolist(), strict=True):
                self._observe_one(group, None)
            self.step = begun

    def _observe_one(self, group: ObservedGroup, visited: set[int] | None) -> None:
        i, rewards = group.prompt_id, group.rewards
        before = self._variances(i)
        last_step = self.last_step.item(i)
        again_this_step = last_step == self.step
        if visited is not None:
            again_this_step = again_this_step or i in visited
            visited.add(i)
        self.rollouts[i] = self.rollouts.item(i) + len(rewards)
        self.tokens[i] = self.tokens.item(i) + sum(group.tokens.tolist())
        self.last_step[i] = max(self.step, last_step)
        if not again_this_step:
            self._count_visit(i)
        total = float(np.add.reduce(rewards))
        if math.isnan(total):
            rewards = group.scored
            total = float(np.add.reduce(rewards))
        if len(rewards):
            self._merge(i, rewards, total / len(rewards), again_this_step)
        for kind, old, new in zip(VOLATILITY_KINDS, before, self._variances(i), strict=True):
            self._variance_sums[kind] += new - old
        if not math.isnan(group.entropy) and last_step <= self.step:
            self._set_entropy(i, group.entropy)

    def _observe_together(
        self,
        groups: Sequence[ObservedGroup],
        visited: set[int] | None,
        steps: NDArray[np.int64] | None = None,
    ) -> bool:
        """All groups at once: the same columns, to the last bit, as one by one.

        The running sums of variances agree to rounding in float64. Returns False, and does
        nothing, unless the groups are of distinct prompts, none of them rolled out earlier in this
        step, of one size, and with every reward scored.
        """
        all_rewards = [group.rewards for group in groups]
        count = len(all_rewards[0])
        rows = [group.prompt_id for group in groups]
        if not count or set(map(len, all_rewards)) != {count} or len(set(rows)) < len(rows):
            return False
        ids = np.array(rows, dtype=np.int64)
        rewards = np.concatenate(all_rewards).reshape(len(ids), count)
        mean = np.add.reduce(rewards, axis=1) / count
        step: Any = self.step if steps is None else steps
        if math.isnan(mean.dot(mean)) or (self.last_step[ids] >= step).any():
            return False
        if visited is not None:
            if not visited.isdisjoint(rows):
                return False
            visited.update(rows)
        tokens = np.concatenate([group.tokens for group in groups]).reshape(len(ids), count)
        before = self._variances_of(ids)
        self.rollouts[ids] += count
        self.tokens[ids] += np.add.reduce(tokens, axis=1)
        self.last_step[ids] = step
        self.visited_count += int(np.count_nonzero(self.visits[ids] == 0))
        self.visits[ids] += 1
        for column in (self.weight, self.squares, self.group_weight, self.group_squares):
            column[ids] *= np.float32(self.discount)
        self._merge_together(ids, rewards, mean)
        for kind, old, new in zip(VOLATILITY_KINDS, before, self._variances_of(ids), strict=True):
            self._variance_sums[kind] += float(np.add.reduce(new - old))
        for group in groups:
            if not math.isnan(group.entropy):
                self._set_entropy(group.prompt_id, group.entropy)
        return True

    def end_step(self) -> None:
        """The driver's step is over: what comes next is another visit."""
        self.step += 1

    def observe_entropy(self, prompt_id: int, entropy: float) -> None:
        """Note the mean token entropy (nats) of a prompt's last rollouts."""
        if self.before_change is not None:
            self.before_change(np.array([prompt_id], dtype=np.int64))
        self._set_entropy(prompt_id, entropy)

    def _set_entropy(self, prompt_id: int, entropy: float) -> None:
        old = self.entropy.item(prompt_id)
        if math.isnan(old):
            self._entropy_count += 1
        else:
            self._entropy_sum -= old
        self.entropy[prompt_id] = entropy
        self._entropy_sum += self.entropy.item(prompt_id)

    def observe_policy_entropy(self, entropy: float) -> None:
        """Note the mean token entropy (nats) of the whole training batch."""
        if self.before_change is not None:
            self.before_change(np.empty(0, dtype=np.int64))
        self.policy_entropy = entropy
        if np.isnan(self.initial_entropy):
            self.initial_entropy = entropy

    def _count_visit(self, i: int) -> None:
        visits = self.visits.item(i)
        self.visited_count += visits == 0
        self.visits[i] = visits + 1
        # Python floats multiply five times as fast as NumPy's scalars; stored, the product of two
        # float32 is the same.
        fade = self._fade
        self.weight[i] = self.weight.item(i) * fade
        self.squares[i] = self.squares.item(i) * fade
        self.group_weight[i] = self.group_weight.item(i) * fade
        self.group_squares[i] = self.group_squares.item(i) * fade

    def _merge(
        self, i: int, rewards: NDArray[np.float64], mean: float, again_this_step: bool
    ) -> None:
        """Join a group to the discounted mean and squares (Chan's update: no cancellation)."""
        count, deviations = len(rewards), rewards - mean
        squares = float(np.add.reduce(deviations * deviations))
        few = count <= 32  # then a list's min is the faster one
        values = rewards.tolist() if few else [float(rewards.min()), float(rewards.max())]
        self.reward_low = min(self.reward_low, min(values))
        self.reward_high = max(self.reward_high, max(values))
        if self.last_step.item(i) == self.step:  # else a later step's group came before
            self.within[i] = squares / count

        weight = self.weight.item(i)
        shift, extra = join_means(weight, mean - self.mean.item(i), count)
        self.weight[i] = weight + count
        add_rounded(self.mean, i, shift)
        add_rounded(self.squares, i, squares + extra)

        if again_this_step:
            return  # `between` compares visits; the first group of a visit stands for it
        weight = self.group_weight.item(i)
        shift, extra = join_means(weight, mean - self.group_mean.item(i), 1)
        self.group_weight[i] = weight + 1
        add_rounded(self.group_mean, i, shift)
        add_rounded(self.group_squares, i, extra)

    def _merge_together(
        self, ids: NDArray[np.int64], rewards: NDArray[np.float64], mean: NDArray[np.float64]
    ) -> None:
        """`_merge` for distinct prompts, rewards of shape (k, n) and their means of shape (k,)."""
        count, deviations = rewards.shape[1], rewards - mean[:, None]
        squares = np.add.reduce(deviations * deviations, axis=1)
        self.reward_low = min(self.reward_low, float(rewards.min()))
        self.reward_high = max(self.reward_high, float(rewards.max()))
        self.within[ids] = squares / count

        weight = self.weight[ids].astype(np.float64)
        shift, extra = join_means(weight, mean - self.mean[ids], count)
        self.weight[ids] = weight + count
        self.mean[ids] += shift.astype(np.float32)
        self.squares[ids] += (squares + extra).astype(np.float32)

        weight = self.group_weight[ids].astype(np.float64)
        shift, extra = join_means(weight, mean - self.group_mean[ids], 1)
        self.group_weight[ids] = weight + 1
        self.group_mean[ids] += shift.astype(np.float32)
        self.group_squares[ids] += extra.astype(np.float32)

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
                `between`, discounted variance of the visits' means. Of a group that comes in parts
                `within` knows the last part, `between` the first.
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
        weight, group_weight = self.weight.item(i), self.group_weight.item(i)
        total = self.squares.item(i) / weight if weight else 0.0
        between = self.group_squares.item(i) / group_weight if group_weight else 0.0
        return total, self.within.item(i), between

    def _variances_of(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        """The same for several prompts, each of shape (k,)."""
        weight, group_weight = (w[ids].astype(np.float64) for w in (self.weight, self.group_weight))
        # Without weight the squares are 0 too; a float32 above 0 is above 1e-45.
        total = self.squares[ids] / np.maximum(weight, 1e-45)
        between = self.group_squares[ids] / np.maximum(group_weight, 1e-45)
        return total, self.within[ids].astype(np.float64), between

    # -- saving -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The columns as copies, and the running sums."""
        return self.rows(slice(None))

    def rows(self, rows: Any) -> dict[str, Any]:
        """The columns of some rows as copies, and the running sums."""
        state: dict[str, Any] = {c: getattr(self, c)[rows].copy() for c in _COLUMNS}
        state["scalars"] = {
            "size": self.size,
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
        """Continue where the saved ledger stood."""
        for column, dtype in _COLUMNS.items():
            setattr(self, column, np.array(state[column], dtype=dtype))
        self._load_scalars(state)

    def load_rows(self, ids: NDArray[np.int64], state: dict[str, Any]) -> None:
        """Put what `rows` gave back into the same rows, shape (k,)."""
        for column in _COLUMNS:
            getattr(self, column)[ids] = state[column]
        self._load_scalars(state)

    def _load_scalars(self, state: dict[str, Any]) -> None:
        scalars = dict(state["scalars"])
        self._variance_sums = dict(scalars.pop("variance_sums"))
        self._entropy_sum = scalars.pop("entropy_sum")
        self._entropy_count = scalars.pop("entropy_count")
        for name, value in scalars.items():
            setattr(self, name, value)

    def move(self, moves: Moves) -> None:
        """Follow the prompts to other rows: those gone are forgotten, new ones are not known."""
        fills = {"last_step": -1, "entropy": np.nan}
        for column in _COLUMNS:
            setattr(self, column, moves.rows(getattr(self, column), fills.get(column, 0)))
        self.size = moves.size
        self.visited_count = int(np.count_nonzero(self.visits))
        visited = np.flatnonzero(self.visits)
        for kind, values in zip(VOLATILITY_KINDS, self._variances_of(visited), strict=True):
            self._variance_sums[kind] = float(values.sum())
        known = self.entropy[~np.isnan(self.entropy)]
        self._entropy_sum, self._entropy_count = float(known.sum()), len(known)

"""What any engine's adapter needs: settings, the driver, groups of its rollouts, what to train on.

An engine hands out prompts and gets back rollouts under keys of its own. Nothing here knows more of
it than that, and nothing needs more than NumPy.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.advantages import compute_advantages
from dopr.core.driver import MAX_ROUNDS, Driver, StepOutcome
from dopr.core.errors import UserError, unknown_name
from dopr.core.ledger import Ledger
from dopr.core.preparation import Sizes, prepare
from dopr.core.stream import PromptStream
from dopr.strategies import STRATEGIES, Group, Request, Strategy, make_strategy

ENGINE_ESTIMATORS = ("forecast", "group")


@dataclass(frozen=True)
class EngineSettings:
    """The section `dopr` of an engine's configuration.

    Args:
        strategy: name of a strategy (`dopr strategies` lists them) or `path/to/file.py:Class`.
        strategy_args: the strategy's options.
        seed: of the order of prompts and of the strategy's draws; None takes the engine's own.
        max_rounds: a strategy that asks more often than this within one step is stopped.
        poll_interval: seconds between looks whether a round is finished.
        advantage_estimator: what rewards are held against: `forecast`, what the strategy expects of
            their prompt, or where it expects nothing the engine's own advantages; `group`, these
            alone.

    Raises:
        UserError: a number that makes no sense, or an unknown estimator.
    """

    strategy: str = "dopr"
    strategy_args: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    max_rounds: int = MAX_ROUNDS
    poll_interval: float = 0.5
    advantage_estimator: str = "forecast"

    def __post_init__(self) -> None:
        if self.advantage_estimator not in ENGINE_ESTIMATORS:
            raise unknown_name(
                "dopr.advantage_estimator", self.advantage_estimator, ENGINE_ESTIMATORS
            )
        if self.max_rounds < 1 or self.poll_interval <= 0:
            raise UserError("dopr.max_rounds must be at least 1 and dopr.poll_interval above 0")
        if not isinstance(self.strategy_args, Mapping):
            raise UserError(
                f"dopr.strategy_args must be a mapping of options, not {self.strategy_args!r}"
            )


def read_engine_settings(section: Mapping[str, Any] | None) -> EngineSettings:
    """The settings from plain values; None gives the defaults.

    Raises:
        UserError: an unknown key (the nearest known one is offered), or a bad value.
    """
    known = [f.name for f in dataclasses.fields(EngineSettings)]
    for key in section or {}:
        if key not in known:
            raise unknown_name("key of the section dopr:", key, known)
    return EngineSettings(**(section or {}))


def _obstacle(strategy: Strategy | type[Strategy]) -> str | None:
    """What a strategy needs that an engine's loop does not give; None where it has all it needs."""
    if strategy.measures:
        return f"measures {', '.join(sorted(strategy.measures))} of the policy between rollouts"
    if strategy.replays:
        return "trains on rollouts of earlier steps"
    if strategy.reads_entropies:
        return "needs each rollout's entropy before it decides what to train on"
    if strategy.reads_final_answers:
        return "compares the rollouts' final answers"
    return None


def working_strategies() -> list[str]:
    """Names of the strategies that an engine's loop can run."""
    return sorted(name for name, cls in STRATEGIES.items() if _obstacle(cls) is None)


def make_engine_driver(
    settings: EngineSettings,
    pool_size: int,
    *,
    num_generations: int,
    prompts_per_step: int,
    seed: int = 0,
    categories: NDArray[np.int64] | None = None,
    engine: str = "this engine",
) -> Driver:
    """The driver of a run inside another engine.

    Args:
        settings: what the user asked for.
        pool_size: number of training prompts.
        num_generations: the engine's usual rollouts a prompt.
        prompts_per_step: the engine's usual prompts a step, for strategies that leave it open.
        seed: the engine's own, where the settings name none.
        categories: shape (pool_size,), the kind of each prompt.
        engine: its name, for messages.

    Raises:
        UserError: unknown strategy or option, or a strategy that needs more than rollouts.
    """
    options = {"num_generations": num_generations, **settings.strategy_args}
    strategy = make_strategy(settings.strategy, **options)
    obstacle = _obstacle(strategy)
    if obstacle is not None:
        raise UserError(
            f"strategy {settings.strategy!r} {obstacle}, which {engine} cannot do; "
            f"strategies that work with it: {', '.join(working_strategies())}"
        )
    stream = PromptStream(pool_size, seed if settings.seed is None else settings.seed)
    if categories is not None:
        stream.categories = categories
    ready = prepare(strategy, Sizes(num_generations, prompts_per_step))
    return Driver(ready, stream, max_rounds=settings.max_rounds)


# -- from the engine's rollouts to groups -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated sequence as the engine stored it; a rollout of several turns may have several.

    Attributes:
        key: where it is stored.
        uid: of the request it belongs to.
        rollout: number within the request, from 0.
        part: number within the rollout; the reward of the last one counts.
        reward: of the rollout.
        tokens: generated tokens.
    """

    key: str
    uid: str
    rollout: int
    part: int
    reward: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Where one rollout is; a group's handle holds one for each of its rewards.

    Attributes:
        uid: of the request it was made for.
        keys: of its sequences; none where it failed.
    """

    uid: str
    keys: tuple[str, ...]


def make_groups(
    requests: Sequence[Request], uids: Sequence[str], found: Iterable[Generated], step: int
) -> list[Group]:
    """The groups of one round, in the order of the requests.

    A rollout that the engine lost has the reward NaN and no tokens, so a group is always as large
    as was asked for. A reward that is not finite is NaN too.

    Args:
        requests: what was asked for.
        uids: the name each request had in the engine.
        found: the finished sequences, in any order.
        step: of the optimiser.
    """
    by_rollout: dict[tuple[str, int], list[Generated]] = {}
    for piece in found:
        by_rollout.setdefault((piece.uid, piece.rollout), []).append(piece)
    groups = []
    for request, uid in zip(requests, uids, strict=True):
        rollouts = [
            sorted(by_rollout.get((uid, i), []), key=lambda piece: piece.part)
            for i in range(request.num_rollouts)
        ]
        rewards = [parts[-1].reward if parts else math.nan for parts in rollouts]
        rewards = [reward if math.isfinite(reward) else math.nan for reward in rewards]
        tokens = [sum(part.tokens for part in parts) for parts in rollouts]
        groups.append(
            Group(
                request.prompt_id,
                np.array(rewards, dtype=np.float64),
                np.array(tokens, dtype=np.int64),
                step,
                handle=tuple(Stored(uid, tuple(part.key for part in parts)) for parts in rollouts),
            )
        )
    return groups


# -- from groups to what is trained on ----------------------------------------------------------


@dataclass(frozen=True)
class TrainingBatch:
    """What the engine is to train on.

    Attributes:
        keys: of the sequences to train on.
        dropped: keys of all others that were generated.
        advantages: of the sequences whose advantage the engine would get wrong, by key.
        prompts: the row number in the pool of each of `keys`.
    """

    keys: list[str]
    dropped: list[str]
    advantages: dict[str, float]
    prompts: dict[str, int]


def assemble(
    outcome: StepOutcome, ledger: Ledger, scale: str, estimator: str = "forecast"
) -> TrainingBatch:
    """What to train on after a step.

    An engine computes advantages per request, over the rollouts it is handed. That is right for a
    group as it was generated; one that was joined, cut, weighted or given a baseline, or of which
    something was expected, gets its advantages here, by the same formula as everywhere else
    (`dopr.core.advantages`). Where nothing is kept the engine still needs a batch: it gets one
    group with advantages of 0.

    Args:
        outcome: of the step.
        ledger: of the driver.
        scale: `group` or `none`, as in `compute_advantages`.
        estimator: `forecast` or `group`, likewise.

    Raises:
        UserError: the strategy returned rollouts that were not generated in this step.
    """
    everything = [key for group in outcome.generated for key in _keys(group)]
    kept = [group for group in outcome.kept if _keys(group, trained=True)]
    if not kept:
        present = [group for group in outcome.generated if _keys(group)]
        kept = [replace(g, kept=None, weights=np.zeros(g.num_rollouts)) for g in present[-1:]]
    keys: list[str] = []
    own: dict[str, float] = {}
    prompts: dict[str, int] = {}
    all_advantages = compute_advantages(kept, ledger, estimator, scale)
    for group, advantages in zip(kept, all_advantages, strict=True):
        mine = _keys(group, trained=True)
        keys += mine
        prompts |= dict.fromkeys(mine, group.prompt_id)
        if not (_is_plain(group) and engine_advantages_hold(group, estimator)):
            for stored, advantage in zip(group.handle, advantages.tolist(), strict=True):
                own |= dict.fromkeys(stored.keys, advantage)
    trained = set(keys)
    if not trained.issubset(everything):
        raise UserError(
            "the strategy returned rollouts of an earlier step, which this engine no longer has; "
            "set `replays = True` in the strategy, so that it is refused when the run is set up"
        )
    dropped = [key for key in everything if key not in trained]
    return TrainingBatch(keys, dropped, {k: own[k] for k in keys if k in own}, prompts)


def _keys(group: Group, trained: bool = False) -> list[str]:
    rollouts = range(group.num_rollouts)
    wanted = group.kept.tolist() if trained and group.kept is not None else rollouts
    return [key for i in wanted for key in group.handle[i].keys]


def engine_advantages_hold(group: Group, estimator: str) -> bool:
    """Whether nothing was said of a group that an engine's own advantages do not know.

    Args:
        group: one request's rollouts, as they were generated.
        estimator: `forecast` or `group`.
    """
    nothing_said = group.kept is group.baseline is group.weights is group.std is None
    return nothing_said and (estimator == "group" or group.expected_mean is None)


def _is_plain(group: Group) -> bool:
    """Whether a group is one request's, of more than one rollout."""
    return len(group.scored) > 1 and len({stored.uid for stored in group.handle}) == 1

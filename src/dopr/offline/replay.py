"""Any strategy on a recorded history, without a model.

The record stands in for the policy: it answers every request with the outcome that was recorded for
that prompt at that time. This is counterfactual. The recorded policy's progress does not depend on
what the replayed strategy chooses, so a replay tells how well a strategy finds informative prompts
in a pool that moves as this one moved, not how fast a policy would learn from them.
"""

import dataclasses
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dopr.core.configuration import at_least, at_most
from dopr.core.driver import MAX_DELAY, Driver, StepOutcome
from dopr.core.errors import UserError, unknown_name
from dopr.core.statistics import finite, interval
from dopr.core.stream import PromptStream
from dopr.offline.histories import History
from dopr.offline.recorded_policy import CAN_MEASURE, RecordedPolicy
from dopr.strategies import PRESETS, STRATEGIES, Strategy, make_strategy

NOTE = (
    "counterfactual: the recorded policy's progress does not depend on what the replayed strategy "
    "chooses; this tells what a strategy finds, not what a policy would learn from it"
)
# A strategy that rolls out nothing for so many steps running will never spend its budget.
_IDLE_STEPS = 1000
# Strategies that are one prompt a step, whatever the others take.
_ONE_PROMPT = ("uniform-1", "dopr-paper")
_COUNTS = ("rollouts", "steps", "abandoned_steps")


class NotReplayable(UserError):
    """The strategy needs something of the policy that no record holds."""


@dataclass
class ReplaySettings:
    """How histories are replayed.

    Args:
        rollouts: budget of each run; None: what the record took, prompts x epochs x group size.
        group_size: rollouts in an ordinary group; None: as recorded.
        prompts_per_step: given to every strategy that has this option but `uniform-1` and
            `dopr-paper`, which are one prompt a step; None leaves the strategies' own.
        seeds: runs of each strategy, with seeds 0, 1, ...
        visits: how often every learnable prompt must be visited in `rollouts_to_see_learnable`.
        recorded_once: see `RecordedPolicy`.
        feedback_delay: steps after which the groups of a step are known, see `Driver`.
        withhold_in_flight: do not offer prompts whose rewards are not in, see `Driver`.
        jobs: processes that share the runs; the result does not depend on it.
    """

    rollouts: int | None = None
    group_size: int | None = None
    prompts_per_step: int | None = None
    seeds: int = 4
    visits: int = 1
    recorded_once: bool = False
    feedback_delay: int = 0
    withhold_in_flight: bool = True
    jobs: int = 1

    def check(self) -> None:
        """Refuse what cannot be replayed.

        Raises:
            UserError: naming the setting and its limit.
        """
        at_least(self, 1, "rollouts", "group_size", "prompts_per_step", "seeds", "visits", "jobs")
        at_least(self, 0, "feedback_delay")
        at_most(self, MAX_DELAY, "feedback_delay")

    def resolve(self, history: History) -> "ReplaySettings":
        """The same with budget and group size filled in from the record."""
        return dataclasses.replace(
            self,
            rollouts=self.rollouts or history.size * history.epochs * history.group_size,
            group_size=self.group_size or history.group_size,
        )


# -- one run ---------------------------------------------------------------------------------


class Tally:
    """What a strategy chose, added up over one run."""

    def __init__(self, history: History, visits: int, driver: Driver) -> None:
        self._visits, self._driver = visits, driver
        self._unseen = set(np.flatnonzero(history.learnable).tolist())
        self._seen_at: int | None = None if self._unseen else 0
        self._prepaid = driver.spent.rollouts
        self._spread, self._best = 0.0, 0.0

    @property
    def rollouts(self) -> int:
        """Generated in this run, without those that a strategy has paid for before."""
        return self._driver.spent.rollouts - self._prepaid

    def note(self, outcome: StepOutcome, policy: RecordedPolicy) -> None:
        """Add a finished step."""
        chosen, spread = [group.prompt_id for group in outcome.generated], policy.spread
        self._spread += sum([spread[i] for i in chosen])
        trained_on = {group.prompt_id for group in outcome.kept} if len(chosen) > 1 else set()
        batch = len(trained_on.intersection(chosen)) or 1
        self._best += policy.best[batch - 1] * len(chosen)
        if self._unseen:
            visits = self._driver.ledger.visits
            self._unseen.difference_update([i for i in chosen if visits.item(i) >= self._visits])
            if not self._unseen:
                self._seen_at = self._driver.spent.rollouts

    def measures(self) -> dict[str, float | None]:
        """The measures of one run; None where there is nothing to measure."""
        spent, ledger = self._driver.spent, self._driver.ledger
        groups = spent.groups or np.nan
        return {
            "informative_share": finite(spent.informative_groups / groups),
            "mean_p1p": finite(self._spread / groups),
            "regret": finite((self._best - self._spread) / groups),
            "coverage": ledger.coverage,
            "kept_share": finite(spent.kept / (self.rollouts or np.nan)),
            "rollouts_to_see_learnable": self._seen_at,
            "rollouts": spent.rollouts,
            "steps": self._driver.steps_done,
            "abandoned_steps": spent.abandoned_steps,
        }


def replay_once(
    history: History, strategy: Strategy, settings: ReplaySettings, seed: int
) -> dict[str, float | None]:
    """One run of one strategy; see `replay` for the measures.

    Args:
        history: the record.
        strategy: a fresh one.
        settings: resolved ones.
        seed: of the order of prompts, the strategy's draws, and the record's.

    Raises:
        UserError: the strategy needs something of the policy that no record holds.
    """
    assert settings.rollouts is not None
    driver = Driver(
        strategy,
        PromptStream(history.size, seed),
        can_measure=CAN_MEASURE,
        feedback_delay=settings.feedback_delay,
        withhold_in_flight=settings.withhold_in_flight,
        restorable=False,
    )
    policy = RecordedPolicy(history, settings.rollouts, seed, settings.recorded_once)
    tally, idle = Tally(history, settings.visits, driver), 0
    with _quiet_driver():
        while driver.spent.rollouts < settings.rollouts and idle < _IDLE_STEPS:
            # Rollouts paid for before the run count towards the budget, but train nothing here.
            policy.begin_step(driver.steps_done, tally.rollouts)
            outcome = driver.step(policy.roll_out, policy.measure)
            idle = 0 if outcome.generated else idle + 1
            tally.note(outcome, policy)
    return tally.measures()


@contextmanager
def _quiet_driver() -> Iterator[None]:
    """Steps in which a strategy had to be stopped are counted here, not warned of one by one."""
    logger = logging.getLogger("dopr.core.driver")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# -- several strategies ----------------------------------------------------------------------


def replay(
    history: History,
    strategies: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    settings: ReplaySettings | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Replay several strategies over several seeds.

    Args:
        history: the record.
        strategies: names as `make_strategy` takes them; None: all strategies and presets.
        options: options of a strategy, by its name.
        settings: budget, sizes and seeds.
        progress: called with a strategy's name when its runs are done.

    Returns:
        `strategies`: by name, best informative share first; each measure as `mean`, `low`, `high`
        (95% bootstrap interval over seeds), the counts `rollouts`, `steps` and `abandoned_steps`
        as means:

        - `informative_share` of all groups generated;
        - `mean_p1p`: p(1 - p) of the prompts rolled out, p as recorded for that time;
        - `regret`: the same of the pool's best prompts at that time, as many as the step trained
          on, minus `mean_p1p`: what an oracle would have gained;
        - `coverage`: share of the pool that was visited;
        - `kept_share`: kept rollouts over generated ones (above 1 where old ones are replayed);
        - `rollouts_to_see_learnable`: until every learnable prompt had its visits; null, and so is
          the mean, where a run never got there; `reached` counts the runs that did.

        `skipped`: by name, why a strategy was not replayed. `history`, `settings`, `note`.

    Raises:
        UserError: an unknown name or option, or nothing that can be replayed.
    """
    settings, options = settings or ReplaySettings(), options or {}
    settings.check()
    settings = settings.resolve(history)
    names = list(dict.fromkeys(strategies or [*STRATEGIES, *PRESETS]))
    for name in options:
        if name not in names:
            raise unknown_name("strategy among those replayed", name, names)
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    tasks = [(history, name, options.get(name, {}), settings) for name in names]
    for name, runs in zip(names, _all_runs(tasks, settings.jobs), strict=True):
        progress(name)
        if isinstance(runs, UserError):
            asked_for = bool(strategies) or name in options
            if asked_for and not isinstance(runs, NotReplayable):
                raise runs
            skipped[name] = str(runs)
        else:
            found[name] = _over_seeds(runs)
    if not found:
        raise UserError("; ".join(f"strategy {name!r}: {why}" for name, why in skipped.items()))
    ranked = sorted(found, key=lambda name: -(found[name]["informative_share"]["mean"] or 0.0))
    return {
        "strategies": {name: found[name] for name in ranked},
        "skipped": skipped,
        "history": history.facts(),
        "settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "jobs"},
        "note": NOTE,
    }


_Task = tuple[History, str, Mapping[str, Any], ReplaySettings]
_Runs = list[dict[str, float | None]] | UserError


def _all_runs(tasks: Sequence[_Task], jobs: int) -> Iterator[_Runs]:
    """The runs of each strategy, in the order of the tasks."""
    if jobs == 1 or len(tasks) == 1:
        yield from map(_runs, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_runs, tasks)


def _runs(task: _Task) -> _Runs:
    """A strategy's runs over the seeds, or why there are none."""
    history, name, options, settings = task
    runs = []
    try:
        for seed in range(settings.seeds):
            strategy = _make(name, options, settings)
            if missing := _missing(strategy):
                raise NotReplayable(f"needs {missing} of the policy: not replayable")
            runs.append(replay_once(history, strategy, settings, seed))
    except UserError as error:
        return error
    return runs


def _make(name: str, options: Mapping[str, Any], settings: ReplaySettings) -> Strategy:
    """A fresh strategy with the settings' sizes where neither options nor preset name them."""
    filled = {"num_generations": settings.group_size} | dict(options)
    strategy = make_strategy(name, **filled)
    known = {f.name for f in dataclasses.fields(strategy) if f.init}
    open_ = name not in _ONE_PROMPT and "prompts_per_step" in known - filled.keys()
    if settings.prompts_per_step and open_:
        filled["prompts_per_step"] = settings.prompts_per_step
        strategy = make_strategy(name, **filled)
    return strategy


def _missing(strategy: Strategy) -> str:
    """What the strategy needs that no record holds, in words; empty if nothing."""
    quantities = sorted(strategy.measures - CAN_MEASURE)
    if strategy.reads_entropies:
        quantities.append("each rollout's entropy")
    if strategy.reads_final_answers:
        quantities.append("the rollouts' answers")
    return " and ".join(quantities)


def _over_seeds(runs: list[dict[str, float | None]]) -> dict[str, Any]:
    """Means with 95% bootstrap intervals; a run that never arrived counts as infinite."""
    result: dict[str, Any] = {}
    for name in runs[0]:
        values = np.array([np.inf if run[name] is None else run[name] for run in runs], dtype=float)
        mean = finite(values.mean())
        if name in _COUNTS:
            result[name] = round(mean or 0)
        else:
            low, high = interval(values, np.mean)
            result[name] = {"mean": mean, "low": low, "high": high}
    reached = sum(run["rollouts_to_see_learnable"] is not None for run in runs)
    result["rollouts_to_see_learnable"]["reached"] = reached
    return result

"""What is to be compared: strategies, seeds, budgets, the target, and how rates are tuned."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dopr.errors import UserError, unknown_name
from dopr.mapping import at_least, build, merge
from dopr.settings import TrainSettings

METRICS = ("avg@k", "pass@k")
TUNING_RULES = ("area", "final")
# Keys of a strategy's entry that are not settings of a run.
_OWN_KEYS = ("learning_rates", "learning_rate_from")


@dataclass
class TargetPlan:
    """When a run counts as having arrived.

    Args:
        metric: `avg@k` or `pass@k`.
        value: what the metric must reach.
        fraction_of_best: instead of a value, this share of the best strategy's median final.
        sustain: the mean of so many evaluations in a row must reach it; 1 asks for a single one.
    """

    metric: str = "avg@k"
    value: float | None = None
    fraction_of_best: float | None = None
    sustain: int = 1

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.sustain == 1:
            arrival = "the first evaluation at or above the value; no interpolation"
        else:
            arrival = (
                f"the first evaluation from which on the mean of {self.sustain} evaluations in a "
                "row is at or above the value; no interpolation"
            )
        if self.value is not None:
            return arrival
        return f"{arrival}; the value is {self.fraction_of_best:g} of the best median final"


@dataclass
class TuningPlan:
    """How learning rates are chosen, on seeds that are not reported.

    Args:
        seeds: of the tuning runs.
        max_rollouts: of a tuning run; null takes the strategy's own budget.
        rule: `area`, the metric's mean over the rollouts of the run, or `final`, its end.
    """

    seeds: list[int] = field(default_factory=lambda: [1000])
    max_rollouts: int | None = None
    rule: str = "area"


@dataclass
class PoolPlan:
    """How the pool's signal rate is measured at the start; the rollouts are not counted.

    Args:
        measure: whether to.
        num_prompts: a sample of so many prompts; null takes all.
        group_size: rollouts a group; null takes `num_generations`.
    """

    measure: bool = True
    num_prompts: int | None = None
    group_size: int | None = None


@dataclass
class ComparePlan:
    """A comparison.

    Args:
        strategies: name in the tables -> settings of its runs that differ from `base`; also
            `learning_rates` (a list to tune over) or one `learning_rate`, with `learning_rate_from`
            saying where that was tuned.
        base: settings shared by all runs, as `dopr train` knows them.
        seeds: every strategy is run with each.
        output_dir: where the runs, their tuning and comparison.json go.
        target: what the costs are measured up to.
        tuning: see `TuningPlan`.
        pool: see `PoolPlan`.
        final_window: a run's final result is the mean of so many last evaluations.
        headline: ratios are taken of these strategies to all others.
        threads: torch threads of every run; null leaves the setting alone.
    """

    strategies: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    output_dir: str = "runs/compare"
    target: TargetPlan = field(default_factory=TargetPlan)
    tuning: TuningPlan = field(default_factory=TuningPlan)
    pool: PoolPlan = field(default_factory=PoolPlan)
    final_window: int = 1
    headline: list[str] = field(default_factory=lambda: ["dopr"])
    threads: int | None = None

    def check(self) -> None:
        """Refuse a plan that cannot be carried out, before anything runs.

        Raises:
            UserError: naming the setting and the mend.
        """
        if not self.strategies or not self.seeds:
            raise UserError("a comparison needs at least one strategy and one seed")
        at_least(self, 1, "final_window", "threads")
        at_least(self.target, 1, "sustain")
        self._check_target()
        if self.tuning.rule not in TUNING_RULES:
            raise unknown_name("tuning.rule", self.tuning.rule, TUNING_RULES)
        for name, changes in self.strategies.items():
            if not isinstance(changes, dict):
                raise UserError(f"`strategies.{name}` must be a mapping of settings")
            if "/" in name or name.startswith("."):
                raise UserError(f"strategy name {name!r} must be usable as a folder's name")
        self._check_tuning()
        for name in self.strategies:
            settings = self.settings(name, self.seeds[0], self.learning_rates(name)[0])
            settings.check()
            if not settings.eval_dataset:
                raise UserError("a comparison needs held-out prompts; give `base.eval_dataset`")

    def _check_target(self) -> None:
        if self.target.metric not in METRICS:
            raise unknown_name("target.metric", self.target.metric, METRICS)
        if (self.target.value is None) == (self.target.fraction_of_best is None):
            raise UserError("give either `target.value` or `target.fraction_of_best`")

    def _check_tuning(self) -> None:
        counts = {n: len(self.learning_rates(n)) for n in self.strategies if self.needs_tuning(n)}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the strategies have unequal numbers of learning_rates to tune over ({counts}); "
                "equal terms need equal numbers"
            )
        if counts and set(self.tuning.seeds) & set(self.seeds):
            raise UserError("tuning.seeds and seeds overlap; tune on seeds that are not reported")

    # -- what follows from it -----------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return Path(self.output_dir)

    def learning_rates(self, name: str) -> list[float]:
        """The rates to tune over; a single one where it is given."""
        changes = self.strategies[name]
        rates = changes.get("learning_rates")
        if rates is None:
            rate = changes.get("learning_rate", self.base.get("learning_rate"))
            rates = [TrainSettings.learning_rate if rate is None else rate]
        if not isinstance(rates, list) or not rates:
            raise UserError(f"`strategies.{name}.learning_rates` must be a list of numbers")
        try:
            return [float(rate) for rate in rates]
        except (TypeError, ValueError):
            raise UserError(f"`strategies.{name}.learning_rates` must be numbers") from None

    def needs_tuning(self, name: str) -> bool:
        return len(self.learning_rates(name)) > 1

    def settings(self, name: str, seed: int, learning_rate: float) -> TrainSettings:
        """Settings of a reported run."""
        run_dir = self.folder / "runs" / name / f"seed-{seed}"
        return self._settings(name, seed, learning_rate, run_dir, None)

    def tuning_settings(self, name: str, seed: int, learning_rate: float) -> TrainSettings:
        """Settings of a tuning run."""
        run_dir = self.folder / "tuning" / name / f"lr-{learning_rate:g}" / f"seed-{seed}"
        return self._settings(name, seed, learning_rate, run_dir, self.tuning.max_rollouts)

    def _settings(
        self, name: str, seed: int, learning_rate: float, run_dir: Path, rollouts: int | None
    ) -> TrainSettings:
        changes = {k: v for k, v in self.strategies[name].items() if k not in _OWN_KEYS}
        fixed = {"seed": seed, "learning_rate": learning_rate, "output_dir": str(run_dir)}
        for key in ("seed", "output_dir"):
            if key in changes or key in self.base:
                raise UserError(f"`{key}` of a run is set by the comparison; remove it")
        if rollouts is not None:
            fixed["max_rollouts"] = rollouts
        values = {"save_total_limit": 1} | merge(self.base, changes) | fixed
        if self.threads is not None:
            values["threads"] = self.threads
        known = {f.name for f in dataclasses.fields(TrainSettings)}
        for key in changes:
            if key not in known:
                raise unknown_name("setting", f"strategies.{name}.{key}", [*known, *_OWN_KEYS])
        return build(TrainSettings, values)

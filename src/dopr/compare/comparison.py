"""What is to be compared: strategies, seeds, budgets, the target, and how rates are tuned."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dopr.core.configuration import above_zero, at_least, build, check_seeds, merge
from dopr.core.errors import UserError, unknown_name
from dopr.runs.settings import TrainSettings

METRICS = ("avg@k", "pass@k")
TUNING_RULES = ("area", "final")
# Keys of a strategy's entry that are not settings of a run.
_OWN_KEYS = ("learning_rates", "learning_rate_from", "tries")

Try = dict[str, Any]


@dataclass
class Target:
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
class Tuning:
    """How learning rates are chosen, on seeds that are not reported.

    Args:
        seeds: of the tuning runs.
        max_rollouts: of a tuning run; null takes the strategy's own budget.
        rule: `area`, the metric's mean over the rollouts of the run, or `final`, its end.
        from_file: tuning.json of another comparison (or its folder), whose choices are taken
            instead of tuning here; a strategy that is not in it takes its first try.
    """

    seeds: list[int] = field(default_factory=lambda: [1000])
    max_rollouts: int | None = None
    rule: str = "area"
    from_file: str | None = None


@dataclass
class PoolMeasurement:
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
class Comparison:
    """A comparison.

    Args:
        strategies: name in the tables -> settings of its runs that differ from `base`; also
            `tries` (a list of further settings to tune over) or `learning_rates` (the same for
            rates alone), or one `learning_rate`, with `learning_rate_from` saying where that was
            tuned.
        base: settings shared by all runs, as `dopr train` knows them.
        seeds: every strategy is run with each.
        output_dir: where the runs, their tuning and comparison.json go.
        target: what the costs are measured up to.
        tuning: see `Tuning`.
        pool: see `PoolMeasurement`.
        final_window: a run's final result is the mean of so many last evaluations.
        headline: ratios are taken of these strategies to all others.
        threads: torch threads of every run; null leaves the setting alone.
    """

    strategies: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    output_dir: str = "runs/compare"
    target: Target = field(default_factory=Target)
    tuning: Tuning = field(default_factory=Tuning)
    pool: PoolMeasurement = field(default_factory=PoolMeasurement)
    final_window: int = 1
    headline: list[str] = field(default_factory=lambda: ["dopr"])
    threads: int | None = None

    def check(self) -> None:
        """Refuse a comparison that cannot be carried out, before anything runs.

        Raises:
            UserError: naming the setting and the mend.
        """
        if not self.strategies or not self.seeds:
            raise UserError("a comparison needs at least one strategy and one seed")
        at_least(self, 1, "final_window", "threads")
        at_least(self.target, 1, "sustain", where="target.")
        at_least(self.pool, 1, "num_prompts", where="pool.")
        at_least(self.pool, 2, "group_size", where="pool.")
        at_least(self.tuning, 1, "max_rollouts", where="tuning.")
        above_zero(self.target, "fraction_of_best", where="target.")
        for name, seeds in (("seeds", self.seeds), ("tuning.seeds", self.tuning.seeds)):
            check_seeds({f"{name}[{i}]": seed for i, seed in enumerate(seeds)})
            if len(set(seeds)) < len(seeds):
                raise UserError(f"{name} holds a seed twice, which is one run; name it once")
        self._check_target()
        if self.tuning.rule not in TUNING_RULES:
            raise unknown_name("tuning.rule", self.tuning.rule, TUNING_RULES)
        for name, changes in self.strategies.items():
            if not isinstance(changes, dict):
                raise UserError(f"`strategies.{name}` must be a mapping of settings")
            if not name or "/" in name or name.startswith("."):
                raise UserError(f"strategy name {name!r} must be usable as a folder's name")
        for name in self.headline:
            if name not in self.strategies and self.headline != ["dopr"]:
                raise unknown_name("strategy in `headline`", name, self.strategies)
        self._check_tuning()
        self.chosen_elsewhere()
        for name in self.strategies:
            for changes in self.tries(name):
                settings = self.settings(name, self.seeds[0], changes)
                settings.check()
            if not settings.eval_dataset:
                raise UserError("a comparison needs held-out prompts; give `base.eval_dataset`")

    def _check_target(self) -> None:
        if self.target.metric not in METRICS:
            raise unknown_name("target.metric", self.target.metric, METRICS)
        if (self.target.value is None) == (self.target.fraction_of_best is None):
            raise UserError("give either `target.value` or `target.fraction_of_best`")

    def _check_tuning(self) -> None:
        counts = {n: len(self.tries(n)) for n in self.strategies if self.needs_tuning(n)}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the strategies have unequal numbers of learning_rates or tries to tune over "
                f"({counts}); equal terms need equal numbers"
            )
        if counts and not self.tuning.seeds:
            raise UserError("there is something to tune, but tuning.seeds is empty; give a seed")
        if counts and set(self.tuning.seeds) & set(self.seeds):
            raise UserError("tuning.seeds and seeds overlap; tune on seeds that are not reported")

    # -- what follows from it -----------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output_dir)

    def tries(self, name: str) -> list[Try]:
        """The settings to tune over, a single entry where nothing is tuned."""
        changes = self.strategies[name]
        if "tries" in changes and "learning_rates" in changes:
            raise UserError(f"`strategies.{name}` has `tries` and `learning_rates`; keep one")
        if "tries" in changes:
            tries = changes["tries"]
            if not isinstance(tries, list) or not tries or not all(map(_is_settings, tries)):
                raise UserError(f"`strategies.{name}.tries` must be a list of mappings of settings")
            return [dict(one) for one in tries]
        rates = changes.get("learning_rates")
        if rates is None:
            return [{}]
        if not isinstance(rates, list) or not rates:
            raise UserError(f"`strategies.{name}.learning_rates` must be a list of numbers")
        try:
            return [{"learning_rate": float(rate)} for rate in rates]
        except (TypeError, ValueError):
            raise UserError(f"`strategies.{name}.learning_rates` must be numbers") from None

    def needs_tuning(self, name: str) -> bool:
        """Whether a strategy has several tries and none is chosen beforehand."""
        return len(self.tries(name)) > 1 and self.tuning.from_file is None

    def chosen_elsewhere(self) -> dict[str, Any]:
        """What `tuning.from_file` holds; nothing where it is not given.

        Raises:
            UserError: it is missing, or no tuning.json.
        """
        if self.tuning.from_file is None:
            return {"strategies": {}}
        file = Path(self.tuning.from_file)
        file = file / "tuning.json" if file.is_dir() else file
        if not file.is_file():
            raise UserError(f"there is no tuning file {str(file)!r}; finish that comparison first")
        try:
            found = json.loads(file.read_text())
        except ValueError:
            found = None
        entries = found.get("strategies") if isinstance(found, dict) else None
        if not isinstance(entries, dict) or not all(map(_is_chosen, entries.values())):
            raise UserError(f"{str(file)!r} is no tuning.json of a comparison")
        return {
            **found,
            "strategies": {n: e for n, e in found["strategies"].items() if n in self.strategies},
        }

    def settings(self, name: str, seed: int, chosen: Try) -> TrainSettings:
        """Settings of a reported run, with the try that was chosen."""
        run_dir = self.folder / "runs" / name / f"seed-{seed}"
        return self._settings(name, seed, chosen, run_dir, None)

    def tuning_settings(self, name: str, seed: int, number: int) -> TrainSettings:
        """Settings of a tuning run of one try."""
        run_dir = self.folder / "tuning" / name / self.try_label(name, number) / f"seed-{seed}"
        tried = self.tries(name)[number]
        return self._settings(name, seed, tried, run_dir, self.tuning.max_rollouts)

    def try_label(self, name: str, number: int) -> str:
        """A try's name as a folder."""
        tried = self.tries(name)[number]
        if set(tried) == {"learning_rate"}:
            return f"lr-{tried['learning_rate']:g}"
        return f"try-{number + 1}"

    def _settings(
        self, name: str, seed: int, tried: Try, run_dir: Path, rollouts: int | None
    ) -> TrainSettings:
        changes = {k: v for k, v in self.strategies[name].items() if k not in _OWN_KEYS}
        changes = merge(changes, tried)
        fixed = {"seed": seed, "output_dir": str(run_dir)}
        for key in fixed:
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
                prefix = f"strategies.{name}."
                names = [prefix + each for each in (*known, *_OWN_KEYS)]
                raise unknown_name("setting", prefix + key, names)
        return build(TrainSettings, values)


def _is_chosen(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("chosen"), dict)


def _is_settings(value: Any) -> bool:
    return isinstance(value, dict)

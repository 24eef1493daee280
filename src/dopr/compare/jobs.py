"""The runs of a comparison one by one, for a cluster's queue or several cores.

    dopr compare --config plan.yaml --list-runs |
        xargs -P 2 -n 1 dopr compare --config plan.yaml --run

lists what is still missing: the tuning runs first, the reported ones once those are finished.
`dopr compare --config plan.yaml` then finds every run done and writes the comparison.
"""

from collections.abc import Iterator
from pathlib import Path

from dopr.compare.plan import ComparePlan, Try
from dopr.compare.run import open_folder, run_training
from dopr.compare.tuning import tune
from dopr.errors import UserError, unknown_name
from dopr.settings import TrainSettings
from dopr.train import TrainResult, finished_result

Runs = dict[str, TrainSettings]


def missing_runs(plan: ComparePlan) -> list[str]:
    """Names of the runs that can be made now and are not finished."""
    plan.check()
    return [name for name, settings in _runs(plan).items() if not _is_done(settings)]


def run_one_of(plan: ComparePlan, name: str, quiet: bool = False) -> TrainResult | None:
    """Make (or go on with) the run that `missing_runs` calls `name`.

    Returns:
        None when it was stopped by a signal.

    Raises:
        UserError: there is no such run, or the tuning that it needs is not finished.
    """
    open_folder(plan)
    runs = _runs(plan)
    if name not in runs:
        if name in _names_of_reported(plan):
            raise UserError(
                f"run {name!r} needs the tuning to be finished; make the runs of --list-runs first"
            )
        raise unknown_name("run", name, list(runs))
    return run_training(runs[name], name, quiet)


def _runs(plan: ComparePlan) -> Runs:
    """The tuning runs while some are missing, then the reported ones too."""
    tuning = {
        _name(plan, settings): settings
        for strategy in plan.strategies
        if plan.needs_tuning(strategy)
        for number in range(len(plan.tries(strategy)))
        for seed in plan.tuning.seeds
        for settings in [plan.tuning_settings(strategy, seed, number)]
    }
    if not all(_is_done(settings) for settings in tuning.values()):
        return tuning
    found = tune(plan, lambda settings, label: finished_result(settings))
    assert found is not None  # every tuning run is finished
    chosen = {s: entry["chosen"] for s, entry in found["strategies"].items()}
    return tuning | {_name(plan, settings): settings for settings in _reported(plan, chosen)}


def _reported(plan: ComparePlan, chosen: dict[str, Try]) -> Iterator[TrainSettings]:
    for seed in plan.seeds:
        for strategy in plan.strategies:
            yield plan.settings(strategy, seed, chosen.get(strategy, plan.tries(strategy)[0]))


def _names_of_reported(plan: ComparePlan) -> set[str]:
    return {_name(plan, settings) for settings in _reported(plan, {})}


def _name(plan: ComparePlan, settings: TrainSettings) -> str:
    return str(Path(settings.output_dir).relative_to(plan.folder))


def _is_done(settings: TrainSettings) -> bool:
    return finished_result(settings) is not None

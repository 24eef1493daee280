"""How fast strategies are replayed: `python benchmarks/replay_speed.py`.

Every strategy and preset that a record can serve, with its default options, one seed, one core, on
a made-up record of 605 prompts x 50 epochs x 8 rollouts: 30,250 groups each. Writes
docs/results/replay-speed.json. Target: under 20 s for 20 strategies.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dopr import UserError, make_strategy
from dopr.core.ledger import Ledger
from dopr.offline.histories import History
from dopr.offline.replay import ReplaySettings, replay
from dopr.strategies import PRESETS, STRATEGIES, Group

PROMPTS, EPOCHS, GROUP = 605, 50, 8
STRATEGIES_AIMED_AT = 20
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "replay-speed.json"


def made_up_history() -> History:
    """Success rates that rise along logistic curves; about half of the groups are mixed."""
    rng = np.random.default_rng(0)
    ability = rng.normal(0, 4, (PROMPTS, 1)) + np.linspace(-1, 1.5, EPOCHS)
    rates = rng.binomial(GROUP, 1 / (1 + np.exp(-ability))) / GROUP
    names = tuple(str(i) for i in range(PROMPTS))
    return History(names, rates, np.full(PROMPTS, EPOCHS), GROUP, "given")


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def observe_us(groups_at_once: int) -> float:
    """Microseconds in which the ledger observes one group; the best of five tries."""
    rng = np.random.default_rng(0)
    best = np.inf
    for _ in range(5):
        ledger = Ledger(PROMPTS, 0.9)
        rounds = [
            [
                Group(int(i), rng.integers(0, 2, GROUP).astype(float), np.ones(GROUP, np.int64))
                for i in rng.choice(PROMPTS, groups_at_once, replace=False)
            ]
            for _ in range(2048 // groups_at_once)
        ]
        began = time.perf_counter()
        for groups in rounds:
            ledger.observe(groups)
            ledger.end_step()
        best = min(best, (time.perf_counter() - began) / (len(rounds) * groups_at_once))
    return best * 1e6


def main() -> None:
    history, settings = made_up_history(), ReplaySettings(seeds=1)
    runs, skipped = {}, {}
    for name in [*STRATEGIES, *PRESETS]:
        try:
            make_strategy(name)
            wall, cpu = seconds(lambda name=name: replay(history, [name], settings=settings))  # type: ignore[misc]
        except UserError as error:
            skipped[name] = str(error)
            continue
        runs[name] = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)}
        print(name, runs[name])
    mean_wall, mean_cpu = (
        float(np.mean([run[clock] for run in runs.values()])) for clock in ("wall_s", "cpu_s")
    )
    twenty = [*runs][:STRATEGIES_AIMED_AT]
    shared = ReplaySettings(seeds=1, jobs=os.cpu_count() or 1)
    together, _ = seconds(lambda: replay(history, twenty, settings=shared))
    result = {
        "groups_per_strategy": PROMPTS * EPOCHS,
        "signal_rate": history.facts()["signal_rate"],
        "strategies": runs,
        "skipped": skipped,
        "twenty_strategies_wall_s": round(STRATEGIES_AIMED_AT * mean_wall, 2),
        "twenty_strategies_cpu_s": round(STRATEGIES_AIMED_AT * mean_cpu, 2),
        "twenty_strategies_all_cores_wall_s": round(together, 2),
        "observe_group_us": {str(n): round(observe_us(n), 2) for n in (1, 8, 32, 128)},
        "load_average": round(os.getloadavg()[0], 2),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "numpy": np.__version__,
        "command": "python benchmarks/replay_speed.py",
    }
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""How fast a prompt is chosen among a million: `python benchmarks/ledger_speed.py`.

Writes docs/results/ledger-speed.json. Targets: 64 candidates under 0.1 ms, all under 20 ms, at most
64 bytes a prompt.
"""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dopr.core.ledger import _COLUMNS, Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import DoPR, Group

PROMPTS = 1_000_000
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "ledger-speed.json"


def median_ms(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times))


def main() -> None:
    rng = np.random.default_rng(0)
    ledger, stream = Ledger(PROMPTS, 0.9), PromptStream(PROMPTS)
    strategy, four = DoPR(prompts_per_step=1, prior="pool"), DoPR(prompts_per_step=4, prior="pool")
    ids = rng.choice(PROMPTS, 20_000, replace=False)
    groups = [
        Group(int(i), rng.integers(0, 2, 8).astype(float), np.full(8, 50), entropy=0.5) for i in ids
    ]
    began = time.perf_counter()
    for group in groups:
        ledger.observe([group])
        ledger.end_step()
    observe_us = (time.perf_counter() - began) / len(groups) * 1e6

    def choose_among_64() -> None:
        candidates = stream.draw(64)
        strategy.choose(strategy.score(candidates, ledger), stream)

    def choose_among_all() -> None:
        strategy.choose(strategy.score(None, ledger), stream)

    def choose_four_among_all() -> None:
        four.choose(four.score(None, ledger), stream)

    stream.draw(1)  # the permutation of an epoch is made once
    result = {
        "prompts": PROMPTS,
        "bytes_per_prompt": sum(np.dtype(d).itemsize for d in _COLUMNS.values()),
        "choose_among_64_ms": median_ms(choose_among_64, 2000),
        "choose_among_all_ms": median_ms(choose_among_all, 30),
        "choose_four_among_all_ms": median_ms(choose_four_among_all, 30),
        "observe_group_us": observe_us,
        "new_epoch_ms": median_ms(lambda: PromptStream(PROMPTS).draw(1), 5),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "numpy": np.__version__,
        "command": "python benchmarks/ledger_speed.py",
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

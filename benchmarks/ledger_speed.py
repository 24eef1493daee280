"""How fast prompts are chosen among a million: `python benchmarks/ledger_speed.py`.

Writes docs/results/ledger-speed.json. `dopr` as it comes draws 64 candidates and shares success
rates, by the prompts' embeddings (of as many numbers as those of the tiny model, of Qwen2.5-0.5B
and of Qwen2.5-7B; what the policy takes to read a prompt is not counted) or without. Targets: a
millisecond for all of a step, 256 bytes a prompt read, 100 MB a checkpoint of a million. The plain
rule, the prior `pool`, goes by the ledger alone. Targets for that: 64 candidates under 0.1 ms, all
under 20 ms, at most 64 bytes a prompt. Times are of the processor, so that other work on the
machine counts less.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dopr.core.ledger import _COLUMNS, Ledger
from dopr.core.stream import PromptStream
from dopr.strategies import DoPR, Group, Measure

PROMPTS = 1_000_000
WIDTHS = (128, 896, 3584)
FIRST, TIMED = 100, 1000  # steps: in the first the strategy's memory fills
OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "ledger-speed.json"


def median_ms(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        action()
        times.append((time.thread_time() - began) * 1e3)
    return float(np.median(times))


def shared_rates(width: int) -> tuple[float, int, int]:
    """What `dopr` takes for a step, median over steps in ms, rewards taken in included; bytes of a
    checkpoint's arrays after them, and those among them that grow with the prompts read.

    Args:
        width: numbers in an embedding, 0 where the engine gives none.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5_000, max(width, 1))).astype(np.float32)
    strategy = DoPR()
    strategy.can_measure = frozenset({"embedding"}) if width else frozenset()
    ledger, stream = Ledger(PROMPTS, strategy.ledger_discount), PromptStream(PROMPTS)
    times = []
    for _ in range(FIRST + TIMED):
        plan, seconds = strategy.step(stream, ledger), 0.0
        asked: Any = Measure((), "embedding")
        answer: Any = None
        while isinstance(asked, Measure):
            began = time.thread_time()
            asked = plan.send(answer)
            seconds += time.thread_time() - began
            if isinstance(asked, Measure):
                answer = vectors[np.array(asked.prompt_ids) % len(vectors)]
        times.append(seconds * 1e3)
        groups = [
            Group(r.prompt_id, rng.integers(0, 2, 8).astype(float), np.full(8, 50), ledger.step)
            for r in asked
        ]
        ledger.observe(groups)
        began = time.thread_time()
        with contextlib.suppress(StopIteration):
            plan.send(groups)
        times[-1] += (time.thread_time() - began) * 1e3
        ledger.end_step()
    states = (part.state_dict() for part in (strategy, ledger, stream))
    held = sum(v.nbytes for s in states for v in s.values() if isinstance(v, np.ndarray))
    return float(np.median(times[FIRST:])), held, strategy._features.nbytes // PROMPTS


def main() -> None:
    rng = np.random.default_rng(0)
    ledger, stream = Ledger(PROMPTS, 0.9), PromptStream(PROMPTS)
    strategy, four = DoPR(prompts_per_step=1, prior="pool"), DoPR(prompts_per_step=4, prior="pool")
    ids = rng.choice(PROMPTS, 20_000, replace=False)
    groups = [
        Group(int(i), rng.integers(0, 2, 8).astype(float), np.full(8, 50), entropy=0.5) for i in ids
    ]
    began = time.thread_time()
    for group in groups:
        ledger.observe([group])
        ledger.end_step()
    observe_us = (time.thread_time() - began) / len(groups) * 1e6

    def choose_among_64() -> None:
        candidates = stream.draw(64)
        strategy.choose(strategy.score(candidates, ledger), stream)

    def choose_among_all() -> None:
        strategy.choose(strategy.score(None, ledger), stream)

    def choose_four_among_all() -> None:
        four.choose(four.score(None, ledger), stream)

    stream.draw(1)  # the permutation of an epoch is made once
    found = {width: shared_rates(width) for width in (*WIDTHS, 0)}
    names = {w: f"embeddings of {w}" if w else "no embeddings" for w in found}
    result = {
        "prompts": PROMPTS,
        "bytes_per_prompt": sum(np.dtype(d).itemsize for d in _COLUMNS.values()),
        "dopr_four_of_64_ms": {names[w]: ms for w, (ms, _, _) in found.items()},
        "dopr_checkpoint_bytes": {names[w]: held for w, (_, held, _) in found.items()},
        "dopr_bytes_per_prompt_read": {names[w]: each for w, (_, _, each) in found.items()},
        "plain_one_of_64_ms": median_ms(choose_among_64, 2000),
        "plain_one_of_all_ms": median_ms(choose_among_all, 30),
        "plain_four_of_all_ms": median_ms(choose_four_among_all, 30),
        "observe_group_us": observe_us,
        "new_epoch_ms": median_ms(lambda: PromptStream(PROMPTS).draw(1), 5),
        "load_average": round(os.getloadavg()[0], 2),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "numpy": np.__version__,
        "command": "python benchmarks/ledger_speed.py",
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

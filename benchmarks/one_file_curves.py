"""The curves of examples/one_file.py: two strategies, three seeds, one thread.

    python benchmarks/one_file_curves.py

Writes docs/results/one-file.json, whose medians stand in the example's docstring; two to three
minutes of processor time.
"""

import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "docs" / "results" / "one-file.json"
STRATEGIES, SEEDS = ("dopr", "uniform"), (0, 1, 2)

sys.path.insert(0, str(ROOT / "examples"))

import one_file  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    runs, medians, seconds = {}, {}, []
    for strategy in STRATEGIES:
        curves = []
        for seed in SEEDS:
            began = time.process_time()
            curves.append(one_file.train(strategy, seed))
            seconds.append(round(time.process_time() - began, 1))
        runs[strategy] = dict(zip(map(str, SEEDS), curves, strict=True))
        accuracy = np.median([[share for _, share in curve] for curve in curves], axis=0)
        medians[strategy] = [(n, a) for (n, _), a in zip(curves[0], accuracy.tolist(), strict=True)]
    result = {
        "medians": medians,
        "runs": runs,
        "processor_seconds": seconds,
        "machine": platform.machine(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
        "command": "python benchmarks/one_file_curves.py",
    }
    OUTPUT.write_text(json.dumps(result) + "\n")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()

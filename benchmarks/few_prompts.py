"""The few prompts of a pool that a model is least sure of, by the likelihood of their answers.

    python benchmarks/few_prompts.py --output runs/few-prompts

writes 1.jsonl, 4.jsonl, ... of the pool of `examples/short_answers.py:worked`, each holding the one
before, for configs/studies/smollm2-few.yaml. Nothing is generated.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from dopr.policy.answers import read_answers
from dopr.policy.models import load_model
from dopr.tasks import load_task

SIZES = (1, 4, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dataset", default="examples/short_answers.py:worked")
    parser.add_argument("--output", type=Path, default=Path("runs/few-prompts"))
    options = parser.parse_args()
    rows = load_task(options.dataset, split="train")
    model, tokenizer = load_model(options.model)
    said, _ = read_answers(model, tokenizer, list(rows["prompt"]), list(rows["answer"]), 64)
    likely = np.exp(np.nan_to_num(said, nan=-np.inf))
    order = np.argsort(-likely * (1 - likely), kind="stable")
    options.output.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        kept = rows.select(order[:size].tolist()).to_list()
        lines = [
            json.dumps({name: row[name] for name in ("id", "prompt", "answer")}) for row in kept
        ]
        (options.output / f"{size}.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(SIZES)} files in {options.output}; likelihood of the first 64", end=" ")
    print(f"{likely[order[:64]].min():.2f} to {likely[order[:64]].max():.2f}")


if __name__ == "__main__":
    main()

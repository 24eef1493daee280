"""By how much of the policy prompts should be read: how well like prompts foretell success.

    python benchmarks/prompt_layers.py

For each pool of the tiny model, 200 prompts x 8 answers: correlation of success rates with what
like prompts foretell, whose rates are known, where likeness is that of the mean embedding of tokens
(no layer) or of the mean state after one or more layers. Writes docs/results/prompt-layers.json.
"""

import json
from pathlib import Path

import numpy as np
from answer_likelihood import by_embedding

from dopr.policy.measuring import read_prompts
from dopr.policy.models import load_model
from dopr.policy.sampling import Sampling, sample_rewards
from dopr.rewards import load_reward
from dopr.tasks import load_task

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "prompt-layers.json"
POOLS = [
    f"{family}/{pool}"
    for family in ("leg_counting", "chain_sum", "ab")
    for pool in ("half", "hard")
]


def main() -> None:
    model, tokenizer = load_model("tiny-reasoner")
    layers = range(model.config.num_hidden_layers + 1)
    found = {}
    for pool in POOLS:
        rows = load_task(f"tiny:{pool}", split="train").shuffle(seed=1).select(range(200))
        rewards, _ = sample_rewards(
            model, tokenizer, rows, [load_reward("gym")], 8, Sampling(64), None
        )
        rates = (rewards > 0.5).mean(1)
        found[pool] = {}
        for count in layers:
            states, _ = read_prompts(
                model, tokenizer, list(rows["prompt"]), "embedding", 64, layers=count
            )
            foretold = by_embedding(states, rates, np.random.default_rng(0))
            found[pool][str(count)] = float(np.corrcoef(foretold, rates)[0, 1])
    mean = {str(n): float(np.mean([one[str(n)] for one in found.values()])) for n in layers}
    OUTPUT.write_text(json.dumps({"pools": found, "mean": mean}, indent=2) + "\n")
    print(json.dumps(mean))


if __name__ == "__main__":
    main()

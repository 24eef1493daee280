"""Prompt pools for the tiny model: URLs of reasoning-gym settings, several to a pool.

For each family: `half`, a training pool of 512 prompts in which about half of the groups of 8 carry
a signal at the start; `hard`, one in which about 0.15 do; `eval`, 256 problems within reach that
guesses do not solve. No pool holds a prompt twice, and `eval` shares none with the other two.
"""

from __future__ import annotations

POOLS: dict[str, dict[str, list[str]]] = {
    "chain_sum": {
        "half": [
            "gym:chain_sum?min_terms=1&max_terms=1&min_digits=3&max_digits=3&size=60&seed=2000",
            "gym:chain_sum?min_terms=1&max_terms=1&min_digits=2&max_digits=2&size=20&seed=18000",
            "gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&size=40&seed=42000",
            "gym:chain_sum?min_terms=3&max_terms=6&min_digits=1&max_digits=1&size=234&seed=43000",
            "gym:chain_sum?min_terms=5&max_terms=6&min_digits=4&max_digits=4&size=158&seed=44000",
        ],
        "hard": [
            "gym:chain_sum?min_terms=3&max_terms=6&min_digits=1&max_digits=1&size=80&seed=45000",
            "gym:chain_sum?min_terms=5&max_terms=6&min_digits=4&max_digits=4&size=432&seed=46000",
        ],
        "eval": [
            "gym:chain_sum?min_terms=4&max_terms=6&min_digits=1&max_digits=1&size=256&seed=200000",
        ],
    },
    "leg_counting": {
        "half": [
            "gym:leg_counting?min_animals=1&max_animals=1&min_instances=1&max_instances=3"
            "&size=33&seed=479000",
            "gym:leg_counting?min_animals=1&max_animals=1&min_instances=4&max_instances=6"
            "&size=33&seed=572000",
            "gym:leg_counting?min_animals=1&max_animals=1&min_instances=7&max_instances=9"
            "&size=34&seed=995000",
            "gym:leg_counting?min_animals=2&max_animals=5&max_instances=3&size=232&seed=996000",
            "gym:leg_counting?min_animals=7&max_animals=8&min_instances=10&max_instances=15"
            "&size=180&seed=997000",
        ],
        "hard": [
            "gym:leg_counting?min_animals=2&max_animals=5&max_instances=3&size=70&seed=998000",
            "gym:leg_counting?min_animals=7&max_animals=8&min_instances=10&max_instances=15"
            "&size=442&seed=999000",
        ],
        "eval": [
            "gym:leg_counting?min_animals=3&max_animals=5&max_instances=3&size=256&seed=200000",
        ],
    },
    "ab": {
        "half": [
            "gym:ab?length=3&size=28&seed=518000",
            "gym:ab?length=6&size=87&seed=522000",
            "gym:ab?length=7&size=161&seed=524000",
            "gym:ab?length=14&size=236&seed=525000",
        ],
        "hard": [
            "gym:ab?length=6&size=29&seed=526000",
            "gym:ab?length=7&size=53&seed=527000",
            "gym:ab?length=14&size=430&seed=528000",
        ],
        "eval": [
            "gym:ab?length=7&size=256&seed=349000",
        ],
    },
}

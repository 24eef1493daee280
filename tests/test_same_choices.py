"""What each strategy chooses is what it chose when its choices were recorded.

`python tests/test_same_choices.py` writes them to data/choices.json: to be done where a rule is
meant to choose otherwise, and nowhere else.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.offline.histories import read_histories
from dopr.offline.replay import ReplaySettings, replay
from dopr.strategies import PRESETS, STRATEGIES, Group, Measure, Request, make_strategy

RECORD = Path(__file__).parent / "data" / "choices.json"
POOL, STEPS = 60, 40
MEANS, COUNTS = ("informative_share", "mean_p1p", "coverage"), ("rollouts", "steps")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dopr": ("dopr", {}),
    "dopr one prompt": ("dopr", {"prompts_per_step": 1, "exploration": 0.15}),
    "dopr bonus by policy": ("dopr", {"exploration": 0.5, "entropy": "policy"}),
    "dopr bonus inverse": ("dopr", {"exploration": 0.5, "entropy": "inverse"}),
    "dopr bonus plain": ("dopr", {"exploration": 0.5, "entropy": "none", "discount": 0.9}),
    "dopr found": ("dopr", {"balance": 1.0, "room": 0.0, "signal_std": 0.2}),
    "dopr pool": ("dopr", {"prior": "pool", "exploration": 0.15}),
    "dopr pool strong": ("dopr", {"prior": "pool", "prior_strength": 9.0, "volatility": "within"}),
    "dopr optimistic": ("dopr", {"prior": "optimistic", "volatility": "between"}),
    "dopr-paper": ("dopr-paper", {}),
    "dopr-paper pool": ("dopr-paper", {"prior": "pool", "prompts_per_step": 3}),
    "dopr-paper within": ("dopr-paper", {"volatility": "within", "entropy": "inverse"}),
    "dopr-paper between": ("dopr-paper", {"volatility": "between", "entropy": "policy"}),
}


class Pool:
    """Prompts that get easier as they are rolled out; embeddings tell of where they began."""

    def __init__(self, graded: bool) -> None:
        self.rng = np.random.default_rng(7)
        self.skill = np.linspace(-3.0, 3.0, POOL)
        noise = self.rng.normal(size=(POOL, 3))
        self.embeddings = np.column_stack([self.skill + 0.3 * noise[:, 0], noise])
        self.graded, self.step = graded, 0

    def roll_out(self, requests: list[Request]) -> list[Group]:
        groups = []
        for request in requests:
            i, n = request.prompt_id, request.num_rollouts
            rate = 1 / (1 + np.exp(-self.skill[i]))
            rewards = (self.rng.random(n) < rate).astype(float)
            if self.graded:
                rewards = 0.5 * rewards + 0.25 * self.rng.random(n)
            self.skill[i] += 0.1
            tokens, entropies = self.rng.integers(1, 9, size=n), self.rng.random(n)
            groups.append(Group(i, rewards, tokens, self.step, float(entropies.mean()), entropies))
        return groups

    def measure(self, asked: Measure) -> tuple[np.ndarray, int]:
        rows = list(asked.prompt_ids)
        if asked.quantity == "embedding":
            return self.embeddings[rows], len(rows)
        if asked.quantity == "perplexity":
            return np.exp(-self.skill[rows]), len(rows)
        return 1 / (1 + np.exp(-self.skill[rows])), 0


def play(name: str, options: dict[str, Any], measured: bool, graded: bool) -> dict[str, Any]:
    """What a strategy rolls out on the pool: the first ids, and a digest of all requests."""
    can = frozenset({"embedding", "perplexity", "success_rate"}) if measured else frozenset()
    driver = Driver(make_strategy(name, **options), PromptStream(POOL, 3), can_measure=can)
    pool, chosen = Pool(graded), []
    for _ in range(STEPS):
        outcome = driver.step(pool.roll_out, pool.measure)
        chosen += [(g.prompt_id, g.num_rollouts, g.num_kept) for g in outcome.generated]
        pool.step = driver.ledger.step
        driver.ledger.observe_policy_entropy(1 / (1 + driver.ledger.step))
    digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()
    return {"first": [i for i, *_ in chosen[:12]], "groups": len(chosen), "digest": digest[:16]}


def played() -> dict[str, Any]:
    found = {}
    for label, (name, options) in VARIANTS.items():
        for measured in (False, True):
            for graded in (False, True):
                key = f"{label}{', measured' * measured}{', graded' * graded}"
                found[key] = play(name, options, measured, graded)
    # The groups of `graph` come from eigenvectors, which are not those of every SciPy either.
    for name in sorted({*STRATEGIES, *PRESETS} - {"one_shot", "graph"}):
        # The numbers of SciPy's solver are not those of every SciPy.
        options = {"solver": "exact"} if name == "vip" else {}
        found.setdefault(name, play(name, options, True, False))
    return found


def replayed(folder: Path) -> dict[str, Any]:
    """A replay of every strategy on a small record of 40 prompts over 6 epochs."""
    rng = np.random.default_rng(11)
    rates = np.clip(np.linspace(-0.4, 1.4, 40)[:, None] + 0.06 * np.arange(6), 0, 1)
    record = {str(i): (rng.binomial(8, row) / 8).tolist() for i, row in enumerate(rates)}
    file = folder / "history.json"
    file.write_text(json.dumps(record))
    result = replay(read_histories([file]), settings=ReplaySettings(seeds=2))["strategies"]
    means = {name: {m: found[m]["mean"] for m in MEANS} for name, found in result.items()}
    return {n: means[n] | {c: found[c] for c in COUNTS} for n, found in result.items()}


def test_each_strategy_chooses_as_when_it_was_measured() -> None:
    recorded, found = json.loads(RECORD.read_text())["played"], played()
    assert found.keys() == recorded.keys()
    assert {key: value for key, value in found.items() if recorded[key] != value} == {}


def test_a_replay_gives_the_recorded_figures(tmp_path: Path) -> None:
    recorded = json.loads(RECORD.read_text())["replayed"]
    found = replayed(tmp_path)
    assert found.keys() == recorded.keys()
    for name, figures in recorded.items():
        assert found[name] == pytest.approx(figures, abs=1e-12), name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        content = {"played": played(), "replayed": replayed(Path(folder))}
    RECORD.parent.mkdir(exist_ok=True)
    lines = [
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
        for part, entries in content.items()
    ]
    RECORD.write_text("{" + "\n},\n".join(lines) + "\n}}\n")

"""Makes small run and comparison directories that look like real ones, without any training."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HOSTILE = (
    '<script>window.__pwned=1</script><img src=x onerror="window.__pwned=1">'
    "</script><!-- <b onmouseover='window.__pwned=1'> \u2028 \u2029 &lt;"
)
STRATEGIES: dict[str, dict[str, Any]] = {
    "dopr": {"prompts": 1, "steps": 160, "rate": 3e-5, "speed": 0.0022, "top": 0.89},
    "grpo": {"prompts": 64, "steps": 16, "rate": 2e-4, "speed": 0.00028, "top": 0.88},
    "uniform-tuned": {"prompts": 8, "steps": 80, "rate": 1e-4, "speed": 0.0007, "top": 0.83},
    "own.py:mine": {"prompts": 2, "steps": 60, "rate": 1e-4, "speed": 0.0006, "top": 0.6},
}
POOL = 128


class Page(HTMLParser):
    """Collects elements with their attributes, and the content of JSON script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.json: dict[str, str] = {}
        self._id: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._id:
            self.json[self._id] = self.json.get(self._id, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._id = None


def write_jsonl(path: Path, records: list[dict[str, Any]], tail: str = "") -> None:
    """One object a line; `tail` is appended as it is, such as a line cut in the middle."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail, encoding="utf-8")


def make_run(path: Path, strategy: str, seed: int, hostile: str = "") -> Path:
    """A whole run directory: config, metrics, evaluations, ledger and completions.

    Args:
        hostile: put at the start of every completion, of every fifth prompt and of one prompt id.
    """
    setting = STRATEGIES[strategy]
    rng = np.random.default_rng([seed, len(strategy)])
    path.mkdir(parents=True, exist_ok=True)
    lines = [f"strategy: {strategy}", f"seed: {seed}", f"learning_rate: {setting['rate']}"]
    lines += ["rewards: [math_reward, format_reward]", f"note: {json.dumps(hostile)}"]
    (path / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = [f"{i * 2654435761 % 2**32:08x}" for i in range(POOL)]
    ids[3] += hostile
    difficulty = rng.uniform(-2.5, 2.5, POOL)
    metrics, evals, rows = [], [], []
    seen: dict[int, list[float]] = {}
    rollouts = 0
    for step in range(setting["steps"] + 1):
        skill = 0.3 + (setting["top"] - 0.3) * (1 - np.exp(-setting["speed"] * rollouts))
        if step % max(1, setting["steps"] // 16) == 0:
            evals.append(_evaluation(step, rollouts, skill + rng.normal(0, 0.012)))
        if step == setting["steps"]:
            break
        chosen = rng.choice(POOL, setting["prompts"], replace=False)
        chance = 1 / (1 + np.exp(-(8 * (skill - 0.5) - difficulty[chosen])))
        success = rng.binomial(8, chance) / 8
        rollouts += 8 * len(chosen)
        for prompt, rate in zip(chosen, success, strict=True):
            seen.setdefault(int(prompt), []).append(float(rate))
        metrics.append(_step(step, rollouts, [ids[i] for i in chosen], success, len(seen)))
        if step % 4 == 0:
            prompt = int(chosen[0])
            rows += _completions(step, ids[prompt], prompt, float(success[0]), rng, hostile)
    write_jsonl(path / "metrics.jsonl", metrics)
    write_jsonl(path / "eval.jsonl", evals)
    _write_ledger(path / "ledger.parquet", ids, seen)
    (path / "completions").mkdir()
    pd.DataFrame(rows).to_parquet(path / "completions" / "completions_00001.parquet")
    return path


def _evaluation(step: int, rollouts: int, accuracy: float) -> dict[str, Any]:
    return {
        "step": step,
        "rollouts_total": rollouts,
        "generated_tokens_total": rollouts * 37,
        "tokens_total": rollouts * 37,
        "wall_s": rollouts * 0.011 + step * 0.05,
        "avg@k": accuracy,
        "avg@k_low": accuracy - 0.03,
        "avg@k_high": accuracy + 0.03,
        "pass@k": min(1.0, accuracy + 0.1),
        "pass@k_low": min(1.0, accuracy + 0.08),
        "pass@k_high": min(1.0, accuracy + 0.12),
        "k": 8,
        "temperature": 1.0,
        "num_prompts": 200,
    }


def _step(
    step: int, rollouts: int, ids: list[str], success: np.ndarray, distinct: int
) -> dict[str, Any]:
    mixed = float(np.mean((success > 0) & (success < 1)))
    return {
        "step": step,
        "reward": float(success.mean()),
        "reward_std": float("nan") if step == 1 else float(success.std()),
        "frac_reward_zero_std": 1 - mixed,
        "completions/mean_length": 30 + 10 * float(success.mean()),
        "entropy": None if step == 2 else 0.9 * float(np.exp(-step / 200)),
        "step_time": 0.1,
        "rollout/rollouts_total": rollouts,
        "rollout/generated_tokens_total": rollouts * 37,
        "rollout/kept_total": rollouts,
        "select/prompt_ids": ids,
        "select/success": success.tolist(),
        "select/score": [1.0] * len(ids),
        "select/coverage": distinct / POOL,
        "select/signal_rate": mixed,
    }


def _completions(
    step: int, key: str, prompt: int, rate: float, rng: np.random.Generator, hostile: str
) -> list[dict[str, Any]]:
    question = f"What is the sum of {prompt} and {prompt * 3} and 17, modulo 10?"
    question = hostile + question if prompt % 5 == 0 else question
    answer = (prompt * 4 + 17) % 10
    rows = []
    for i in range(8):
        right = i < round(rate * 8)
        said = answer if right else (answer + int(rng.integers(1, 10))) % 10
        text = f"{prompt} + {prompt * 3} = {prompt * 4}\n{prompt * 4} + 17 = {prompt * 4 + 17}\n"
        rows.append(
            {
                "step": step,
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": f"{hostile}{text}#### {said}"}],
                "math_reward": float(right),
                "format_reward": None if i == 7 else 1.0,
                "prompt_id": key,
                "answer": str(answer),
                "advantage": float(right) - rate,
            }
        )
    return rows


def _write_ledger(path: Path, ids: list[str], seen: dict[int, list[float]]) -> None:
    visits = [len(seen.get(i, [])) for i in range(POOL)]
    table = {
        "id": ids,
        "visits": visits,
        "rollouts": [8 * n for n in visits],
        "mean": [float(np.mean(seen[i])) if i in seen else float("nan") for i in range(POOL)],
        "volatility": [0.5] * POOL,
        "entropy": [0.4] * POOL,
        "last_step": [1] * POOL,
        "tokens": [8 * 37 * n for n in visits],
    }
    pd.DataFrame(table).to_parquet(path)


def make_comparison(path: Path, seeds: int = 3, hostile: str = "") -> Path:
    """A finished comparison of four strategies, of which one never reaches the target."""
    for strategy in STRATEGIES:
        for seed in range(seeds):
            make_run(path / "runs" / strategy / f"seed-{seed}", strategy, seed, hostile)
    (path / "config.yaml").write_text("strategies: [dopr, grpo]\nseeds: 3\n", encoding="utf-8")
    (path / "comparison.json").write_text(json.dumps(comparison(seeds)), encoding="utf-8")
    return path


def _cost(
    median: float | None, low: float | None, high: float | None, hits: int
) -> dict[str, float | int | None]:
    return {"median": median, "low": low, "high": high, "reached": hits}


def comparison(seeds: int = 3) -> dict[str, Any]:
    """The content of comparison.json to go with `make_comparison`."""
    medians = {"dopr": 512.0, "grpo": 5632.0, "uniform-tuned": 2112.0, "own.py:mine": None}
    entries = {}
    for name, median in medians.items():
        hits = 0 if median is None else seeds - (name == "uniform-tuned")
        bounds = [None, None, None] if median is None else [median, 0.9 * median, 1.2 * median]
        if name == "uniform-tuned":
            bounds[2] = None
        entries[name] = {
            "seeds": list(range(seeds)),
            "learning_rate": STRATEGIES[name]["rate"],
            "rollouts_to_target": _cost(*bounds, hits),
            "tokens_to_target": _cost(*(b and b * 37 for b in bounds), hits),
            "wall_s_to_target": _cost(*(b and b * 0.0123 for b in bounds), hits),
            "final": {"median": 0.87, "low": 0.85, "high": 0.89},
        }
    ratio = {"median": 0.0909, "low": 0.08, "high": 0.11}
    return {
        "target": {"metric": "avg@8", "value": 0.8, "rule": "first evaluation at or above 0.80"},
        "strategies": entries,
        "ratios": {
            "dopr/grpo": {
                "rollouts": ratio,
                "tokens": {"median": 0.1, "low": 0.09, "high": 0.12},
                "wall_s": ratio,
                "final_difference": {"median": 0.012, "low": -0.004, "high": 0.021},
            }
        },
        "pool": {"signal_rate": 0.48, "size": POOL},
        "machine": {"cpu": "two cores", "threads": 2},
        "versions": {"dopr": "0.1.0", "torch": "2.9.0"},
    }

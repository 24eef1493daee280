"""Figures of running text that no file holds as such: worked out here from the files that do.

A function a source, named in docs/figures.yaml as `from: derived NAME`; it takes docs/results and
gives a mapping.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mixed_study
import numpy as np
import result_costs
import result_delay

# Changes of `dopr` that hardly matter on the half pool.
PLATEAU = (
    *("prior-", "patience-", "discount-", "exploration-", "pairing", "candidates-", "dopr"),
    *("one-prompt-4", "two-prompts-8", "eight-prompts-2"),
)

DERIVED: dict[str, Callable[[Path], Any]] = {}


def derived(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Offers a function under its name."""
    DERIVED[function.__name__] = function
    return function


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@derived
def costs(results: Path) -> Any:
    """The first table of docs/results.md: arena -> reference -> costs."""
    return result_costs.arenas()


@derived
def mixed(results: Path) -> Any:
    """The pool of three kinds: in how many pairs `dopr` took fewer rollouts, no fewer, missed; and
    the mean difference of what it ends with when planned for half of them; and what it takes in
    the step of uniform choice.
    """
    summary = read(results / "mixed" / "half" / "summary.json")
    ends = summary["planned for half"]["dopr-half"]["kinds"]["all"]
    means = {"median": ends["mean"], "low": ends["mean_low"], "high": ends["mean_high"]}
    kept = mixed_study.kept_runs(results / "mixed" / "half")
    fours = mixed_study.against(kept, mixed_study.REFERENCE, "dopr-fours")
    found: dict[str, Any] = {"half": means, "fours": fours["rollouts"]}
    for name, entry in summary["against"].items():
        ratios = entry["rollouts"]["per_seed"]
        fewer = [ratio for ratio in ratios if ratio is not None and ratio < 1]
        found[name] = {
            "pairs": len(ratios),
            "fewer": {"runs": len(fewer), "low": min(fewer), "high": max(fewer)},
            "no fewer": sum(ratio is not None and ratio >= 1 for ratio in ratios),
            "missed": ratios.count(None),
        }
    return found


@derived
def delay(results: Path) -> Any:
    """Study -> pool -> strategy -> delay -> its rollouts over those of uniform choice."""
    return {
        study: {
            pool: {
                name: {str(k): entry for k, entry in by_delay.items()}
                for name, by_delay in result_delay.savings(pool, study).items()
            }
            for pool in result_delay.pools(study)
        }
        for study in result_delay.STUDIES
    }


@derived
def driver(results: Path) -> Any:
    """What choosing adds to a step of one prompt at equal rollouts."""
    return {"choosing": read(results / "driver-overhead.json")["shapes"][0]["ratio_median"] - 1}


@derived
def update(results: Path) -> Any:
    """A step with shared prompts over plain TRL's, by model and prompt's length."""
    shapes = read(results / "update-speed.json")["shapes"]
    shared = {f"{s['model']}, {s['prompt_tokens']}": s["step"]["shared"] for s in shapes}
    return {name: found | {"median": found["of_plain"]} for name, found in shared.items()}


@derived
def few_instances(results: Path) -> Any:
    """By family: how much one prompt lifts the accuracy on the way, and shares of all's gain."""
    found: dict[str, Any] = {}
    for file in sorted((results / "few-instances").glob("*/comparison.json")):
        ends = {n: e["final"]["median"] for n, e in read(file)["strategies"].items()}
        curves = {
            name: [[row["avg@k"] for row in run] for run in by_seed.values()]
            for name, by_seed in read(file.with_name("curves.json")).items()
        }
        start = float(np.median([run[0] for run in curves["all"]]))
        found[file.parent.name] = {
            "lift": float(np.median([max(run) for run in curves["n1"]])) - start,
            "gain": {n: (end - start) / (ends["all"] - start) for n, end in ends.items()},
            "share": {n: end / ends["all"] for n, end in ends.items()},
        }
    lifts = [one["lift"] for one in found.values()]
    return found | {"lifts": {"low": min(lifts), "high": max(lifts)}}


@derived
def trials(results: Path) -> Any:
    """Share of informative groups among the first 256 rollouts, mean over seeds, by trial."""
    found: dict[str, list[float]] = {}
    for name, run in read(results / "trials.json").items():
        trial = "/".join(np.array(name.split("/"))[[0, 2]])
        found.setdefault(trial, []).append(run["informative_share_per_256"][0])
    return {trial: float(np.mean(shares)) for trial, shares in found.items()}


@derived
def longer(results: Path) -> Any:
    """The larger budget: rollouts of uniform-tuned over dopr's, lowest and highest family."""
    ratios = []
    for file in (results / "strategies" / "longer" / "hard").glob("*/comparison.json"):
        found = read(file)["strategies"]
        medians = [found[n]["rollouts_to_target"]["median"] for n in ("uniform-tuned", "dopr")]
        if None not in medians:
            ratios.append(medians[0] / medians[1])
    return {"hard": {"low": min(ratios), "high": max(ratios)}}


@derived
def tuning(results: Path) -> Any:
    """By how much uniform-tuned's tries on the half pool fell short of the one that was chosen."""
    found = read(results / "strategies" / "half" / "leg_counting" / "tuning.json")
    scores = found["strategies"]["uniform-tuned"]["scores"]
    best = max(score[0] for score in scores.values())
    return {name: best - score[0] for name, score in scores.items()}


@derived
def forecast_tries(results: Path) -> Any:
    """By how much the forecast as baseline raised the area of `dopr`'s tries, of those both had."""
    found = []
    for folder in ("group", "half"):
        tuned = read(results / "mixed" / folder / "tuning.json")["strategies"]["dopr"]
        scores = {name: float(np.mean(scores)) for name, scores in tuned["scores"].items()}
        found.append(
            {json.dumps(t, sort_keys=True): scores[name] for name, t in tuned["tries"].items()}
        )
    gains = [found[1][step] - found[0][step] for step in found[1] if step in found[0]]
    return {"steps": len(gains), "low": min(gains), "high": max(gains)}


@derived
def ablation(results: Path) -> Any:
    """Mean accuracy of every part left out, by pool, and its range over the plateau."""
    found: dict[str, Any] = {}
    for pool in ("ablation", "ablation-hard"):
        curves = read(results / pool / "curves.json")
        found[pool] = {
            name: float(
                np.median([np.mean([r["avg@k"] for r in run[1:]]) for run in by_seed.values()])
            )
            for name, by_seed in curves.items()
        }
        found[pool]["dbb ahead"] = found[pool]["dbb"] - found[pool]["dopr"]
    strategies = read(results / "ablation" / "comparison.json")["strategies"]
    ends = [e["final"]["median"] for n, e in strategies.items() if n.startswith(PLATEAU)]
    return found | {"plateau": {"low": min(ends), "high": max(ends)}}


@derived
def noise(results: Path) -> Any:
    """What one wrong verdict in five costs `dopr` in final accuracy."""
    found = read(results / "noise" / "comparison.json")["strategies"]
    ends = {name: entry["final"]["median"] for name, entry in found.items()}
    return {"lower": ends["dopr-0"] - ends["dopr-0.2"]}


@derived
def repeated_questions(results: Path) -> Any:
    """The run on SmolLM2-135M that found a hole: where it began, and how far behind it ended."""
    folder = results / "smollm2" / "repeated-questions"
    finals = read(folder / "summary.json")["finals"]
    start = read(folder / "runs.json")["dopr"]["0"]["evals"][0]["avg@k"]
    return {"start": start, "behind": finals["grpo"]["median"] - finals["dopr"]["median"]}


@derived
def answers(results: Path) -> Any:
    """Reading answers on SmolLM2: informative groups, tokens read a step, and what a run took."""
    runs = read(results / "smollm2" / "answers" / "runs.json")
    ends = {name: [run["evals"][-1] for run in seeds.values()] for name, seeds in runs.items()}
    steps = ends["dopr"][0]["rollouts_total"] / 16
    seconds = {
        name: float(np.median([row["wall_s"] for row in rows])) for name, rows in ends.items()
    }
    found = [row["tokens_total"] - row["generated_tokens_total"] for row in ends["dopr"]]
    generated = [row["generated_tokens_total"] for row in ends["dopr"]]
    return {
        "informative": {
            name: float(np.median([run["informative"] for run in seeds.values()]))
            for name, seeds in runs.items()
        },
        "read_a_step": float(np.mean(found)) / steps,
        "read_of_generated": float(np.mean(found) / np.mean(generated)),
        "longer": seconds["dopr"] / seconds["uniform-tuned"] - 1,
    }


@derived
def dopr_one(results: Path) -> Any:
    """What one prompt a step pays on SmolLM2 for what uniform choice ends with."""
    runs = read(results / "smollm2" / "answers" / "runs.json")
    return mixed_study.against(runs, "uniform-tuned", "dopr-one")


@derived
def dopr_1024(results: Path) -> Any:
    """What `dopr` with twice its rollouts pays on SmolLM2 for what `grpo` ends with."""
    runs = read(results / "smollm2" / "strategies" / "runs.json")
    return mixed_study.against(runs, "grpo", "dopr-1024")


@derived
def dopr_24(results: Path) -> Any:
    """What reading 24 candidates every fourth step pays for what uniform choice ends with."""
    runs = read(results / "smollm2" / "carry" / "runs.json")
    return mixed_study.against(runs, "uniform-tuned", "dopr-24")


@derived
def gpu(results: Path) -> Any:
    """The larger step on a GPU: `dopr` over plain TRL."""
    found = read(results / "gpu.json")["parts"]["steps, small, bfloat16 beside float32"]
    plain, ours = found["plain"], found["dopr"]
    return found | {"memory": ours["peak_bytes"] / plain["peak_bytes"]}


@derived
def theory(results: Path) -> Any:
    """How near the oracle comes to the bound, and the most that `dopr` loses to the better rule."""
    found = read(results / "theory-check.json")
    near = [
        found["pools"][pool]["independent"]["strategies"]["oracle"]["ratio"] - 1
        for pool in ("spread", "half hopeless")
    ]
    bounds = [found["pools"]["alike"][setting]["bound"] for setting in ("shared", "independent")]
    return {
        "oracle": {"low": min(near), "high": max(near)},
        "alike": {"low": min(bounds), "high": max(bounds)},
        "harm": max(found["harm"].values()),
    }


@derived
def stages(results: Path) -> Any:
    """Rollouts that the verifier alone takes to the target, fewest and most over seeds."""
    values = read(results / "related" / "srl.json")["rollouts_to_target"]["values"]
    return {"low": min(values["RLVR, as many"]), "high": max(values["RLVR, as many"])}


@derived
def math_reward_changes(results: Path) -> Any:
    """Verdicts that the present comparison changed, and how many of them had been right."""
    changes = read(results / "math-reward-changes.json")["changes"]
    right = sum(change["before"] == change["expected"] for change in changes)
    return {"changed": len(changes), "right before": right}

"""benchmarks/rivals_study.py and lying_likeness.py, on runs made up here."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dopr.core.ledger import Ledger
from dopr.core.strategy import Measure
from dopr.core.stream import PromptStream

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import lying_likeness
import mixed_study
import rivals_study


def run(*accuracy: float, informative: float = 0.5) -> dict[str, Any]:
    """Evaluated every 100 rollouts, 1,000 tokens and 10 seconds."""
    rows = [
        {
            "rollouts_total": 100 * i,
            "generated_tokens_total": 900 * i,
            "tokens_total": 1000 * i,
            "wall_s": 10.0 * i,
        }
        | {"avg@k": value}
        for i, value in enumerate(accuracy)
    ]
    return {"evals": rows, "informative": informative}


def keep(folder: Path, runs: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "runs.json").write_text(json.dumps(runs))
    (folder / "config.yaml").write_text(yaml.safe_dump({"target": {"value": 0.8}}))


def test_costs_are_those_of_what_uniform_choice_ends_with(tmp_path: Path) -> None:
    keep(
        tmp_path / "half" / "ab",
        {
            "uniform-tuned": {"0": run(0.1, 0.3, 0.4, 0.6), "1": run(0.1, 0.3, 0.5, 0.5)},
            "dopr": {"0": run(0.1, 0.6, 0.7, 0.8), "1": run(0.1, 0.4, 0.6, 0.7)},
            "other": {"1": run(0.1, 0.2, 0.2, 0.3)},
        },
    )
    found = rivals_study.summarise(tmp_path)["half"]
    assert found["families"]["ab"] == {"matched_final": pytest.approx(0.55), "target": 0.8}
    ours = found["strategies"]["uniform-tuned"]["dopr_against"]
    # Seed 0 in 100 of 300 rollouts; seed 1 in 200 of all 300, since the other one ends at 0.5.
    assert ours["matched_final"]["tokens"]["per_run"] == pytest.approx([1 / 3, 2 / 3])
    assert ours["matched_final"]["rollouts"]["bounded"] == 1
    assert ours["target"]["per_run"] == [pytest.approx(1.0), None]  # 0.8 on one seed
    assert ours["final"]["mean"] == pytest.approx(0.2)
    other = found["strategies"]["other"]
    assert (other["runs"], other["arrived"], other["dopr_against"]["pairs"]) == (1, 0, 1)
    assert rivals_study.in_order(found) == ["dopr", "uniform-tuned", "other"]
    assert found["strategies"]["dopr"]["of_reference"]["rollouts"]["per_run"] == pytest.approx(
        [1 / 3, 2 / 3]
    )
    assert other["of_reference"]["tokens"]["per_run"] == [None]
    assert (
        "| `other` | 0/1 | missed | missed | missed | missed | missed | 0.233 |"
        in rivals_study.table(rivals_study.summarise(tmp_path))
    )


def test_what_was_kept_of_other_strategies_stays(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    for names in (("dopr", "gps"), ("dopr", "grpo")):
        run.mkdir(exist_ok=True)
        for file, write in (("config.yaml", yaml.safe_dump), ("tuning.json", json.dumps)):
            (run / file).write_text(
                write({"strategies": {name: {"by": list(names), "rate": 8e-05} for name in names}})
            )
        rivals_study.keep(run, kept)
    for file in ("config.yaml", "tuning.json"):
        found = yaml.safe_load((kept / file).read_text())["strategies"]
        assert set(found) == {"dopr", "gps", "grpo"} and "grpo" in found["dopr"]["by"]
    assert json.loads((kept / "tuning.json").read_text())["strategies"]["gps"]["rate"] == 8e-05


def test_runs_taken_over_from_another_comparison_are_marked(tmp_path: Path) -> None:
    kept, source = tmp_path / "rivals" / "half" / "ab", tmp_path / "strategies" / "half" / "ab"
    keep(kept, {"uniform-tuned": {"0": run(0.1, 0.5)}, "dopr": {"0": run(0.1, 0.6)}})
    source.mkdir(parents=True)
    rows = [row | {"step": 1} for row in run(0.1, 0.2, 0.5)["evals"]]
    (source / "curves.json").write_text(json.dumps({"grpo": {"0": rows}, "other": {"0": rows}}))
    rivals_study.borrow(source, kept, ["grpo"])
    found = rivals_study.summarise(tmp_path / "rivals")["half"]["strategies"]
    assert set(found) == {"uniform-tuned", "dopr", "grpo"}
    assert found["grpo"]["dopr_against"]["matched_final"]["rollouts"]["median"] == 0.5
    told = rivals_study.table(rivals_study.summarise(tmp_path / "rivals"))
    assert "| `grpo` † | 1/1 |" in told and "| `dopr` | 1/1 |" in told


def test_a_family_without_both_sides_is_left_out(tmp_path: Path) -> None:
    keep(tmp_path / "half" / "ab", {"uniform-tuned": {"0": run(0.1, 0.3)}})
    assert rivals_study.texts(tmp_path)["table.md"] == ""
    rivals_study.pictures(tmp_path, tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def test_runs_that_have_not_come_to_their_end_are_not_kept(tmp_path: Path) -> None:
    for seed, rollouts in (("0", 200), ("1", 100)):
        folder = tmp_path / "runs" / "dopr" / f"seed-{seed}"
        folder.mkdir(parents=True)
        rows = run(0.1, 0.2, 0.3)["evals"][: rollouts // 100 + 1]
        (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = {"finished": rollouts == 200}
        (folder / "done.json").write_text(json.dumps(done))
        steps = [{"select/signal_rate": 0.25}, {"loss": 1.0}, {"select/signal_rate": 0.75}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    (tmp_path / "runs" / "uniform-tuned" / "seed-0").mkdir(parents=True)  # was killed
    found = rivals_study.read_runs(tmp_path)
    assert list(found) == ["dopr"] and list(found["dopr"]) == ["0"]
    assert found["dopr"]["0"]["informative"] == 0.5
    assert list(mixed_study.read_runs(tmp_path)["dopr"]) == ["0"]


def test_a_run_counts_whose_evaluations_are_whole_though_it_could_not_be_saved(
    tmp_path: Path,
) -> None:
    for number, rollouts in enumerate((200, 100)):
        folder = tmp_path / "tuning" / "dopr" / f"try-{number}" / "seed-9"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("max_rollouts: 200\n")
        rows = run(0.1, 0.2, 0.3)["evals"][: rollouts // 100 + 1]
        (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        step = {"select/success": [0.5, 1.0], "select/forecast": 0.5}
        (folder / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    tries = mixed_study.read_tries(tmp_path)
    assert list(tries["dopr"]) == ["try-0"]
    best = mixed_study.best_tries(tries)["dopr"]["9"]
    assert best["informative"] == 0.5 and best["forecasts"] == [[0.5, 0.75]]
    assert mixed_study.scores(tries) == {"dopr": {"try-0": {"9": [0.1, 0.2, 0.3]}}}


@pytest.mark.parametrize("kind", [lying_likeness.ShuffledDoPR, lying_likeness.SameDoPR])
def test_who_is_lied_to_reads_other_prompts_and_rolls_out_its_own(kind: Any) -> None:
    strategy = kind()
    strategy.can_measure = frozenset({"embedding"})
    prompts, ledger = PromptStream(200), Ledger(200)
    plan = strategy.step(prompts, ledger)
    asked = next(plan)
    assert isinstance(asked, Measure)
    if kind is lying_likeness.SameDoPR:
        assert set(asked.prompt_ids) == {0}
    else:
        assert len(set(asked.prompt_ids)) == len(asked.prompt_ids)
    vectors = np.random.default_rng(0).normal(size=(len(asked.prompt_ids), 8))
    requests = plan.send(vectors)
    chosen = {request.prompt_id for request in requests}
    read = np.flatnonzero(~np.isnan(strategy._features[:, 0]))
    assert chosen <= set(read.tolist())
    assert set(read.tolist()) != set(asked.prompt_ids)

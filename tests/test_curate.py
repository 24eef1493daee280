"""Curated warm starts: patterns, clusters, the choice, the model, and the study's pieces."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dopr import cli
from dopr.core.errors import UserError
from dopr.warmstart.card import command
from dopr.warmstart.curate import (
    CurateSettings,
    choose,
    curate,
    equal_quotas,
    farthest_points,
    find_clusters,
    read_solutions,
)
from dopr.warmstart.families import FAMILIES
from dopr.warmstart.finetune import WarmstartSettings, run_warmstart
from dopr.warmstart.habits import HABITS, complete
from dopr.warmstart.mixture import problems
from dopr.warmstart.patterns import count_steps, pattern_features, scaled, shape
from scripts import load_script


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def habit_rows(family: str = "leg_counting", count: int = 120) -> list[dict[str, Any]]:
    """Correct solutions within reach in every habit, the guesses right by knowing."""
    rng, known = Random(0), FAMILIES[family]
    rows = []
    for number, entry in enumerate(problems(family, count, 9)):
        if known.regime(entry) == "beyond":
            continue
        habit = HABITS[number % 3]
        text = complete(known, entry, habit, rng, 0.0)
        if habit == "guess":
            text = f"<answer>{entry['answer']}</answer>"
        rows.append({"prompt": entry["question"], "response": text, "correct": 1, "habit": habit})
    return rows


# -- patterns --------------------------------------------------------------------------------


def test_the_shape_leaves_numbers_and_names_out() -> None:
    assert shape("So 3 dogs and cats = 12.5") == ["so", "0", "w", "=", "0"]
    assert shape("2 + 13") == shape("7 + 4") != shape("7 * 4")
    assert shape("") == []


def test_steps_are_results_lines_and_sentences() -> None:
    assert count_steps("4 + 2 = 6 + 1 = 7") == 2
    assert count_steps("First add. Then stop.\nDone") == 3
    assert count_steps("1.5") == count_steps("") == 1


def test_scaled_parts_weigh_alike() -> None:
    part = scaled(np.array([[0.0, 3.0], [4.0, 3.0]]))
    assert part.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert scaled(np.ones((3, 2))).tolist() == np.zeros((3, 2)).tolist()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_any_text_has_features_and_equal_texts_have_equal_ones(texts: list[str]) -> None:
    found = pattern_features([*texts, texts[0]])
    assert np.isfinite(found).all()
    assert np.array_equal(found[0], found[-1])


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_clusters_are_the_habits(family: str, method: str) -> None:
    rows = habit_rows(family)
    labels = find_clusters(pattern_features([row["response"] for row in rows]), 6, method)
    mixed = 0
    for cluster in range(labels.max() + 1):
        habits = Counter(
            row["habit"] for row, at in zip(rows, labels, strict=True) if at == cluster
        )
        mixed += habits.total() - max(habits.values())
    assert mixed <= 0.05 * len(rows)
    sizes = np.bincount(labels)
    assert (sizes > 0).all() and (np.diff(sizes) <= 0).all()


def test_fewer_distinct_rows_than_clusters_is_no_trouble() -> None:
    assert find_clusters(np.zeros((5, 2)), 3).tolist() == [0] * 5
    two = np.repeat([[0.0], [1.0]], [2, 3], axis=0)
    assert find_clusters(two, 4).tolist() == [1, 1, 0, 0, 0]


# -- choosing --------------------------------------------------------------------------------


def test_quotas_are_even_where_clusters_can_give() -> None:
    assert equal_quotas(np.array([10, 10, 2]), 9).tolist() == [4, 3, 2]
    assert equal_quotas(np.array([10, 1]), 2).tolist() == [1, 1]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0, 1))
def test_quotas_add_up_and_never_ask_for_more_than_there_is(sizes: list[int], share: float) -> None:
    total = int(share * sum(sizes))
    quotas = equal_quotas(np.array(sizes), total)
    assert quotas.sum() == total and (quotas <= sizes).all()
    open_ = quotas < sizes  # whoever could give more has no fewer than anyone else, but for one
    if open_.any():
        assert quotas.max() <= quotas[open_].min() + 1


def test_points_are_taken_from_the_centre_and_then_far_apart() -> None:
    line = np.array([[0.0], [4.9], [5.0], [10.0]])
    assert farthest_points(line, list("abcd"), 3, set()).tolist() == [2, 0, 3]
    # A prompt that has a solution already waits for the others.
    assert farthest_points(line, ["a", "b", "c", "a"], 3, set()).tolist() == [2, 0, 1]


def test_diverse_covers_and_narrow_does_not(tmp_path: Path) -> None:
    data = write(tmp_path / "solutions.jsonl", habit_rows())
    found = {
        keep: curate(CurateSettings(data, 15, keep, clusters=3)).figures
        for keep in ("diverse", "narrow", "random")
    }
    assert found["diverse"]["coverage"] == 1.0 and found["diverse"]["chosen"] == [5, 5, 5]
    assert found["narrow"]["chosen"] == [15, 0, 0]
    assert found["narrow"]["spread"] < found["random"]["spread"] < found["diverse"]["spread"]
    assert all(sum(figures["chosen"]) == 15 for figures in found.values())
    assert found["diverse"]["prompts"] == 15


def test_the_choice_is_the_same_again(tmp_path: Path) -> None:
    data = write(tmp_path / "solutions.jsonl", habit_rows())
    assert curate(CurateSettings(data, 12)).rows == curate(CurateSettings(data, 12)).rows


def test_embeddings_may_describe_solutions(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write(tmp_path / "solutions.jsonl", habit_rows(count=60))
    found = curate(CurateSettings(data, 6, clusters=3, embedder=str(tiny_model_dir)))
    assert sum(found.figures["chosen"]) == 6 and found.figures["coverage"] == 1.0


# -- reading ---------------------------------------------------------------------------------


def test_wrong_and_repeated_solutions_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1+1=", "completion": "2", "reward": 1.0},
        {"prompt": "1+1=", "completion": "2", "reward": 1.0},
        {"prompt": "1+1=", "completion": "3", "reward": 0.5},
        {"prompt": "1+1=", "completion": "two", "reward": None},
    ]
    found = read_solutions(write(tmp_path / "s.jsonl", rows))
    assert (found.prompts, found.responses, found.total) == (["1+1="], ["2"], 4)


def test_a_reward_may_give_the_verdicts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1+1=", "response": "<answer>2</answer>", "answer": "2"},
        {"prompt": "1+1=", "response": "<answer>3</answer>", "answer": "2"},
    ]
    data = write(tmp_path / "s.jsonl", rows)
    assert read_solutions(data, "exact_match").responses == ["<answer>2</answer>"]
    with pytest.raises(UserError, match="--curate"):
        read_solutions(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "wide"}, "unknown curate.keep"),
        ({"method": "dbscan"}, "unknown curate.method"),
        ({"size": 0}, "size"),
        ({"size": 10_000}, "fewer than curate.size"),
        ({"keep": "narrow", "size": 90}, "lower curate.size"),
        ({"keep": "narrow", "size": 2, "cluster": 99}, "cluster 99"),
    ],
)
def test_mistakes_are_one_sentence(changes: Any, message: str, tmp_path: Path) -> None:
    data = write(tmp_path / "s.jsonl", habit_rows())
    with pytest.raises(UserError, match=message) as caught:
        curate(CurateSettings(data, **changes))
    assert "\n" not in str(caught.value)


def test_nothing_correct_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "s.jsonl", [{"prompt": "1", "response": "2", "correct": 0}])
    with pytest.raises(UserError, match="no correct solution"):
        read_solutions(data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1", "response": "2", "correct": "yes"}, "row 2: verdict 'yes' is no number"),
        ({"prompt": "1", "correct": 1}, "row 2 lacks prompt or response"),
    ],
)
def test_a_broken_row_is_named(row: Any, message: str, tmp_path: Path) -> None:
    rows = [{"prompt": "1", "response": "2", "correct": 1}, row]
    with pytest.raises(UserError, match=message):
        read_solutions(write(tmp_path / "s.jsonl", rows))


def test_random_takes_distinct_rows() -> None:
    config = CurateSettings("none", 5, "random")
    chosen = choose(np.zeros((9, 1)), np.zeros(9, np.int64), ["p"] * 9, config)
    assert len(set(chosen.tolist())) == 5


# -- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chats"])
def test_the_command_finetunes_a_base_on_what_was_chosen(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture, chat: bool
) -> None:
    texts = [f"{i}+{i}=" for i in range(30)]
    prompts = [[{"role": "user", "content": text}] if chat else text for text in texts]
    rows = [
        {"prompt": prompt, "response": str(2 * i) * (1 + i % 3), "correct": True}
        for i, prompt in enumerate(prompts)
    ]
    data = write(tmp_path / "s.jsonl", rows)
    folder = tmp_path / "warm"
    arguments = ["warmstart", "--base", str(tiny_model_dir), "--output_dir", str(folder)]
    arguments += ["--steps", "3", "--batch_size", "4", "--measure_prompts", "0"]
    arguments += ["--max_length", "64", "--curate.data", data, "--curate.size", "9"]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(result["curation"]["chosen"]) == 9
    kept = [json.loads(line) for line in (folder / "curated.jsonl").read_text().splitlines()]
    assert len(kept) == 9 and set(kept[0]) == {"prompt", "completion"}
    before = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    after = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert any((a != b).any() for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert len(AutoTokenizer.from_pretrained(folder)) == after.config.vocab_size
    card = (folder / "README.md").read_text()
    assert "9 of 30 correct solutions" in card
    assert str(tmp_path) not in card + (folder / "warmstart.json").read_text()


def test_a_fresh_model_learns_the_facts_first_and_then_the_curated(tmp_path: Path) -> None:
    config = WarmstartSettings(
        output_dir=str(tmp_path / "fresh"),
        families=["leg_counting"],
        facts_steps=1,
        steps=2,
        batch_size=4,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        measure_prompts=0,
        curate=CurateSettings(write(tmp_path / "s.jsonl", habit_rows()), 8, "narrow", clusters=3),
    )
    run_warmstart(config)
    card = (tmp_path / "fresh" / "README.md").read_text()
    assert command(config) in card and "taught the families' facts in 1 steps" in card
    assert "--curate.size 8 --curate.keep narrow" in command(config)


def test_curation_needs_its_data(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["warmstart", "--curate.size", "3"]) == 2
    assert "`curate.data` is missing" in capsys.readouterr().err


# -- the study -------------------------------------------------------------------------------


@pytest.fixture
def study() -> Any:
    return load_script("benchmarks/tailor_study.py")


def test_the_arms_differ_in_the_model_alone(study: Any, tmp_path: Path) -> None:
    settings_ = study.Study(output=tmp_path)
    plan = study.make_comparison(settings_, {arm: tmp_path / arm for arm in study.ARMS})
    plan.check()
    runs = [vars(plan.settings(arm, 0, {})) for arm in study.ARMS]
    same = [{k: v for k, v in run.items() if k not in ("model", "output_dir")} for run in runs]
    assert all(run == same[0] for run in same)
    assert len({run["model"] for run in runs}) == 4


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_was(study: Any, tmp_path: Path) -> None:
    tiny = study.Study(
        output=tmp_path,
        problems=64,
        size=8,
        steps=2,
        batch_size=4,
        seeds=[0],
        max_rollouts=16,
        eval_every=16,
        eval_prompts=8,
        threads=1,
    )
    first = study.run(tiny)
    assert set(first["arms"]) == set(study.ARMS)
    assert first["arms"]["diverse"]["curation"]["coverage"] == 1.0
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("models/*/model.safetensors")}
    assert study.run(tiny) == first
    assert all(p.stat().st_mtime_ns == time for p, time in made.items())

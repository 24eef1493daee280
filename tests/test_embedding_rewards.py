"""Reward models on frozen embeddings: vectors and their cache, fitting, the command, training."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from cli_tools import train, words
from dopr import cli
from dopr.core.errors import UserError
from dopr.policy import embedder as embedders
from dopr.policy.embedder import CausalEmbedder, embedding_reward, load_embedder
from dopr.policy.measuring import read_prompts
from dopr.policy.models import load_model
from dopr.policy.sampling import Sampling, generate, isolated_random_state, score
from dopr.rewards import load_reward
from dopr.rewards.learned.model import RewardModel
from dopr.runs.reward_model import FitSettings, SuccessPredictor, fit_rewards
from dopr.runs.reward_model.data import read_data
from dopr.runs.reward_model.embedding_cache import embed_cached
from dopr.tasks import load_task

RNG = np.random.default_rng(0)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def scored_rows(prompts: int = 12, each: int = 4) -> list[dict[str, Any]]:
    """Even responses are good and made of nines, odd ones bad and made of letters."""
    return [
        {
            "prompt": f"{i}+{i}=?",
            "response": "9" * (2 + j) if j % 2 == 0 else "ab" * (1 + j),
            "reward": float(j % 2 == 0),
        }
        for i in range(prompts)
        for j in range(each)
    ]


@pytest.fixture
def fitted(tmp_path: Path, tiny_model_dir: Path) -> Any:
    def make(**changes: Any) -> tuple[Path, dict[str, Any]]:
        values: dict[str, Any] = {
            "data": [write(tmp_path / "scored.jsonl", scored_rows())],
            "output": str(tmp_path / "head"),
            "embedder": str(tiny_model_dir),
            "noise": [0.0],
        }
        return tmp_path / "head", fit_rewards(FitSettings(**(values | changes)))

    return make


# -- embedding -------------------------------------------------------------------------------


def test_the_embedding_is_the_mean_state_over_the_response(tiny_model_dir: Path) -> None:
    model, tokenizer = load_model(str(tiny_model_dir))
    found = CausalEmbedder(model, tokenizer, batch_size=2).embed(
        ["1+1=", "a long prompt here", "1+1="], ["23", "4", ""]
    )
    with torch.no_grad():
        ids = torch.tensor([tokenizer("1+1=23")["input_ids"]])
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(found[0], states[4:].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[2], states[3], rtol=1e-4, atol=1e-5)  # where it would begin


def test_what_exceeds_the_context_is_cut(tiny_model_dir: Path) -> None:
    embedder = load_embedder(str(tiny_model_dir))
    long = embedder.embed(["1" * 200, "1", "1" * 200], ["2", "2" * 500, "2" * 500])
    assert long.shape == (3, 32) and np.isfinite(long).all()
    np.testing.assert_allclose(long[0], embedder.embed(["1" * 127], ["2"])[0], atol=1e-5)


def test_chat_prompts_read_like_their_template(tiny_model_dir: Path) -> None:
    embedder = load_embedder(str(tiny_model_dir))
    chat = embedder.embed([[{"role": "user", "content": "1+1="}]], ["2"])
    np.testing.assert_allclose(chat, embedder.embed(["1+1="], ["2"]), atol=1e-5)


def test_nothing_is_embedded_twice(tmp_path: Path, tiny_model_dir: Path) -> None:
    name, loaded = str(tiny_model_dir), []

    def load() -> Any:
        loaded.append(1)
        return load_embedder(name)

    first, new = embed_cached(tmp_path, name, "float32", load, ["1", "2", "1"], ["a", "b", "a"])
    assert new == 2 and np.array_equal(first[0], first[2])
    again, new = embed_cached(tmp_path, name, "float32", load, ["2", "3"], ["b", "c"])
    assert new == 1 and np.array_equal(again[0], first[1])
    assert embed_cached(tmp_path, name, "float32", load, ["3", "1"], ["c", "a"])[1] == 0
    assert len(loaded) == 2
    [manifest] = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["width"] == 32
    [vectors] = tmp_path.glob("*/embeddings.safetensors")
    save_file({"vectors": np.zeros((3, 5), np.float32)}, vectors)
    with pytest.raises(UserError, match="width 32, but the cache holds some of width 5"):
        embed_cached(tmp_path, name, "float32", load, ["9"], ["z"])
    vectors.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged; remove it"):
        embed_cached(tmp_path, name, "float32", load, ["1"], ["a"])


def test_sentence_transformers_is_optional(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="install dopr"):
        load_embedder("sentence-transformers:all-MiniLM-L6-v2")


def test_sentence_transformers_reads_prompt_and_response_as_one(monkeypatch: Any) -> None:
    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, texts: list[str], **options: Any) -> Any:
            return np.array([[len(text), text.count("\n")] for text in texts])

    module = type(embedders)("sentence_transformers")
    module.SentenceTransformer = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    embedder = load_embedder("sentence-transformers:any")
    assert embedder.embed(["ab"], ["c"]).tolist() == [[5.0, 2.0]]
    assert embedder.embed([[{"role": "user", "content": "ab"}]], ["c"]).tolist() == [[5.0, 2.0]]


# -- fitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "bt"},
        {"head": "bt", "hidden": 8},
        {"head": "classify"},
        {"head": "ensemble", "members": 3},
        {"head": "ensemble", "member": "classify", "members": 2, "aggregate": "lowest"},
    ],
)
def test_a_head_tells_good_from_bad_and_survives_the_disk(fitted: Any, changes: Any) -> None:
    folder, report = fitted(**changes)
    [figures] = report["noise"]
    assert figures["pair_accuracy"] == 1.0
    assert figures["spearman"] > 0.85
    assert figures["best_of_n"][-1]["reward"] == pytest.approx(1.0)
    assert figures["best_of_n"][0]["reward"] == pytest.approx(0.5)
    assert report == json.loads((folder / "report.json").read_text())
    reward = embedding_reward(folder)
    good, bad = reward(prompts=["50+50=?"] * 2, completions=["99", "abab"])
    assert 0 <= bad < 0.5 < good <= 1
    assert reward(prompts=[], completions=[]) == []
    assert {file.suffix for file in folder.iterdir() if file.is_file()} == {".safetensors", ".json"}


def test_the_lowest_of_an_ensemble_is_never_above_its_mean(fitted: Any) -> None:
    folder, _ = fitted(head="ensemble", member="classify", members=3, aggregate="lowest")
    lowest = RewardModel.load(folder)
    mean = RewardModel(lowest.kind, lowest.embedder, lowest.width, lowest.members)
    vectors = RNG.normal(size=(10, 32))
    assert (lowest.probability(vectors) <= mean.probability(vectors)).all()


def test_figures_fade_with_the_noise_and_the_saved_head_is_the_clean_one(
    fitted: Any, tmp_path: Path
) -> None:
    def data(name: str) -> list[str]:
        return [write(tmp_path / f"{name}.jsonl", scored_rows(24, 8))]

    folder, clean = fitted(data=data("a"), head="classify", noise=[0.0, 0.45])
    saved = load_file(folder / "head.safetensors")
    assert clean["noise"][0]["area_under_curve"] > clean["noise"][1]["area_under_curve"] - 1e-9
    assert clean["noise"][0]["calibration_error"] < clean["noise"][1]["calibration_error"]
    folder, noisy = fitted(data=data("a"), head="classify", noise=[0.45])
    again = load_file(folder / "head.safetensors")
    assert all(np.array_equal(saved[name], again[name]) for name in saved)
    assert noisy["embedded"] == 0  # the cache


def test_preferences_are_read_too(fitted: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{i}=?", "chosen": "9" * (i % 5 + 1), "rejected": "a" * (i % 4 + 1)}
        for i in range(20)
    ]
    _, report = fitted(data=[write(tmp_path / "pairs.jsonl", rows)])
    assert report["noise"][0]["pair_accuracy"] == 1.0
    assert report["held_out"] == {"prompts": 5, "responses": 10, "pairs": 5}


def test_a_predictor_of_success_reads_what_strategies_measure(
    fitted: Any, tmp_path: Path, tiny_model_dir: Path
) -> None:
    rows = [
        {"prompt": "9" * (i % 7 + 1) + letter, "response": str(j), "reward": float(letter == "=")}
        for i in range(10)
        for letter in "=z"
        for j in range(2)
    ]
    data = [write(tmp_path / "p.jsonl", rows)]
    folder, report = fitted(data=data, head="classify", reads="prompt")
    assert report["noise"][0]["mean_absolute_error"] < report["noise"][0]["constant_error"]
    model, tokenizer = load_model(str(tiny_model_dir))
    vectors, _ = read_prompts(model, tokenizer, ["99999=", "99999z"], "embedding", 2)
    easy, hard = SuccessPredictor(folder).rates(vectors)
    assert hard < 0.5 < easy
    with pytest.raises(UserError, match="width 3"):
        SuccessPredictor(folder).rates(np.zeros((1, 3)))
    with pytest.raises(UserError, match="reads prompts"):
        embedding_reward(folder)


# -- mistakes --------------------------------------------------------------------------------


def test_a_head_of_another_width_is_refused(fitted: Any) -> None:
    folder, _ = fitted()
    wrong = type("Wrong", (), {"embed": lambda self, p, r: np.zeros((len(r), 5), np.float32)})()
    with pytest.raises(UserError, match=r"width 32 .* width 5; use the embedder"):
        embedding_reward(folder, wrong)(prompts=["1"], completions=["2"])
    with pytest.raises(UserError, match="reads responses"):
        SuccessPredictor(folder)


def test_a_missing_or_damaged_head_is_refused(fitted: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dopr rewards fit"):
        load_reward(f"embedding:{tmp_path / 'nowhere'}", embedding=embedding_reward)
    folder, _ = fitted()
    save_file({"0.mean": np.zeros(3)}, folder / "head.safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_reward(f"embedding:{folder}", embedding=embedding_reward)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "1", "reward": 1.0}], "no column for the response"),
        ([{"response": "1", "reward": 1.0}], "no column for the prompt"),
        ([{"prompt": "1", "response": "2"}], "--reward-column"),
        ([{"prompt": "1", "response": "2", "reward": 1}, {"reward": 0}], "row 2 has no text"),
        ([{"prompt": "1", "chosen": "2", "rejected": 3}], "row 1 has no text in 'rejected'"),
        ([{"prompt": "1", "response": "2", "reward": "good"}], "is no number"),
        ([{"prompt": str(i), "response": "2", "reward": 1} for i in range(20)], "all 20 rewards"),
        (scored_rows(2, 4), "8 scored rows are too few"),
        (scored_rows(2, 20), "2 different prompts"),
        (
            [{"prompt": str(i), "response": "2", "a_reward": 1, "b_reward": 0} for i in range(20)],
            "--reward-column",
        ),
    ],
)
def test_data_that_cannot_be_used_is_one_sentence(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_data([write(tmp_path / "rows.jsonl", rows)])
    assert "\n" not in str(caught.value)


def test_rewards_that_could_not_be_given_are_left_out(tmp_path: Path) -> None:
    rows = [*scored_rows(), {"prompt": "1", "response": "2", "reward": None}]
    assert len(read_data([write(tmp_path / "rows.jsonl", rows)]).groups) == 48


def test_pairs_need_responses_that_differ(fitted: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "response": "9", "reward": i % 2} for i in range(20)]
    with pytest.raises(UserError, match="--head classify"):
        fitted(data=[write(tmp_path / "single.jsonl", rows)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "bradley"}, "unknown head"),
        ({"noise": [0.5]}, "must lie"),
        ({"held_out": 1.0}, "held_out"),
        ({"members": 0}, "members"),
        ({"reads": "prompt"}, "--head classify"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FitSettings(data=["x"], output="y", **changes).check()


# -- the shipped model -----------------------------------------------------------------------


def test_the_shipped_models_states_tell_its_right_answers_from_its_wrong_ones(
    tmp_path: Path,
) -> None:
    model, tokenizer = load_model("tiny-reasoner")
    dataset = load_task("tiny:leg_counting/eval", limit=32)
    with isolated_random_state(0):
        ids = generate(model, tokenizer, list(dataset["prompt"]), 8, Sampling(max_new_tokens=64))
        rewards = score(dataset, ids, tokenizer, [load_reward("gym")], 8)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rows = [
        {"prompt": dataset["prompt"][i // 8], "response": text, "reward": float(value)}
        for i, (text, value) in enumerate(zip(texts, rewards, strict=True))
    ]
    data, output = [write(tmp_path / "legs.jsonl", rows)], str(tmp_path / "head")
    report = fit_rewards(FitSettings(data, output, head="classify", noise=[0.0]))
    [figures] = report["noise"]
    assert figures["area_under_curve"] > 0.75
    best = figures["best_of_n"][-1]
    assert best["random"] + 0.1 < best["reward"] <= best["oracle"] + 1e-9


# -- the command, and training ---------------------------------------------------------------


def test_the_command_prints_its_report(
    tmp_path: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write(tmp_path / "rows.jsonl", scored_rows())
    arguments = ["rewards", "fit", "--data", data, "--embedder", str(tiny_model_dir)]
    arguments += ["--output", str(tmp_path / "head"), "--noise", "0,0.2"]
    assert cli.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["noise"] for row in report["noise"]] == [0.0, 0.2]
    assert cli.main(arguments) == 0
    assert f"embedding:{tmp_path / 'head'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--noise", "much"], ["--data", "nowhere.jsonl"], ["--head", "tree"]]
)
def test_a_mistake_is_one_line(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["rewards", "fit", "--data", write(tmp_path / "r.jsonl", scored_rows())]
    if "--data" in wrong:
        arguments = ["rewards", "fit"]
    assert cli.main([*arguments, "--output", str(tmp_path / "head"), *wrong]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dopr: error")


def test_without_an_action_it_says_which_there_is(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["rewards"]) == 2
    assert "dopr rewards fit" in capsys.readouterr().err


def test_a_policy_is_trained_on_it_and_its_completions_are_fitted_again(
    fitted: Any, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder, _ = fitted()
    run = words(tmp_path, tiny_model_dir, reward=f"embedding:{folder}", completions_every=1)
    assert train(*run) == 0
    metrics = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["reward"] <= 1 for row in metrics if "reward" in row)
    data = read_data([str(tmp_path / "run")])
    assert len(data.groups) == 16 and len(np.unique(data.groups)) == 4

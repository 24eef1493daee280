"""The warm start: habits, tokenizer, mixture, training, and the shipped tiny model."""

import re
from importlib import resources
from pathlib import Path
from random import Random

import pytest
import reasoning_gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dopr.core.errors import UserError
from dopr.tasks.tiny_pools import POOLS
from dopr.warmstart.card import command
from dopr.warmstart.describe import careful_accuracy, describe_pool, load_pool
from dopr.warmstart.families import FAMILIES, get_family
from dopr.warmstart.finetune import WarmstartSettings, run_warmstart
from dopr.warmstart.habits import HABITS, OPENINGS, complete, final_answer, habit_of
from dopr.warmstart.mixture import SOURCES, make_mixture
from dopr.warmstart.tokenizer import build_tokenizer

MODEL = Path(str(resources.files("dopr") / "assets" / "tiny-reasoner"))
NAMES = sorted(FAMILIES)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(NAMES)


@pytest.fixture(scope="module")
def shipped():
    model = AutoModelForCausalLM.from_pretrained(MODEL, use_safetensors=True)
    return model, AutoTokenizer.from_pretrained(MODEL)


def entries(name, count=200):
    """Problems of every source of the family's mixture, with what scores them."""
    for _, settings in SOURCES[name]:
        scorer = reasoning_gym.create_dataset(name, size=count // 4, seed=7, **settings)
        for entry in scorer:
            yield scorer, entry


@pytest.mark.parametrize("name", NAMES)
def test_careful_solutions_are_right(name):
    family = FAMILIES[name]
    for scorer, entry in entries(name):
        text = complete(family, entry, "careful", Random(0))
        assert scorer.score_answer(final_answer(text), entry) == 1.0, (entry["question"], text)


@pytest.mark.parametrize("name", NAMES)
def test_easy_problems_are_right_in_every_habit(name):
    family = FAMILIES[name]
    easy = [pair for pair in entries(name) if family.regime(pair[1]) == "easy"]
    assert len(easy) >= 50
    for habit in HABITS:
        for scorer, entry in easy:
            text = complete(family, entry, habit, Random(1))
            assert scorer.score_answer(final_answer(text), entry) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_guesses_are_hopeless_and_sloppy_in_between(name):
    family, rng, right = FAMILIES[name], Random(2), {"guess": [], "sloppy": []}
    for scorer, entry in entries(name, 800):
        if family.regime(entry) != "reach":
            continue
        for habit, found in right.items():
            answer = final_answer(complete(family, entry, habit, rng))
            found.append(scorer.score_answer(answer, entry) == 1.0)
    assert sum(right["guess"]) / len(right["guess"]) < 0.1
    assert 0.2 < sum(right["sloppy"]) / len(right["sloppy"]) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_a_completion_tells_its_habit_and_depends_on_its_arguments_only(name):
    family = FAMILIES[name]
    for _, entry in entries(name, 40):
        for habit in HABITS:
            text = complete(family, entry, habit, Random(3))
            assert text == complete(family, entry, habit, Random(3))
            assert habit_of(text) == habit
    assert habit_of("nothing of the kind") is None


def test_final_answer_takes_the_last_one():
    assert final_answer("<answer>1</answer> no <answer> 2 </answer>") == "2"
    assert final_answer("<answer></answer>") == ""
    assert final_answer("<answer>1") is None


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_careful_solutions_are_short_and_round_trip(name, tokenizer):
    family, openings = FAMILIES[name], set(OPENINGS.values())
    for _, entry in entries(name):
        prompt = tokenizer(entry["question"])["input_ids"]
        assert len(prompt) <= 48
        texts = [entry["question"], *(complete(family, entry, h, Random(4)) for h in HABITS)]
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert tokenizer.unk_token_id not in ids
        if family.regime(entry) != "beyond":
            assert all(len(tokenizer(text)["input_ids"]) < 64 for text in texts[1:])
            assert all(
                tokenizer.decode(tokenizer(t)["input_ids"][:1]) in openings for t in texts[1:]
            )


def test_a_chat_prompt_reads_like_the_plain_one(tokenizer):
    text = "What is 2 + 2?\n"
    chat = [{"role": "user", "content": text}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    chat.append({"role": "assistant", "content": "4"})
    assert tokenizer.apply_chat_template(chat, tokenize=False) == text + "4" + tokenizer.eos_token


def test_the_mixture_is_seeded_and_has_the_shares_asked_for():
    shares = {"careful": 1.0, "guess": 0.0, "sloppy": 0.0}
    rows = make_mixture(["chain_sum"], 200, shares, seed=3)
    assert rows == make_mixture(["chain_sum"], 200, shares, seed=3)
    assert rows != make_mixture(["chain_sum"], 200, shares, seed=4)
    habits = [habit_of(row["completion"]) for row in rows]
    assert habits.count("careful") == 180
    assert habits.count("guess") == 20  # the problems beyond reach


@pytest.mark.parametrize("name", NAMES)
def test_pools_have_their_size_and_evaluation_is_disjoint(name):
    questions = {
        kind: {entry["question"] for _, entry in load_pool(urls)}
        for kind, urls in POOLS[name].items()
    }
    assert len(questions["half"]) == len(questions["hard"]) == 512
    assert len(questions["eval"]) >= 200
    assert not questions["eval"] & (questions["half"] | questions["hard"])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="chain_sum"):
        get_family("chainsum")
    with pytest.raises(UserError, match="num_heads"):
        WarmstartSettings(hidden_size=30)
    with pytest.raises(UserError, match="steps"):
        WarmstartSettings(steps=0)
    with pytest.raises(UserError, match="careful_share is -1"):
        WarmstartSettings(careful_share=-1)


def test_two_steps_make_a_model_that_loads(tmp_path):
    config = WarmstartSettings(
        output_dir=str(tmp_path / "model"),
        families=["chain_sum", "ab"],
        steps=2,
        batch_size=4,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        measure_prompts=2,
        measure_rollouts=8,
    )
    result = run_warmstart(config)
    assert set(result["figures"]) == {"chain_sum", "ab"}
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert model.num_parameters() == result["parameters"]
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    card = (folder / "README.md").read_text()
    assert command(config) in card
    assert str(tmp_path) not in card
    assert not (folder / "checkpoints").exists()


def test_the_shipped_model_is_safetensors_only_and_fits_its_tokenizer(shipped):
    model, tokenizer = shipped
    assert {p.suffix for p in MODEL.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}
    assert sum(p.stat().st_size for p in MODEL.iterdir()) < 5_000_000
    assert model.config.vocab_size == len(tokenizer)
    assert model.dtype == torch.float32
    assert tokenizer.get_vocab() == build_tokenizer(list(FAMILIES)).get_vocab()
    assert not re.search(r"(/home|/tmp|/root|/work)", (MODEL / "README.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_model_has_latent_capability(name, shipped):
    torch.manual_seed(0)
    pool = load_pool(POOLS[name]["eval"])[:64]
    figures = describe_pool(*shipped, pool, rollouts=8)
    assert 0.2 <= figures["accuracy"] <= 0.45
    assert figures["guess_accuracy"] < 0.15
    assert careful_accuracy(*shipped, pool, rollouts=2) >= 0.8

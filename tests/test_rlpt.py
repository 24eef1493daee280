"""RL on pre-training data: sentences of plain text as prompts, rewarded by their first words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.configuration import build
from dopr.core.errors import UserError
from dopr.rewards import load_reward, make_rlpt_reward, rlpt_reward
from dopr.rewards.continuation import prediction_of, prefix_match, words
from dopr.runs.settings import TrainSettings
from dopr.tasks import load_task
from dopr.tasks.rlpt import RLPTOptions, thin_out

TEXT = "It rains in May. The road is wet then. Cars go slowly. Nobody minds the wait."


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "rain.txt").write_text(TEXT)
    return f"rlpt:{tmp_path / 'rain.txt'}"


def asked(task: Any) -> list[str]:
    return [json.loads(info)["ask"] for info in task["extra_info"]]


# -- prompts ---------------------------------------------------------------------------------


def test_each_sentence_but_the_first_is_asked_for_in_both_ways(source: str) -> None:
    task = load_task(source)
    assert asked(task) == ["next", "middle", "next", "middle", "next"]
    assert task["answer"] == [
        "The road is wet then.",
        "The road is wet then.",
        "Cars go slowly.",
        "Cars go slowly.",
        "Nobody minds the wait.",
    ]
    first, middle = task["prompt"][:2]
    assert "It rains in May.\n\nThink" in first and "Cars" not in first
    assert "It rains in May. [...] Cars go slowly.\n\nThink" in middle
    assert task["data_source"][:2] == ["rlpt:rain/next", "rlpt:rain/middle"]


def test_options_choose_what_is_asked_and_shown(source: str) -> None:
    plain = load_task(f"{source}?ask=next&thought=none&context=1")
    assert plain["prompt"] == ["It rains in May.", "The road is wet then.", "Cars go slowly."]
    middle = load_task(f"{source}?ask=middle&thought=none&context=1")
    assert middle["prompt"][0] == "It rains in May. [...] Cars go slowly.\n[...] = "
    assert load_task(f"{source}?ask=next&min_words=4")["answer"] == [
        "The road is wet then.",
        "Nobody minds the wait.",
    ]
    assert len(load_task(source, limit=2)) == 2


def test_a_folder_gives_the_prompts_of_its_files(source: str, tmp_path: Path) -> None:
    (tmp_path / "snow.txt").write_text("It snows. The road is white.")
    both = load_task(f"rlpt:{tmp_path}?ask=next")
    assert set(both["data_source"]) == {"rlpt:rain/next", "rlpt:snow/next"}


@given(st.floats(0.05, 20), st.integers(0, 200))
def test_lambda_weighs_middle_against_next_by_rows(weight: float, pairs: int) -> None:
    rows = [{"extra_info": {"ask": ask}} for _ in range(pairs) for ask in ("next", "middle")]
    kept = [r["extra_info"]["ask"] for r in thin_out(rows, RLPTOptions(middle_weight=weight))]
    nexts, middles = kept.count("next"), kept.count("middle")
    assert abs(middles - weight * nexts) <= max(1, weight)
    assert max(nexts, middles) == pairs  # the heavier kind loses none


def test_lambda_of_one_half_leaves_every_other_middle_out(source: str) -> None:
    assert asked(load_task(f"{source}?middle_weight=0.5")) == ["next", "middle", "next", "next"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", "", "is empty; give it some text"),
        (" \n\n", "", "is empty"),
        ("Only one sentence here.", "", "gives no prompt"),
        ("It is one. And so on.", "?ask=middle", "gives no prompt"),
        (TEXT, "?ask=nxt", "did you mean 'next'?"),
        (TEXT, "?contxt=3", "did you mean 'context'?"),
        (TEXT, "?context=0", "must be at least 1"),
        (TEXT, "?context=two", "must be a whole number"),
        (TEXT, "?middle_weight=0", "must be above 0"),
    ],
)
def test_bad_input_is_named_in_one_sentence(
    tmp_path: Path, text: str, options: str, said: str
) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError) as caught:
        load_task(f"rlpt:{tmp_path / 't.txt'}{options}")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="not UTF-8"):
        load_task(f"rlpt:{tmp_path / 'x.txt'}")
    with pytest.raises(UserError, match="there is no file"):
        load_task(f"rlpt:{tmp_path / 'y.txt'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.txt file"):
        load_task(f"rlpt:{tmp_path / 'empty'}")


# -- the reward ------------------------------------------------------------------------------


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("“Don’t!”—he said, 1,000.5 times.") == ["don't", "he", "said", "1,000.5", "times"]
    assert words("4 - 6 = -2, or −2; 3-4") == ["4", "6", "-2", "or", "-2", "3", "4"]


@pytest.mark.parametrize(
    ("prediction", "least", "right"),
    [
        ("The road is wet then.", 3, True),
        ("the road IS", 3, True),
        ("The road", 3, False),  # too few words
        ("The road is we", 3, False),  # the last word is cut
        ("The road is wet then. Cars", 3, False),  # longer than the sentence
        ("Road is wet", 1, False),
        ("", 1, False),
        ("...", 1, False),
        ("The road is wet then", 9, True),  # all of it is enough
    ],
)
def test_a_prediction_is_right_if_it_begins_the_sentence(
    prediction: str, least: int, right: bool
) -> None:
    assert prefix_match(prediction, "The road is wet then.", least) is right


@given(st.lists(st.sampled_from(["road", "wet", "5", "May"]), min_size=1, max_size=8), st.data())
def test_every_long_enough_beginning_is_right(sentence: list[str], data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(sentence)))
    assert prefix_match(" ".join(sentence[:length]), " ".join(sentence), length)


def test_the_prediction_is_what_is_marked_or_the_first_sentence() -> None:
    assert prediction_of("<think>Hm. Ah.</think><answer>Cars go.</answer>") == "Cars go."
    assert prediction_of("<think>Hm. Ah.</think> Cars go. They stop.") == "Cars go."
    assert prediction_of("Cars go. They stop.") == "Cars go."
    assert prediction_of("") == ""


def test_reward_of_a_loaded_row(source: str) -> None:
    task = load_task(source)
    columns = {name: [task[0][name]] * 3 for name in ("answer", "extra_info", "data_source")}
    texts = ["<answer>The road is</answer>", "<answer>The road</answer>", "Cars go slowly."]
    assert load_reward("rlpt")(prompts=[""] * 3, completions=texts, **columns) == [1.0, 0.0, 0.0]


def test_a_prediction_may_run_on_into_the_sentences_that_follow(source: str) -> None:
    row = load_task(f"{source}?ask=next&following=1")[0]
    alone = load_task(f"{source}?ask=next&following=0")[0]

    def reward(prediction: str, row: Any) -> float | None:
        columns = {key: [row[key]] for key in ("answer", "extra_info", "data_source")}
        return rlpt_reward(["?"], [f"<answer>{prediction}</answer>"], **columns)[0]

    both = "The road is wet then. Cars go"
    assert reward(both, row) == 1 and reward(both, alone) == 0
    assert reward("The road is wet", alone) == 1
    assert reward(f"{both} slowly. Nobody minds", row) == 0  # two sentences on
    assert reward("The road is wet then. Cars stop.", row) == 0
    assert reward("Cars go slowly.", row) == 0
    with pytest.raises(UserError, match="following must not be negative"):
        load_task(f"{source}?following=-1")


def test_rows_of_other_tasks_are_not_scored() -> None:
    found = rlpt_reward([""] * 2, ["a", "a"], answer=["a", "a"], data_source=["gym:x", "rlpt:t"])
    assert found == [None, 1.0]


JUDGE = """
def same_length(prompts, completions, answer, **columns):
    return [float(len(c.split()) == len(a.split())) for c, a in zip(completions, answer)]
"""


def test_a_judge_is_given_predictions_instead_of_completions(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    texts = ["<think>long thought</think><answer>Cars stop now</answer>", "Cars"]
    judged = load_reward("rlpt", judge=f"{tmp_path / 'judge.py'}:same_length")
    found = judged(
        prompts=[""] * 2,
        completions=texts,
        answer=["Roads are wet."] * 2,
        data_source=["rlpt:t"] * 2,
    )
    assert found == [1.0, 0.0]
    assert make_rlpt_reward(lambda completions, **rest: [0.5])([""], ["a"], answer=["b"]) == [0.5]


def test_a_judge_without_the_reward_or_without_a_file_is_refused(tmp_path: Path) -> None:
    common = {"dataset": "rlpt:x.txt", "steps": 1, "judge": "judge.py:f"}
    with pytest.raises(UserError, match="judge is for the reward rlpt"):
        build(TrainSettings, common | {"reward": "math"}).check()
    build(TrainSettings, common | {"reward": "rlpt"}).check()
    with pytest.raises(UserError, match=r"not of the form path/to/file\.py:name"):
        load_reward("rlpt", judge="exact_match")

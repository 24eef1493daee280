"""Where a sentence ends, and where a full stop means something else."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.rewards.sentences import first_sentence, split_paragraphs, split_sentences

TIDES = Path(__file__).parent.parent / "examples" / "data" / "tides.txt"


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rains.", "The road is wet!", "Why?", "Nobody knows..."],
        ["Dr. Smith met Mrs. Jones at St. Mary's.", "They talked."],
        ["It cost $3.14 in v. 2.5.1 of the list.", "Then 1,000.50 more."],
        ["See e.g. Fig. 3 or cf. Eq. 2.", "It is No. 5."],
        ["The answer was no.", "The shop (est. 1990) closed."],
        ["J. R. Smith joined the U.S. Army in Jan. 1944.", "He left the U.S.", "The end."],
        ["He came at 5 p.m.", "She left.", "Apples, pears, etc. are fruit."],
        ["“Stop!” he said.", "“Why?”", "She left."],
        ['He said "go."', "(She went.)", "[It ended.]"],
        ["So did I.", "Then we slept."],
        ["1. First of all, eat.", "2. Then sleep."],
        ["Visit example.com now.", "It has no stop"],
        ["Wait…", "What?!", "No."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_blank_line_ends_a_sentence_and_a_line_break_does_not() -> None:
    assert split_sentences("A title\n\nOne line\nand the next.\n \nEnd") == [
        "A title",
        "One line and the next.",
        "End",
    ]
    assert split_paragraphs("a\r\n\r\nb\n\n\n\nc  d\n") == ["a", "b", "c d"]


def test_wide_marks_need_no_space() -> None:
    assert split_sentences("今天下雨。路很湿！为什么？") == ["今天下雨。", "路很湿！", "为什么？"]


def test_the_first_sentence_of_nothing_is_nothing() -> None:
    assert first_sentence(" \n") == ""
    assert first_sentence("A b. C d.") == "A b."


def test_the_example_text_is_cut_as_a_reader_would() -> None:
    sentences = split_sentences(TIDES.read_text())
    assert len(sentences) == 18
    assert any(s.endswith("about 12.4 hours later.") for s in sentences)
    assert any("e.g. in the Bay of Fundy, where the range exceeds 15 m." in s for s in sentences)


@given(st.text(alphabet="aB1 .!?\"')\n,。", max_size=80))
def test_nothing_is_lost_but_white_space(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)


def test_a_long_paragraph_takes_time_in_proportion() -> None:
    began = time.perf_counter()
    assert len(split_sentences("Mr. A paid 3.5 for it. Then he left. " * 20_000)) == 40_000
    assert time.perf_counter() - began < 5

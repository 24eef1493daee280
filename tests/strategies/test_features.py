"""Features of prompts: what is kept of an embedding, and when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dopr.core.ledger import Ledger
from dopr.core.moves import Moves
from dopr.core.strategy import Measure, StepPlan
from dopr.core.stream import PromptStream
from dopr.strategies.parts.features import FEATURES, LANDMARKS, PromptFeatures


@dataclass
class Reader(PromptFeatures):
    name = "reader"

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        raise NotImplementedError


def read(reader: Reader, size: int, ids: list[int], answer: Callable[[Measure], Any]) -> Any:
    plan = reader.read(PromptStream(size), np.array(ids))
    try:
        asked = next(plan)
        while True:
            asked = plan.send(answer(asked))
    except StopIteration as stop:
        return stop.value


def reader() -> Reader:
    made = Reader()
    made.can_measure = frozenset({"embedding"})
    return made


def test_a_prompt_is_read_once_and_by_the_first_layer() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 100))
    asked: list[Measure] = []

    def answer(measure: Measure) -> Any:
        asked.append(measure)
        return vectors[list(measure.prompt_ids)]

    one = reader()
    first = read(one, 40, list(range(20)), answer)
    again = read(one, 40, [3, 25, 3, 7], answer)
    assert [m.prompt_ids for m in asked] == [tuple(range(20)), (25,)]
    assert {m.layers for m in asked} == {1}
    assert again[[0, 2, 3]].tolist() == first[[3, 3, 7]].tolist()
    assert first.shape == (20, FEATURES)


def test_features_keep_the_distances_between_standardised_embeddings() -> None:
    # Three directions and scales of their own: sixteen axes hold all there is.
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 50)) * rng.uniform(0.1, 9, 50) + 5
    found = read(reader(), 30, list(range(30)), lambda m: vectors[list(m.prompt_ids)])
    plain = (vectors - vectors.mean(0)) / vectors.std(0)
    apart = np.linalg.norm(plain[:, None] - plain[None], axis=2)
    assert np.linalg.norm(found[:, None] - found[None], axis=2) == pytest.approx(apart, abs=0.05)
    likeness = np.exp(-(apart**2) / (2 * np.median(apart[np.triu_indices(30, 1)] ** 2)))
    one = reader()
    read(one, 30, list(range(30)), lambda m: vectors[list(m.prompt_ids)])
    assert one.likeness(found, found) == pytest.approx(likeness, abs=0.01)


def test_without_embeddings_there_are_no_features() -> None:
    assert read(Reader(), 5, [1, 2], pytest.fail) is None


def test_embeddings_that_are_no_numbers_or_beyond_bounds_do_no_harm() -> None:
    vectors = np.random.default_rng(2).normal(size=(9, 4))
    vectors[2, 1], vectors[3, 0] = np.nan, np.inf
    one = reader()
    found = read(one, 9, list(range(8)), lambda m: vectors[list(m.prompt_ids)])
    assert np.isfinite(found).all()
    vectors[8] = 1e30
    assert np.isfinite(read(one, 9, [8], lambda m: vectors[list(m.prompt_ids)])).all()


def test_features_follow_their_prompts_to_other_rows() -> None:
    vectors = np.random.default_rng(3).normal(size=(4, 6))
    one = reader()
    before = read(one, 4, [0, 1, 2, 3], lambda m: vectors[list(m.prompt_ids)])
    one.move(Moves(np.array([2, 0, -1, 1]), 5))
    asked: list[Measure] = []

    def answer(measure: Measure) -> Any:
        asked.append(measure)
        return vectors[[0] * len(measure.prompt_ids)]

    after = read(one, 5, [0, 1, 2, 3, 4], answer)
    assert after[:3].tolist() == before[[1, 3, 0]].tolist()
    assert [m.prompt_ids for m in asked] == [(3, 4)]


def test_a_million_prompts_take_tens_of_bytes_each() -> None:
    vectors = np.random.default_rng(4).normal(size=(64, 256)).astype(np.float32)
    one = reader()
    read(one, 1_000_000, list(range(64)), lambda m: vectors[list(m.prompt_ids)])
    state = one.state_dict()
    held = sum(v.nbytes for v in state.values() if isinstance(v, np.ndarray))
    assert held < 33e6


def test_likeness_is_measured_from_prompts_all_over_the_first_batch() -> None:
    # The candidates come in the order of the pool: first all of one kind, then all of another.
    kinds = np.repeat([0.0, 10.0], 40)
    vectors = np.random.default_rng(4).normal(size=(80, 6)) + kinds[:, None]
    one = reader()
    found = read(one, 80, list(range(80)), lambda m: vectors[list(m.prompt_ids)])
    assert len(one._landmarks) == LANDMARKS
    near = one.likeness(found, one._landmarks).max(axis=1)
    assert near.min() > 0.5
    alike = one.likeness(one._landmarks, one._landmarks)
    assert (alike[0] > 0.8).sum() == LANDMARKS // 2

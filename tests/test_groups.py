"""Groups joined and cut: what is known of a rollout stays with it."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr import Group


def group(rewards: list[float], **more: Any) -> Group:
    count = len(rewards)
    return Group(3, np.array(rewards, float), np.full(count, 10), **more)


def test_joined_groups_keep_all_that_was_said_of_their_rollouts() -> None:
    first = group(
        [0, 1],
        step=4,
        entropy=1.0,
        entropies=np.array([0.5, 1.5]),
        final_answers=("a", "b"),
        handle=("x",),
        kept=np.array([1]),
        baseline=0.5,
        weights=np.array([2.0, 3.0]),
    )
    second = group([1, 1, 0], step=6, entropy=2.0, final_answers=("b", "b", "c"), handle=("y",))
    joined = first.join(group([1, 1, 0], **(_said(second) | {"baseline": 0.5})))
    assert joined.rewards.tolist() == [0, 1, 1, 1, 0] and joined.tokens.tolist() == [10] * 5
    assert joined.step == 4 and joined.handle == ("x", "y") and joined.baseline == 0.5
    assert joined.entropy == pytest.approx((20 * 1.0 + 30 * 2.0) / 50)  # over the tokens
    assert joined.entropies is not None and joined.weights is not None and joined.kept is not None
    assert joined.entropies[:2].tolist() == [0.5, 1.5] and np.isnan(joined.entropies[2:]).all()
    assert joined.weights.tolist() == [2.0, 3.0, 1.0, 1.0, 1.0]
    assert joined.kept.tolist() == [1, 2, 3, 4]
    assert joined.final_answers == ("a", "b", "b", "b", "c")
    assert joined.disagreement == pytest.approx(1 - 3 / 10)  # of ten pairs three agree


def _said(of: Group) -> dict[str, Any]:
    plain = {field.name: getattr(of, field.name) for field in fields(of)}
    return {k: v for k, v in plain.items() if k not in ("prompt_id", "rewards", "tokens")}


def test_plain_groups_join_to_a_plain_one() -> None:
    joined = group([0]).join(group([1]))
    assert joined.kept is joined.weights is joined.entropies is joined.final_answers is None
    assert joined.baseline is None and np.isnan(joined.entropy) and np.isnan(joined.disagreement)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_rollouts_to_be_kept_are_the_same_after_joining(a: int, b: int, data: Any) -> None:
    indices = [data.draw(st.lists(st.integers(0, n - 1), unique=True)) for n in (a, b)]
    parts = [
        group([float(10 * which + i) for i in range(n)]).keep(np.array(kept, dtype=np.int64))
        for which, (n, kept) in enumerate(zip((a, b), indices, strict=True))
    ]
    joined = parts[0].join(parts[1])
    assert joined.kept is not None
    expected = [value for part in parts for value in part.rewards[part.kept].tolist()]
    assert joined.rewards[joined.kept].tolist() == expected


def test_what_one_group_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot join prompts 3 and 4"):
        group([0]).join(Group(4, np.zeros(1), np.ones(1, np.int64)))
    with pytest.raises(ValueError, match=r"baselines 0\.5 and None"):
        group([0], baseline=0.5).join(group([1]))
    with pytest.raises(ValueError, match=r"stds 0\.5 and None"):
        group([0], std=0.5).join(group([1]))


def test_what_is_expected_leaves_the_rest_of_a_group_as_it_is() -> None:
    every = {
        "prompt_id": 3,
        "rewards": np.array([0.0, 1.0]),
        "tokens": np.array([4, 5]),
        "step": 7,
        "entropy": 0.5,
        "entropies": np.array([0.4, 0.6]),
        "final_answers": ("1", "2"),
        "handle": ("a",),
        "kept": np.array([1]),
        "baseline": 0.25,
        "weights": np.array([1.0, 2.0]),
        "std": 0.75,
        "expected_mean": 0.1,
        "expected_std": 0.2,
    }
    assert set(every) == {f.name for f in fields(Group)}  # a new field belongs here too
    expecting = Group(**every).expecting(0.9, 0.5)
    for name, value in (every | {"expected_mean": 0.9, "expected_std": 0.5}).items():
        assert getattr(expecting, name) is value

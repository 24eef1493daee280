"""The soft length penalty, by name and with its options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopr.core.errors import UserError
from dopr.rewards import load_reward, make_length_penalty


def penalties(reward, lengths):
    ids = [[7] * length for length in lengths]
    texts = ["?"] * len(lengths)
    return reward(prompts=texts, completions=texts, completion_ids=ids, trainer_state=None)


def test_the_penalty_falls_linearly_over_the_cache_and_stays_at_minus_one():
    reward = make_length_penalty(100, cache=20)
    assert penalties(reward, [0, 80, 85, 90, 100, 101, 500]) == [0, 0, -0.25, -0.5, -1, -1, -1]
    assert reward.__name__ == "length_penalty"


def test_the_cache_is_a_fifth_by_default_and_may_be_none_at_all():
    assert penalties(make_length_penalty(20480), [16384, 18432, 20480]) == [0.0, -0.5, -1.0]
    assert penalties(make_length_penalty(10, cache=0), [10, 11]) == [0.0, -1.0]


@given(st.integers(1, 300), st.data())
def test_a_longer_completion_is_never_punished_less(longest, data):
    reward = make_length_penalty(longest, data.draw(st.integers(0, longest)))
    found = penalties(reward, range(longest + 3))
    assert found == sorted(found, reverse=True)
    assert found[0] == 0.0 and found[-1] == -1.0


def test_the_penalty_is_loaded_by_name():
    assert penalties(load_reward("length_penalty?max_length=100&cache=20"), [90]) == [-0.5]
    assert penalties(load_reward("length_penalty", max_completion_length=100), [90]) == [-0.5]
    given_wins = load_reward("length_penalty?max_length=200", max_completion_length=100)
    assert penalties(given_wins, [100]) == [0.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("length_penalty", "max_length=N"),
        ("length_penalty?max_length=ten", "must be a whole number"),
        ("length_penalty?max_length=10&cache=11", "cache 11"),
        ("length_penalty?max_length=0", "at least 1"),
        ("length_penalty?cash=3", "did you mean 'cache'"),
        ("length_penalty?max_length", "has no value"),
        ("exact_match?max_length=3", "takes no options"),
        ("length_penalti", "did you mean 'length_penalty'"),
    ],
)
def test_a_mistake_in_the_options_is_told_in_one_sentence(name, message):
    with pytest.raises(UserError, match=message):
        load_reward(name)


def test_completions_without_tokens_are_refused():
    with pytest.raises(UserError, match="counts tokens"):
        make_length_penalty(10)(prompts=["?"], completions=["a"])

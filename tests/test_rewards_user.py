"""Rewards by name, and a user's own in a child process."""

import math
import time

import pytest

from dopr.core.errors import UserError
from dopr.rewards import IsolatedReward, checker_stats, load_reward, math_reward

SOURCE = """
import time

def length(completions, **columns):
    return [float(len(c)) for c in completions]

def with_answer(prompts, completions, answer, log_metric=None, **columns):
    assert "trainer_state" not in columns and "thing" not in columns
    print("this must not disturb the pipe")
    log_metric("mine", 3.0)
    return [1.0 if c == a else None for c, a in zip(completions, answer)]

def slow(completions, **columns):
    if completions[0] == "hang":
        time.sleep(60)
    return [1.0] * len(completions)

def broken(completions, **columns):
    return [1 / 0 for _ in completions]

def short(completions, **columns):
    return [1.0]

def odd(completions, **columns):
    return [float("nan"), float("inf"), 1.0, -1e300]

def words(completions, **columns):
    return ["good" for _ in completions]

def gives_nothing(completions, **columns):
    pass

def mapping(completions, **columns):
    return {i: 1.0 for i in range(len(completions))}

def one_text(completions, **columns):
    return "1.0"

def one_number(completions, **columns):
    return 1.0

async def later(completions, **columns):
    return [2.0] * len(completions)

def dies(completions, **columns):
    import os
    os._exit(3)

number = 3
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return lambda name: f"{path}:{name}"


def call(reward, completions, **columns):
    return reward(prompts=["p"] * len(completions), completions=completions, **columns)


def test_own_rewards_are_found_by_short_and_full_name():
    assert load_reward("math") is load_reward("math_reward") is math_reward
    with pytest.raises(UserError, match="did you mean 'format'"):
        load_reward("fromat")


def test_a_reward_from_a_file_runs_isolated_or_here(spec):
    isolated = load_reward(spec("length"))
    assert isinstance(isolated, IsolatedReward) and isolated.__name__ == "length"
    assert call(isolated, ["ab", ""]) == [2.0, 0.0]
    assert call(load_reward(spec("length"), isolate=False), ["ab"]) == [2.0]
    assert call(load_reward(spec("later")), ["ab"]) == [2.0]


def test_columns_and_loggers_reach_an_isolated_reward(spec):
    logged = []
    rewards = call(
        load_reward(spec("with_answer")),
        ["a", "b"],
        answer=["a", "c"],
        trainer_state=object(),
        thing=object(),
        log_metric=lambda name, value: logged.append((name, value)),
        log_extra=lambda name, values: None,
    )
    assert rewards == [1.0, None]
    assert ("mine", 3.0) in logged


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "nothing"), ("number", "not callable"), ("lenght", "lenght")]
)
def test_a_name_that_is_no_function_is_a_user_error(spec, name, message, isolate):
    with pytest.raises(UserError, match=message):
        load_reward(spec(name), isolate=isolate)


def test_a_missing_or_broken_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load_reward(f"{tmp_path}/absent.py:f")
    (tmp_path / "bad.py").write_text("x = 1\nimport nowhere_to_be_found\n")
    for isolate in (True, False):
        with pytest.raises(UserError, match=r"ModuleNotFoundError: .* \(bad.py:2\)"):
            load_reward(f"{tmp_path}/bad.py:f", isolate=isolate)


def test_a_hanging_reward_costs_its_limit_and_three_in_a_row_stop_the_run(spec):
    reward = IsolatedReward(spec("slow"), timeout_s=0.4)
    before = checker_stats()["timeouts"]
    started = time.monotonic()
    assert call(reward, ["hang", "x"]) == [None, None]
    assert time.monotonic() - started < 10
    assert reward.timeouts == 1 and checker_stats()["timeouts"] == before + 1
    assert call(reward, ["fine"]) == [1.0]
    call(reward, ["hang"])
    call(reward, ["hang"])
    with pytest.raises(UserError, match="3 times in a row"):
        call(reward, ["hang"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"ZeroDivisionError: division by zero \(mine.py:19\)"),
        ("short", "returned 1 numbers for 3 completions"),
        ("words", "returned a str where a number"),
        ("gives_nothing", "returned a NoneType where a list of numbers belongs"),
        ("mapping", "returned a dict where a list of numbers belongs"),
        ("one_text", "returned a str where a list of numbers belongs"),
        ("one_number", "returned a float where a list of numbers belongs"),
    ],
)
def test_a_mistake_in_a_users_reward_is_told_in_one_sentence(spec, name, message):
    with pytest.raises(UserError, match=message):
        call(load_reward(spec(name)), ["a", "b", "c"])


def test_what_is_not_finite_becomes_none_and_is_counted(spec):
    before = checker_stats()["not_finite"]
    rewards = call(load_reward(spec("odd")), ["a", "b", "c", "d"])
    assert rewards == [None, None, 1.0, None]
    assert not any(reward is not None and math.isnan(reward) for reward in rewards)
    assert checker_stats()["not_finite"] == before + 3


def test_a_reward_whose_process_dies_leaves_its_batch_unscored(spec):
    before = checker_stats()["crashes"]
    assert call(load_reward(spec("dies")), ["a"]) == [None]
    assert checker_stats()["crashes"] == before + 1

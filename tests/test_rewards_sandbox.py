"""Checks that hang, crash or die cost their own verdict and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time

from dopr.rewards import checker_stats, make_math_reward, math_reward
from dopr.rewards.sandbox import Pool

TOWER = r"\boxed{9^{9^{9^{9}}}}"


def score(reward, completions, answers, **columns):
    return reward(
        prompts=["p"] * len(completions), completions=completions, answer=answers, **columns
    )


def test_an_expression_that_hangs_costs_its_time_limit_and_its_verdict_only():
    reward = make_math_reward(time_limit_s=0.7, workers=1)
    score(reward, [r"\boxed{1}"], ["1"])
    before = checker_stats()["timeouts"]
    metrics = {}
    started = time.monotonic()
    rewards = score(
        reward,
        [r"\boxed{3}", TOWER, r"\boxed{3}", r"\boxed{4}"],
        ["3"] * 4,
        log_metric=lambda name, value: metrics.update({name: value}),
    )
    assert rewards == [1.0, None, 1.0, 0.0]
    assert time.monotonic() - started < 20  # the limit plus the start of a new process
    assert checker_stats()["timeouts"] == before + 1
    assert metrics == {"checker/timeouts": 1.0, "checker/crashes": 0.0, "checker/errors": 0.0}


def test_the_start_of_a_worker_does_not_count_against_the_first_item():
    reward = make_math_reward(time_limit_s=0.25, workers=1)  # importing sympy takes longer
    assert score(reward, [r"\boxed{3}"], ["3"]) == [1.0]


def test_a_killed_worker_costs_one_verdict_and_is_replaced():
    pool = Pool("math_handler.py", time_limit_s=60.0, workers=1)
    pool.start()
    victim = pool._workers[0].process.pid
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    hang = {"gold": "3", "prediction": "9^{9^{9^{9}}}", "whole": False}
    fine = {"gold": "3", "prediction": "3", "whole": False}
    outcomes = pool.map([hang, fine])
    assert [outcome.status for outcome in outcomes] == ["crash", "ok"]
    assert pool._workers[0].process.pid != victim
    pool.close()


def test_a_worker_that_died_between_calls_is_replaced_unnoticed():
    pool = Pool("math_handler.py", workers=1)
    pool.start()
    pool._workers[0].process.kill()
    pool._workers[0].process.wait()
    fine = {"gold": "3", "prediction": "3", "whole": False}
    assert pool.map([fine])[0].value == 1.0
    pool.close()


def test_memory_is_limited():
    pool = Pool("math_handler.py", memory_mb=2048, workers=1)
    pool.start()
    pid = pool._workers[0].process.pid
    with open(f"/proc/{pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max address space"))
    assert str(2048 * 2**20) in line
    pool.close()


def test_math_reward_works_from_threads():
    results = {}

    def work(number):
        results[number] = score(math_reward, [rf"\boxed{{{number}}}", r"\boxed{x}"], [number] * 2)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [1.0, 0.0] for number in range(4)}


def test_math_reward_works_in_a_script_without_a_main_guard_and_leaves_no_child(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dopr.rewards import math_reward, mathematics\n"
        r"print(math_reward(['p'], [r'\boxed{0.5}'], answer=[r'\frac12']))" + "\n"
        "pool = math_reward.__closure__[0].cell_contents\n"
        "print(pool._workers[0].process.pid)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    rewards, pid = done.stdout.split("\n")[:2]
    assert rewards == "[1.0]", done.stderr
    assert not os.path.exists(f"/proc/{pid}")


def test_a_large_batch_and_large_completions_pass_through_the_pipes():
    filler = "word " * 40_000
    completions = [filler + rf"\boxed{{{number}}}" for number in range(8)]
    completions += [rf"\boxed{{{number}}}" for number in range(200)]
    assert score(math_reward, completions, [*range(8), *range(200)]) == [1.0] * 208


def test_a_whole_long_completion_without_marker_is_sent_and_answered():
    completion = "word " * 40_000 + "The answer is $18$."
    assert score(math_reward, [completion], ["18"]) == [1.0]

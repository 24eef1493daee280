"""Checks that hang, crash or die cost their own verdict and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dopr.rewards import checker_stats, make_math_reward, math_reward
from dopr.rewards.sandbox import Workers

# Is computed where the reference is a formula; as a number it is refused unread.
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
        ["3", "x", "3", "3"],
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
    checkers = Workers("math_check", time_limit_s=60.0, workers=1)
    checkers.start()
    victim = checkers._workers[0].process.pid
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    hang = {"golds": ["x"], "prediction": "9^{9^{9^{9}}}", "whole": False}
    fine = {"golds": ["3"], "prediction": "3", "whole": False}
    outcomes = checkers.map([hang, fine])
    assert [outcome.status for outcome in outcomes] == ["crash", "ok"]
    assert checkers._workers[0].process.pid != victim
    checkers.close()


def test_a_worker_that_died_between_calls_is_replaced_unnoticed():
    checkers = Workers("math_check", workers=1)
    checkers.start()
    checkers._workers[0].process.kill()
    checkers._workers[0].process.wait()
    fine = {"golds": ["3"], "prediction": "3", "whole": False}
    assert checkers.map([fine])[0].value == 1.0
    checkers.close()


def test_memory_is_limited():
    checkers = Workers("math_check", memory_mb=2048, workers=1)
    checkers.start()
    pid = checkers._workers[0].process.pid
    with open(f"/proc/{pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max address space"))
    assert str(2048 * 2**20) in line
    checkers.close()


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
        "checkers = math_reward.__closure__[0].cell_contents\n"
        "print(checkers._workers[0].process.pid)\n"
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


ONLY_IN_WORKERS = "import sys\nif any(a.endswith('worker.py') for a in sys.orig_argv):\n"
NO_LIMIT = """
    import resource
    _set = resource.setrlimit
    def setrlimit(kind, limits):
        if kind in ({kinds}):
            raise {error}
        return _set(kind, limits)
    resource.setrlimit = setrlimit
"""
SYSTEMS = {  # what checking processes find there, and what is said not to be enforced
    "no module resource": ("    sys.modules['resource'] = None\n", ["memory", "processor time"]),
    "memory cannot be limited": (
        NO_LIMIT.format(kinds="resource.RLIMIT_AS,", error="ValueError('exceeds maximum limit')"),
        ["memory (setrlimit: exceeds maximum limit)"],
    ),
    "nothing can be limited": (
        NO_LIMIT.format(kinds="resource.RLIMIT_AS, resource.RLIMIT_CPU", error="OSError('denied')"),
        ["memory (setrlimit: denied)", "processor time (setrlimit: denied)"],
    ),
    "limits as low as the system set them": ("    pass\n", []),
}
NO_GROUPS = """
import os
for name in ("fork", "setsid", "killpg"):
    delattr(os, name)
"""
SCORES = r"""
from dopr.rewards import make_math_reward
reward = make_math_reward(time_limit_s=1.0, workers=1)
texts = [r"\boxed{4}", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{5}"]
print(reward(prompts=["?"] * 3, completions=texts, answer=["4", "x", "4"]))
print(reward(prompts=["?"], completions=[r"\boxed{4.0}"], answer=["4"]))
"""


def run_script(tmp_path, worker_start="", script=SCORES):
    """The script's output lines and stderr, where checking processes begin with `worker_start`."""
    (tmp_path / "sitecustomize.py").write_text(ONLY_IN_WORKERS + (worker_start or "    pass\n"))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("name", SYSTEMS)
def test_checkers_run_where_limits_cannot_be_set_and_say_once_what_is_not_enforced(tmp_path, name):
    start, unenforced = SYSTEMS[name]
    lines, errors = run_script(tmp_path, start)
    assert lines == ["[1.0, None, 0.0]", "[1.0]"], errors
    warnings = [line for line in errors.splitlines() if "not enforced" in line]
    assert len(warnings) == bool(unenforced), errors
    for limit in unenforced:
        assert limit in warnings[0]


def test_checkers_run_where_there_are_no_sessions_and_no_groups_of_processes(tmp_path):
    lines, errors = run_script(tmp_path, script=NO_GROUPS + SCORES)
    assert lines == ["[1.0, None, 0.0]", "[1.0]"], errors
    assert errors.count("not enforced: the end of processes that a check has started") == 1


def test_a_limit_lower_than_ours_is_kept(tmp_path):
    script = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 3 << 30))
from dopr.rewards.sandbox import Workers
checkers = Workers("math_check", memory_mb=8192, workers=1)
checkers.start()
limits = open(f"/proc/{checkers._workers[0].process.pid}/limits").read()
print(next(line for line in limits.splitlines() if line.startswith("Max address space")))
"""
    lines, errors = run_script(tmp_path, script=script)
    assert str(3 << 30) in lines[0] and "not enforced" not in errors


def test_an_answer_that_waits_in_the_pipe_is_not_overdue():
    checkers = Workers("math_check", time_limit_s=0.5, workers=1)
    checkers.start()
    worker = checkers._workers[0]
    worker.assign(0, {"golds": ["3"], "prediction": "3", "whole": False}, 0.5)
    time.sleep(1.5)  # nobody looks; the child has answered long ago
    outcomes = [None]
    checkers._wait(outcomes)
    assert outcomes[0].value == 1.0
    checkers.close()

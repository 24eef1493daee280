"""Code is scored by its tests, and cannot do much else while it runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopr.core.errors import UserError
from dopr.rewards import checker_stats, code_reward, load_reward, make_code_reward
from dopr.rewards.code import extract_code
from dopr.rewards.code_check import compare
from dopr.rewards.code_tests import find_tests

SQUARE = "def f(x):\n    return x * x\n"
TESTS = ["assert f(2) == 4", "assert f(3) == 9"]
quick = make_code_reward(
    test_limit_s=2.0, check_limit_s=20.0, memory_mb=512, file_mb=1.0, workers=2
)
shares = make_code_reward(partial=True, test_limit_s=1.0, check_limit_s=20.0, workers=2)


def fenced(code):
    return f"Here it is:\n```python\n{code}\n```\nThat is all."


def score(codes, reward=quick, **columns):
    """One score a code; a column is one row's value, the same for all codes."""
    completions = [fenced(code) for code in codes]
    lists = {name: [value] * len(codes) for name, value in columns.items()}
    return reward(prompts=["p"] * len(codes), completions=completions, **lists)


def test_code_is_right_where_every_assertion_holds():
    codes = [SQUARE, "def f(x): return x + 2", "def f(x): return", "def g(x): return 4", "f(", ""]
    assert score(codes, test_list=TESTS) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_share_of_tests_is_given_where_asked_for():
    tests = ["assert f(2) == 4", "assert f(0) == 0", "assert f(3) == 9", "assert f(-1) == 1"]
    hangs = "def f(x):\n    while x == 0: pass\n    return x * x"
    dies = "import os\ndef f(x):\n    if x == 0: os._exit(0)\n    return x * x"
    raises = "def f(x):\n    if x == 0: raise SystemExit\n    return x * x"
    codes = [SQUARE, "def f(x): return x + 2", hangs, dies, raises, "while True: pass"]
    assert score(codes, shares, test_list=tests) == [1.0, 0.5, 0.75, 0.75, 0.75, 0.0]


def test_code_that_hangs_or_eats_memory_or_disk_is_wrong_and_not_unscored():
    before = checker_stats()
    codes = [
        "def f(x):\n    while True: pass",
        "import time\ntime.sleep(1000)",
        "def f(x):\n    a = [0] * 10**9\n    return x * x",
        "i = 0\nwhile True:\n    open(str(i), 'w').write('x' * 100000)\n    i += 1",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
        "import os\nos._exit(0)",
        "raise SystemExit",
    ]
    assert score(codes, test_list=TESTS) == [0.0] * len(codes)
    after = checker_stats()
    assert all(after[kind] == before[kind] for kind in ("timeouts", "crashes", "errors"))
    printing = {"test_cases": [{"input": "", "output": "1"}]}
    assert score(["while True: print('x' * 1000)"], verification_info=printing) == [0.0]


ATTEMPTS = {
    "an internet socket": "import socket; socket.socket()",
    "a datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a local socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a process": "import subprocess; subprocess.run(['true'])",
    "a fork": "import os; os.fork()",
    "a shell": "import os; assert os.system('true') == 0",
    "a file elsewhere": "open('{outside}', 'w')",
    "a removal": "import os; os.unlink('{file}')",
    "a rename": "import os; os.rename('{file}', '{file}.2')",
    "a folder": "import os; os.mkdir('{outside}')",
    "new modes": "import os; os.chmod('{file}', 0)",
    "reading a file": "open('{file}').read()",
    "listing a folder": "import os; os.listdir('{folder}')",
    "another's environment": "open('/proc/{parent}/environ').read()",
    "a signal to the parent": "import os; os.kill(os.getppid(), 0)",
    "a signal to everyone": "import os; os.kill(-1, 0)",
    "a higher limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "a large file": "open('large', 'w').write('x' * 3_000_000)",
    "a secret in the environment": "import os; os.environ['SECRET_TOKEN']",
}
PERMITTED = {
    "threads": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
    "its own files": "open('own', 'w').write('x'); assert open('own').read() == 'x'",
    "temporary files": "import tempfile; tempfile.TemporaryFile().write(b'x')",
    "numpy": "import numpy; assert numpy.ones(3).sum() == 3",
    "the standard library": "import datetime, decimal, fractions, json, sqlite3, zoneinfo",
    "recursion": "import sys; sys.setrecursionlimit(10**5); g = lambda n: n and g(n - 1); g(9000)",
}


def attempt(action):
    """Code whose test holds where the action works."""
    return f"def f(x):\n    {action}\n    return x * x"


linux = pytest.mark.skipif(sys.platform != "linux", reason="the means are Linux's")


@linux
def test_what_code_may_not_do_fails_and_what_solutions_need_works(tmp_path, monkeypatch):
    file, outside = tmp_path / "file", tmp_path / "new"
    file.write_text("secret")
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    places = {"file": file, "outside": outside, "folder": tmp_path, "parent": os.getpid()}
    forbidden = [attempt(action.format(**places)) for action in ATTEMPTS.values()]
    scores = dict(zip(ATTEMPTS, score(forbidden, test_list=TESTS), strict=True))
    assert scores == dict.fromkeys(ATTEMPTS, 0.0)
    assert file.read_text() == "secret" and file.stat().st_mode & 0o400 and not outside.exists()
    permitted = [attempt(action) for action in PERMITTED.values()]
    scores = dict(zip(PERMITTED, score(permitted, test_list=TESTS), strict=True))
    assert scores == dict.fromkeys(PERMITTED, 1.0)


CHEATS = {
    "an object that equals everything": (
        "class A:\n    def __eq__(self, other): return True\n    def __hash__(self): return 4\n"
        "def f(x): return A()"
    ),
    "an integer that equals everything": (
        "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(1)"
    ),
    "an end before the tests": "import os, atexit\natexit.register(os._exit, 0)\nraise SystemExit",
    "results of its own": (
        "import json\nfor n in range(9):\n"
        "    open('results.jsonl', 'a').write(json.dumps({'test': n, 'value': 4}) + chr(10))\n"
        "def f(x): return None"
    ),
    "another comparison": (
        "import builtins\nbuiltins.bool = lambda x: True\nbuiltins.all = lambda x: True\n"
        "def f(x): return 0"
    ),
    "a look at what is expected": (
        "import os\ndef f(x):\n    return 4 if os.path.exists('job.json') else None"
    ),
}


def test_code_cannot_say_itself_that_it_passes():
    assert score(list(CHEATS.values()), test_list=TESTS) == [0.0] * len(CHEATS)


def test_programs_read_and_print():
    info = {
        "language": "python",
        "test_cases": [
            {"input": "3\n", "output": "6\n", "type": "stdin_stdout", "fn_name": None},
            {"input": "4", "output": "8 \n\n", "type": "stdin_stdout", "fn_name": None},
        ],
    }
    double = "if __name__ == '__main__':\n    print(int(input()) * 2)"
    codes = [double, "print(6)", "print(int(input()) * 2)\nraise ValueError", "import sys\n"]
    assert score(codes, verification_info=info) == [1.0, 0.0, 0.0, 0.0]
    assert score([double], verification_info=json.dumps(info)) == [1.0]
    columns = {name: [case[name] for case in info["test_cases"]] for name in ("input", "output")}
    assert score([double], verification_info={"test_cases": columns}) == [1.0]
    assert score(codes[:2], shares, verification_info=info) == [1.0, 0.5]


def test_functions_are_called_as_each_data_set_writes_it():
    method = "class Solution:\n    def add(self, a: List[int], b: int):\n        return [*a, b]"
    verl = json.dumps({"inputs": ["[1, 2]\n3"], "outputs": ["[1, 2, 3]"], "fn_name": "add"})
    apps = {"inputs": [[[1, 2], 3]], "outputs": [[[1, 2, 3]]], "fn_name": "add"}
    open_r1 = {
        "test_cases": [
            {
                "input": "[[1, 2], 3]",
                "output": "[1, 2, 3]",
                "type": "function_call",
                "fn_name": "add",
            }
        ]
    }
    live = [{"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}]
    rows = [
        {"input_output": json.dumps(apps)},
        {"ground_truth": verl},
        {"answer": verl},
        {"reward_model": {"ground_truth": verl, "style": "rule"}},
        {"verification_info": open_r1},
        {"public_test_cases": json.dumps(live), "metadata": json.dumps({"func_name": "add"})},
        {"extra_info": json.dumps({"input_output": apps})},
        {"ground_truth": json.dumps({"assert_case": ["assert Solution().add([1], 2) == [1, 2]"]})},
    ]
    for row in rows:
        assert score([method, method.replace("[*a, b]", "a")], **row) == [1.0, 0.0], row


def test_a_checked_function_may_continue_its_prompt():
    prompt = 'def f(x):\n    """The square of x."""\n'
    row = {
        "test": [
            "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9"
        ]
        * 3,
        "entry_point": ["f"] * 3,
    }
    completions = ["    return x * x", fenced(SQUARE), "    return 4"]
    assert quick(prompts=[prompt] * 3, completions=completions, **row) == [1.0, 1.0, 0.0]


def test_the_setup_of_a_row_runs_before_its_code():
    row = {"test_list": ["assert close(f(2), 4)"], "test_imports": ["import math as m"]}
    row["test_setup_code"] = "def close(a, b): return m.isclose(a, b)"
    assert score([SQUARE, "def f(x): return 5"], **row) == [1.0, 0.0]


def test_rows_without_tests_and_in_other_languages_are_unscored(caplog):
    rows = {
        "test_list": [TESTS, None, None],
        "verification_info": [
            None,
            {"language": "cpp", "test_cases": [{"input": "", "output": ""}]},
            None,
        ],
    }
    completions = [fenced(SQUARE)] * 3
    reward = make_code_reward(workers=1)
    assert reward(prompts=["p"] * 3, completions=completions, **rows) == [1.0, None, None]
    assert reward(prompts=["p"], completions=completions[:1], answer=["42"]) == [None]
    assert "no row of a batch has tests" in caplog.text
    with pytest.raises(UserError, match="needs tests in one of the columns"):
        reward(prompts=["p"], completions=completions[:1], solution=["42"])
    with pytest.raises(UserError, match="'tests' holds tests in a form"):
        reward(prompts=["p"], completions=completions[:1], tests=[[1, 2]])
    with pytest.raises(UserError, match="2 inputs and 1 outputs"):
        reward(prompts=["p"], completions=["x"], input_output=[{"inputs": [1, 2], "outputs": [1]}])


@linux
def test_a_dead_checking_process_gives_none_and_is_counted():
    reward = make_code_reward(workers=1)
    assert score([SQUARE], reward, test_list=TESTS) == [1.0]
    workers = next(
        cell.cell_contents
        for cell in reward.__closure__
        if type(cell.cell_contents).__name__ == "Workers"
    )
    before = checker_stats()["crashes"]
    victim = workers._workers[0].process.pid
    threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
    sleeper = "import time\ntime.sleep(60)"
    assert score([sleeper], reward, test_list=TESTS) == [None]
    assert checker_stats()["crashes"] == before + 1
    deadline = time.monotonic() + 10  # what it had started dies with it
    while _running("runner.py", victim) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _running("runner.py", victim)


def _running(script, parent):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == parent and script in (folder / "cmdline").read_text():
                return True
        except (OSError, IndexError):
            continue
    return False


# Said to processes as they start; the environment of what they start does not pass it on by itself.
SIMULATED = """
import subprocess, sys
if any(a.endswith(('worker.py', 'runner.py')) for a in sys.orig_argv):
    {action}
if any(a.endswith('worker.py') for a in sys.orig_argv):
    start = subprocess.Popen.__init__
    def popen(self, *args, env=None, **named):
        start(self, *args, env=env | {{'PYTHONPATH': {folder!r}}}, **named)
    subprocess.Popen.__init__ = popen
"""
SYSTEMS = {
    "no module resource": ("sys.modules['resource'] = None", ["memory", "processor time"]),
    "another system": ("sys.platform = 'freebsd14'", ["network", "other processes"]),
    "an architecture without a filter": (
        "import platform; platform.machine = lambda: 'riscv64'",
        ["other processes (no filter of system calls for riscv64)"],
    ),
}


@linux
@pytest.mark.parametrize("name", SYSTEMS)
def test_code_runs_where_not_all_can_be_enforced_and_it_is_said(tmp_path, name):
    action, unenforced = SYSTEMS[name]
    source = SIMULATED.format(action=action, folder=str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(source)
    codes = [fenced(SQUARE), fenced("def f(x): return x")]
    script = (
        "from dopr.rewards import make_code_reward\n"
        f"rows = [{TESTS!r}, {TESTS!r}]\n"
        f"print(make_code_reward()(['p'] * 2, {codes!r}, test_list=rows))\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[1.0, 0.0]", done.stderr
    for limit in unenforced:
        assert limit in done.stderr


def test_the_code_of_a_completion_is_its_last_python_block():
    text = "```python\na\n```\n```text\nb\n```\n```py\nc\n```\n```\nd\n```"
    assert extract_code(text) == "c\n"
    assert extract_code("```\nx\n```") == "x\n"
    assert extract_code("```python\nx = 1\n") == "x = 1\n"  # cut off, the tests decide
    assert extract_code("<think>```python\nno\n```</think>\n```python\nyes\n```") == "yes\n"
    assert extract_code("<answer>x = 1</answer>") == "x = 1"
    assert extract_code("print(1)") == "print(1)"


def test_tests_are_found_in_arrays_and_nested_columns():
    assert (
        find_tests({"test_list": np.array(TESTS, dtype=object)}).tests[0]["assertion"] == TESTS[0]
    )
    assert find_tests({"extra_info": {"test_list": TESTS}}).tests[1]["assertion"] == TESTS[1]
    assert find_tests({"answer": "42"}) is None and find_tests({"answer": "[1, 2]"}) is None


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3", "1 2 \n3\n\n", True),
        ("0.333333333", "0.3333333", True),
        ("0.33", "0.3333333", False),
        ("1000001", "1000000", False),
        ("1\n2", "1 2", False),
        ("yes", "YES", False),
        ("", "", True),
        ("nan", "1.0", False),
    ],
)
def test_outputs_are_compared_line_by_line_and_numbers_closely(printed, expected, same):
    assert compare.same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ((1, 2), [1, 2], True),
        ([1, 2], [[1, 2]], True),
        ([[1, 2]], [1, 2], False),
        (4, "4", True),
        ("4", "4", True),
        (True, 1, False),
        (0.1 + 0.2, 0.3, True),
        (2, 3, False),
        ({1: "a"}, {"1": "a"}, True),
        (None, "None", True),
        ({1, 2}, [2, 1], True),
        ("ab", ["ab"], True),
    ],
)
def test_results_are_compared_as_json_writes_them(found, wanted, same):
    assert compare.same_result(found, wanted) is same


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(values)
def test_a_value_survives_the_way_to_the_judge(value):
    from dopr.rewards.code_check.runner import encode

    assert compare.decode(json.loads(json.dumps(encode(value)))) == value


def test_an_assertion_keeps_its_literal_on_the_judges_side():
    assert compare.assertion("assert f(1) == [2, 'a']") == {
        "expression": "f(1)",
        "expected": [2, "a"],
    }
    assert compare.assertion("assert (1, 2) == f(1)") == {"expression": "f(1)", "expected": (1, 2)}
    assert compare.assertion("assert f(1) in g()")["truth"] is True
    assert "script" in compare.assertion("x = 1\nassert f(x) == 1")
    assert "script" in compare.assertion("assert (")


def test_the_reward_is_loaded_by_name_with_options():
    assert load_reward("code") is code_reward
    partial = load_reward("code?partial=true&test_limit_s=5&workers=1")
    assert score(["def f(x): return 4"], partial, test_list=TESTS) == [0.5]
    first = load_reward("code?max_tests=1&workers=1")
    assert score(["def f(x): return 4"], first, test_list=TESTS) == [1.0]
    with pytest.raises(UserError, match="did you mean 'partial'"):
        load_reward("code?partail=true")
    with pytest.raises(UserError, match="must be true or false"):
        load_reward("code?partial=3")
    with pytest.raises(UserError, match="test_s is not"):
        make_code_reward(test_limit_s=0)

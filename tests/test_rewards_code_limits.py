"""Code can do little besides its tests: what it may not do, cannot claim, and cannot outlive."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dopr.rewards import checker_stats, make_code_reward
from dopr.rewards.code_check import handler
from solutions import SQUARE, TESTS, fenced, score_codes


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
    assert score_codes(codes, test_list=TESTS) == [0.0] * len(codes)
    after = checker_stats()
    assert all(after[kind] == before[kind] for kind in ("timeouts", "crashes", "errors"))
    printing = {"test_cases": [{"input": "", "output": "1"}]}
    assert score_codes(["while True: print('x' * 1000)"], verification_info=printing) == [0.0]


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
    "a pair for datagrams": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a queue of messages": "import ctypes; assert ctypes.CDLL(None).msgget(0, 0o1600) >= 0",
    "a signal by way of a file": (
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())"
    ),
    "the parent's priority": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "the parent's processor": (
        "import os; os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))"
    ),
    "a life after the parent": "import ctypes; assert ctypes.CDLL(None).prctl(1, 0) == 0",
    "very many threads": (
        "import threading, time; threading.stack_size(2**15); "
        "[threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(400)]"
        "; time.sleep(1)"
    ),
    "new times": "import os; os.utime('{file}', (1, 1))",
    "an attribute": "import os; os.setxattr('{file}', 'user.a', b'x', follow_symlinks=False)",
    "emptying a file by name": "import os; os.truncate('{file}', 0)",
    "emptying a file to be read": "import os; open('own', 'w'); os.open('own', os.O_TRUNC)",
    "watching a folder": (
        "import ctypes; c = ctypes.CDLL(None); "
        "assert c.inotify_add_watch(c.inotify_init(), b'{folder}', 256) >= 0"
    ),
    "a named pipe": "import os; os.mkfifo('pipe')",
    "a device": "import os; os.mknod('device', 0o20600, os.makedev(1, 3))",
}
PERMITTED = {
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
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
    scores = dict(zip(ATTEMPTS, score_codes(forbidden, test_list=TESTS), strict=True))
    assert scores == dict.fromkeys(ATTEMPTS, 0.0)
    assert file.read_text() == "secret" and file.stat().st_mode & 0o400 and not outside.exists()
    permitted = [attempt(action) for action in PERMITTED.values()]
    scores = dict(zip(PERMITTED, score_codes(permitted, test_list=TESTS), strict=True))
    assert scores == dict.fromkeys(PERMITTED, 1.0)


# The runner's own key is in its memory, where nothing can be hidden from code that looks for it.
FORGE = """
import json, os, sys
def say(**message):
    frame = sys._getframe()
    while 'job' not in frame.f_locals: frame = frame.f_back
    line = json.dumps({**message, 'key': frame.f_locals['job']['key']})
    with open('results.jsonl', 'a') as results: print(line, file=results)
"""
CHEATS = {
    "one right answer, said again": (
        f"{FORGE}def f(x):\n    say(test=0, value=4); say(test=0, value=4)\n    os._exit(0)"
    ),
    "one right answer, said of all tests": (
        f"{FORGE}def f(x):\n    say(test=0, value=4); say(test=1, value=4)\n    os._exit(0)"
    ),
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
    assert score_codes(list(CHEATS.values()), test_list=TESTS) == [0.0] * len(CHEATS)


def test_code_cannot_point_to_a_file_that_holds_what_it_should_print(tmp_path):
    answer = tmp_path / "answer"
    answer.write_text("42")
    info = {"test_cases": [{"input": "", "output": "42"}]}
    code = f"import os\nos.unlink('stdout')\nos.symlink({str(answer)!r}, 'stdout')"
    assert score_codes([code, "print(42)"], verification_info=info) == [0.0, 1.0]


HOSTILE = {
    "a pipe that nobody fills": "import os\nos.unlink('results.jsonl')\nos.mkfifo('results.jsonl')",
    "a test that there is none of": f"{FORGE}def f(x): say(test=99, value=4); os._exit(0)",
    "a test that is no number": f"{FORGE}def f(x): say(test=[], value=4); os._exit(0)",
    "a value that is no literal": (
        f"{FORGE}def f(x): say(test=0, value={{'kind': 'bytes', 'value': '((('}}); os._exit(0)"
    ),
    "too deep a line": "open('results.jsonl', 'a').write('[' * 10**5 + chr(10))",
}


def test_wrong_code_cannot_get_out_of_its_verdict():
    before = checker_stats()
    assert score_codes(list(HOSTILE.values()), test_list=TESTS) == [0.0] * len(HOSTILE)
    close = {"test_cases": [{"type": "function_call", "fn_name": "f", "input": "[]"}]}
    close["test_cases"][0]["output"] = "1.5"
    assert score_codes(["def f(): return 10**400"], verification_info=close) == [0.0]
    after = checker_stats()
    assert all(after[kind] == before[kind] for kind in ("timeouts", "crashes", "errors"))


@linux
def test_folders_that_nobody_may_look_into_are_too_much_and_gone_afterwards():
    own = os.geteuid()
    if own == 0:  # who may look into anything
        os.seteuid(65534)
    try:
        with handler._Folder() as folder:
            (folder / "closed").mkdir(0o300)
            (folder / "closed" / "file").write_text("x")
            assert handler._too_much(folder, file_mb=1.0)
    finally:
        os.seteuid(own)
    assert not folder.exists()


@linux
def test_a_dead_checking_process_gives_none_and_is_counted():
    reward = make_code_reward(workers=1)
    assert score_codes([SQUARE], reward, test_list=TESTS) == [1.0]
    workers = next(
        cell.cell_contents
        for cell in reward.__closure__
        if type(cell.cell_contents).__name__ == "Workers"
    )
    before = checker_stats()["crashes"]
    victim = workers._workers[0].process.pid
    threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
    sleeper = "import time\ntime.sleep(60)"
    assert score_codes([sleeper], reward, test_list=TESTS) == [None]
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

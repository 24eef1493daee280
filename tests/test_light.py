"""What works without the heavy packages, and what an import must not do."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dopr
from dopr.strategies.parts import one_thread
from dopr.strategies.parts.one_thread import on_one_thread

SOURCE = Path(dopr.__file__).parents[1]
HEAVY = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "peft", "vllm")
# Python runs a file of this name before anything else, in worker processes too.
HOOK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if {condition}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
WITHOUT_HEAVY = HOOK.format(condition=f"root in {(*HEAVY, 'scipy', 'pandas', 'threadpoolctl')}")
NUMPY_ALONE = HOOK.format(condition="root not in {*sys.stdlib_module_names, 'numpy', 'dopr'}")


def python(folder: Path, hook: str, *arguments: str) -> subprocess.CompletedProcess:
    """A fresh Python in which some packages seem not to be installed."""
    (folder / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(folder), str(SOURCE)])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def answer(folder: Path, hook: str, script: str) -> str:
    """What a script prints."""
    done = python(folder, hook, "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_history(folder: Path) -> Path:
    rates = {str(i): [i % 9 / 8, (i + 3) % 9 / 8, (i + 5) % 9 / 8] for i in range(24)}
    (folder / "history.json").write_text(json.dumps(rates))
    return folder / "history.json"


def test_the_hook_hides_packages(tmp_path: Path) -> None:
    assert "No module named 'torch'" in python(tmp_path, WITHOUT_HEAVY, "-c", "import torch").stderr
    assert "No module named 'yaml'" in python(tmp_path, NUMPY_ALONE, "-c", "import yaml").stderr


def test_importing_the_package_loads_nothing_heavy_and_sets_nothing(tmp_path: Path) -> None:
    script = f"""
import os, sys
before = dict(os.environ)
import dopr
assert dict(os.environ) == before, set(dict(os.environ).items()) ^ set(before.items())
print([name for name in {(*HEAVY, "scipy", "pandas", "yaml", "rich")} if name in sys.modules])
"""
    assert answer(tmp_path, "", script) == "[]"


def test_the_core_needs_numpy_alone(tmp_path: Path) -> None:
    modules = sorted(file.stem for file in (SOURCE / "dopr" / "core").glob("[!_]*.py"))
    assert {"driver", "ledger", "strategy", "stream"} <= set(modules)
    script = f"""
import importlib
for name in {modules}:
    importlib.import_module(f"dopr.core.{{name}}")
print("loaded")
"""
    assert answer(tmp_path, NUMPY_ALONE, script) == "loaded"


def test_every_strategy_steps_with_numpy_alone(tmp_path: Path) -> None:
    script = """
import numpy as np
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import Group, PRESETS, STRATEGIES, make_strategy

rng = np.random.default_rng(0)

def roll_out(requests):
    return [
        Group(r.prompt_id, (rng.random(r.num_rollouts) < 0.5) * 1.0,
              np.ones(r.num_rollouts, np.int64), entropies=rng.random(r.num_rollouts))
        for r in requests
    ]

def measure(asked):
    shape = (len(asked.prompt_ids), 3) if asked.quantity == "embedding" else len(asked.prompt_ids)
    return rng.random(shape), 0

for name in [*STRATEGIES, *PRESETS]:
    can = frozenset({"perplexity", "embedding", "answer_likelihood", "success_rate"})
    driver = Driver(make_strategy(name), PromptStream(40), can_measure=can)
    for _ in range(3):
        driver.step(roll_out, measure)
    assert driver.spent.rollouts > 0, name
print(len(STRATEGIES))
"""
    assert int(answer(tmp_path, NUMPY_ALONE, script)) == len(dopr.strategies.STRATEGIES)


def test_replay_works_without_torch_in_its_worker_processes_too(tmp_path: Path) -> None:
    history = str(write_history(tmp_path))
    command = ("-m", "dopr", "replay", history, "--json", "--seeds", "1", "--rollouts", "64")
    done = python(
        tmp_path, WITHOUT_HEAVY, *command, "--strategies", "dopr", "uniform", "--jobs", "2"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["strategies"]
    assert {name: entry["rollouts"] for name, entry in found.items()} == {
        "dopr": 64,
        "uniform": 64,
    }


def test_a_run_directory_is_replayed_without_torch(tmp_path: Path) -> None:
    rows = [
        {"step": i, "select/prompt_ids": ["a", "b"], "select/success": [0.5, 1]} for i in (1, 2)
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ("-m", "dopr", "replay", str(tmp_path / "run"), "--strategies", "uniform-1", "--json")
    done = python(tmp_path, WITHOUT_HEAVY, *command, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["history"]["prompts"] == 2


def test_a_command_that_needs_a_missing_package_says_so(tmp_path: Path) -> None:
    done = python(tmp_path, WITHOUT_HEAVY, "-m", "dopr", "eval", "tiny-reasoner", "--dataset", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("dopr: error: this command needs the package ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["compare", "runs.reward_model", "warmstart"])
def test_names_that_are_loaded_when_asked_for_are_there(package: str) -> None:
    pytest.importorskip("trl")
    module = importlib.import_module(f"dopr.{package}")
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_linear_algebra_of_strategies_runs_on_one_thread_and_gives_the_others_back() -> None:
    pytest.importorskip("threadpoolctl")
    # Those that were loaded when they were first asked for; SciPy's own may have come since.
    libraries = one_thread._libraries()
    if not libraries.lib_controllers:
        pytest.skip("NumPy's linear algebra is of a kind that threadpoolctl does not know")

    def threads() -> list[int]:
        np.linalg.solve(np.eye(3), np.ones(3))
        return [library["num_threads"] for library in libraries.info()]

    with libraries.limit(limits=2):
        before = threads()
        assert on_one_thread(threads)() == [1] * len(before)
        assert threads() == before

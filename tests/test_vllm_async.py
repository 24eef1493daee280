"""TRL's AsyncGRPOTrainer with a strategy against a vLLM server on the CPU: `make test-vllm`.

Every run is a process of its own, with the child that TRL starts for generating and scoring. See
`vllm_sockets` and `cpu_attention` for the two things that stand in for a GPU's.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import vllm_tools
from async_vllm_script import GROUP, ROWS, chat_tokenizer, dataset
from dopr.engines.chooser import Chooser
from dopr.engines.trl import checkpoints

pytestmark = [*vllm_tools.NEEDS_VLLM, pytest.mark.timeout(900)]

DOPR = {"strategy": "dopr"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm_tools.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with vllm_tools.serve(folder, log, "vllm_sockets.SocketWeights") as address:
        yield address


def start(model: Path, server: str, folder: Path, **wanted: Any) -> subprocess.Popen[bytes]:
    """A run in a process of its own; see `async_vllm_script`."""
    script = Path(vllm_tools.__file__).parent / "async_vllm_script.py"
    folder.mkdir(parents=True, exist_ok=True)
    # The trainer tells the server where to meet it; here both are on one machine.
    environment = vllm_tools.environment_of_helpers() | {"VLLM_HOST_IP": "127.0.0.1"}
    with (folder / "output.txt").open("w") as out:
        return subprocess.Popen(
            [sys.executable, str(script), str(model), server, str(folder), json.dumps(wanted)],
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
        )


def finish(process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Wait for it; what it says it did."""
    assert process.wait(600) == 0, (folder / "output.txt").read_text()[-4000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def lines(file: Path) -> list[dict[str, Any]]:
    """Those that were written whole."""
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def requests_running(server: str) -> int:
    import requests

    text = requests.get(f"{server}/metrics", timeout=30).text
    found = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(int(float(line.split()[-1])) for line in found)


def saved(checkpoint: Path, section: dict[str, Any] = DOPR) -> Chooser:
    """The chooser as the process that scores wrote it."""
    from dopr.engines.adapter import read_engine_settings
    from dopr.engines.trl.async_rollouts import STATE_FOLDER, make_chooser

    assert checkpoints.is_whole(checkpoint)
    chooser = make_chooser(read_engine_settings(section), dataset(), GROUP, 2, 3)
    chooser.load_state_dict(checkpoints.load_state(checkpoint / STATE_FOLDER))
    return chooser


def told_since(last: Chooser, known: Chooser | None, scored: list[dict[str, Any]]) -> int:
    """How many of the scored groups a chooser knows beyond what another one knew.

    Groups are scored one after the other and told in that order, so they are the first ones.
    """
    spent, ledger = last.driver.spent, last.driver.ledger
    rollouts, tokens, by_prompt = 0, 0, np.zeros(ROWS, dtype=np.int64)
    if known is not None:
        rollouts = known.driver.spent.rollouts
        tokens, by_prompt = known.driver.spent.generated_tokens, known.driver.ledger.rollouts
    groups, rest = divmod(spent.rollouts - rollouts, GROUP)
    assert rest == 0 and 0 < groups <= len(scored)
    told = scored[:groups]
    assert spent.generated_tokens - tokens == sum(sum(one["tokens"]) for one in told)
    times = Counter(one["number"] for one in told)
    expected = by_prompt + GROUP * np.array([times[number] for number in range(ROWS)])
    assert ledger.rollouts.tolist() == expected.tolist()
    assert spent.surplus_rollouts == spent.lost_rollouts == 0
    assert spent.plain_steps == spent.dropped_steps == 0
    return groups


def assert_every_row_is_taken_once(taken: list[dict[str, Any]], max_staleness: int) -> list[int]:
    """The groups that could be trained on, in the order of their first rows."""
    times = Counter(row["group"] for row in taken)
    whole = list(times)[:-1]  # of the last one, a part may have been taken
    assert all(times[group] == GROUP for group in whole)
    return list(dict.fromkeys(row["group"] for row in taken if row["age"] <= max_staleness))


def greedy(server: str, model: Path, prompts: list[list[int]]) -> list[list[int]]:
    import requests

    wanted = {"model": str(model), "prompt": prompts, "max_tokens": 12, "temperature": 0.0}
    reply = requests.post(
        f"{server}/v1/completions", json=wanted | {"return_token_ids": True}, timeout=120
    ).json()
    return [choice["token_ids"] for choice in reply["choices"]]


def test_a_run_killed_with_rollouts_under_way_goes_on_and_counts_each_once(
    folder: Path, server: str, tmp_path: Path
) -> None:
    run, first, second = tmp_path / "run", tmp_path / "first", tmp_path / "second"
    common = {"section": DOPR}
    usual = {"output_dir": str(run), "save_steps": 3, "save_total_limit": 2}
    process = start(folder, server, first, settings=usual | {"max_steps": 20}, wait=8, **common)
    try:
        wait_until(lambda: (first / "waits").is_file() or process.poll() is not None, "no step")
        assert process.poll() is None, (first / "output.txt").read_text()[-4000:]
        wait_until(lambda: requests_running(server) > 0, "nothing is being generated", 60)
    finally:
        process.kill()
        process.wait()
    # The process that generates ends with the trainer, and the server is free again.
    child = lines(first / "scored.jsonl")[0]["pid"]
    wait_until(lambda: not alive(child), "it outlives the trainer", 60)
    wait_until(lambda: requests_running(server) == 0, "requests of nobody", 60)

    newest = run / "checkpoint-6"
    known, count = saved(newest), groups_trained(newest)
    told_since(known, None, lines(first / "scored.jsonl"))
    out = known.handed_out
    assert out  # rollouts were under way

    wanted = usual | {"max_steps": 12}
    found = finish(start(folder, server, second, settings=wanted, resume=True, **common), second)
    assert [row["step"] for row in found["log"] if "loss" in row] == list(range(1, 13))
    last = saved(run / "checkpoint-12")
    scored, taken = lines(second / "scored.jsonl"), lines(second / "taken.jsonl")
    told = told_since(last, known, scored)
    assert not set(out) & set(last.handed_out)  # what was out has been asked for again, and came
    again = last.driver.spent.asked_again - known.driver.spent.asked_again
    assert again == GROUP * len(out)
    # What the trainer took: rows of groups that were told, each once, none from before the kill.
    fresh = assert_every_row_is_taken_once(taken, max_staleness=4)
    handed_before = set(range(known._next)) - set(out) - set(known._waiting)
    assert not {row["group"] for row in taken} & handed_before
    assert set(found["groups_trained"]) <= set(fresh)
    assert groups_trained(run / "checkpoint-12") == count + len(found["groups_trained"])
    assert told >= len({row["group"] for row in taken if row["step"] < 12})
    # The totals of the log are those of the run, not sums of them.
    total = "rollout/rollouts_total"
    rows = [row for row in found["log"] if total in row]
    totals = [row[total] for row in rows]
    assert rows[0]["step"] <= 6 < rows[-1]["step"] and totals == sorted(totals)
    assert totals[-1] <= known.driver.spent.rollouts + GROUP * len(scored)


def groups_trained(checkpoint: Path) -> int:
    count: int = json.loads((checkpoint / "rollout_state.json").read_text())["prompt_index"]
    return count


def alive(pid: int) -> bool:
    """Whether it runs: an ended process without a parent may wait for long to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_training_takes_vllms_log_probabilities_and_hands_its_weights_on(
    folder: Path, server: str, tmp_path: Path
) -> None:
    wanted = {"max_steps": 6, "save_steps": 6, "output_dir": str(tmp_path / "run")}
    process = start(folder, server, tmp_path, section=DOPR, settings=wanted)
    found = finish(process, tmp_path)
    log = [row for row in found["log"] if "ratio" in row]
    # Of the first step all rollouts are by the weights that are trained: any difference is vLLM's.
    assert abs(log[0]["ratio"] - 1) < vllm_tools.SAME and abs(log[0]["kl"]) < vllm_tools.SAME
    assert log[0]["sample/staleness_max"] == 0
    # Later there are rollouts of older weights: generating did not wait.
    assert max(row["sample/staleness_max"] for row in log) >= 1
    assert found["version"] == 1 + 6  # weights are sent at the start and after each step
    # No request was lost in a pause.
    assert not any("rollout/vllm_retry_total" in row for row in log)
    checkpoint = tmp_path / "run" / "checkpoint-6"
    model, untrained = (LlamaForCausalLM.from_pretrained(f).eval() for f in (checkpoint, folder))
    prompts = [chat_tokenizer()(row[0]["content"])["input_ids"] for row in dataset()["prompt"][:8]]
    expected = vllm_tools.greedy(model, prompts, 12)
    assert greedy(server, folder, prompts) == expected
    assert vllm_tools.greedy(untrained, prompts, 12) != expected
    told_since(saved(checkpoint), None, lines(tmp_path / "scored.jsonl"))


def test_a_strategy_that_drops_groups_trains_with_trls_defaults(
    folder: Path, server: str, tmp_path: Path
) -> None:
    section = {"strategy": "dapo", "strategy_args": {"prompts_per_step": 2, "max_rounds": 50}}
    defaults = {"bf16": True, "gradient_checkpointing": True, "learning_rate": 1e-6}
    wanted = {"max_steps": 4, "save_steps": 4, "output_dir": str(tmp_path / "run")}
    process = start(folder, server, tmp_path, section=section, settings=defaults | wanted)
    found = finish(process, tmp_path)
    taken, scored = lines(tmp_path / "taken.jsonl"), lines(tmp_path / "scored.jsonl")
    assert taken and all(row["reward_std"] > 0 for row in taken)
    dropped = [one for one in scored if len(set(one["rewards"])) == 1]
    assert dropped
    chooser = saved(tmp_path / "run" / "checkpoint-4", section)
    told_since(chooser, None, scored)
    spent = chooser.driver.spent
    assert spent.kept < spent.rollouts
    fresh = assert_every_row_is_taken_once(taken, max_staleness=4)
    assert set(found["groups_trained"]) <= set(fresh)
    losses = [row["loss"] for row in found["log"] if "loss" in row]
    assert len(losses) == 4 and torch.isfinite(torch.tensor(losses)).all()

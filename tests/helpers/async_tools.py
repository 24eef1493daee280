"""AsyncGRPOTrainer's rollout loop without its server: answers come from a list of two."""

import asyncio
import multiprocessing
import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.state import PartialState
from datasets import Dataset
from trl.experimental.async_grpo import async_rollout_worker as worker

from dopr.engines.trl.async_rollouts import ChoosingLoop
from tiny import make_tokenizer

ROWS, GROUP = 24, 4


def chat_tokenizer() -> Any:
    """Of the tiny model, told where an answer begins and ends, as TRL's loop needs to know."""
    tokenizer = make_tokenizer()
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "=?",
        "fields": {"content": {"close_pattern": "<eos>", "content": "text"}},
    }
    return tokenizer


class Session:
    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *error: object) -> None:
        return None


FAKE_HTTP = SimpleNamespace(
    ClientSession=lambda connector: Session(), TCPConnector=lambda limit: None
)


def first_digit(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """Rows with the answer 1 pay for half of the rollouts, the others never."""
    said = [one[-1]["content"] for one in completions]
    return [float(a == "1" and "1" in text) for a, text in zip(answer, said, strict=True)]


class Loop(ChoosingLoop):
    """Answers "1" and "2" in turn, instead of asking a server; later calls are answered first."""

    turns = 0

    async def _generate_one_turn(self, prompt_ids: list[int]) -> tuple[list[int], list[float]]:
        Loop.turns += 1
        mine = Loop.turns
        await asyncio.sleep(0.001 * (mine % 3))
        ids = self.tokenizer("12"[mine % 2])["input_ids"]
        return ids, [-0.5] * len(ids)


def without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState()  # its loggers want it, as in the child process
    monkeypatch.setattr(worker, "aiohttp", FAKE_HTTP, raising=False)
    monkeypatch.setattr(worker, "is_vllm_available", lambda: True)
    monkeypatch.setattr(worker, "is_aiohttp_available", lambda: True)


def make_pool(rows: int = ROWS) -> Dataset:
    """Every other row pays."""
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{i}=?"}], "answer": str(int(i % 2 == 0))}
            for i in range(rows)
        ]
    )


def new_loop(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Loop:
    without_server(monkeypatch)
    tokenizer = chat_tokenizer()
    context = multiprocessing.get_context("spawn")
    options: dict[str, Any] = {
        "dopr": {"strategy": "uniform", "strategy_args": {"prompts_per_step": 2}},
        "dopr_folder": str(folder),
        "model_name": "tiny",
        "dataset": make_pool(),
        "reward_funcs": [first_digit],
        "processing_class": tokenizer,
        "eos_token_ids": [tokenizer.eos_token_id],
        "rollout_buffer": queue.Queue(),
        "model_version_value": context.Value("i", 0),
        "heartbeat_value": context.Value("d", 0.0),
        "failed_event": threading.Event(),
        "exception_info_queue": queue.Queue(1),
        "metrics_queue": queue.Queue(4096),
        "num_generations": GROUP,
        "max_inflight_tasks": 3 * GROUP,
    }
    return Loop(**options | changes)


def run(loop: Loop, until: int) -> list[Any]:
    """The loop's samples, once so many groups are scored."""
    thread = threading.Thread(target=loop.run)
    thread.start()
    ends = time.monotonic() + 60
    while loop._total_groups_scored < until and thread.is_alive() and time.monotonic() < ends:
        time.sleep(0.01)
    if thread.is_alive():
        loop._loop.call_soon_threadsafe(loop._stop_event.set)
    thread.join(timeout=60)
    assert not thread.is_alive() and loop._total_groups_scored >= until
    return [loop.rollout_buffer.get_nowait() for _ in range(loop.rollout_buffer.qsize())]


class NoTransfer:
    """Where TRL sends weights to the server."""

    def init_weight_transfer(self) -> None:
        pass

    pause = resume = destroy = init_weight_transfer

    def send_weights(self, named: Any) -> None:
        for _ in named:
            pass


def start_in_thread(given: Any) -> None:
    """Where TRL's worker starts its child process: the loop runs in a thread of this one."""
    given.loop = given._loop_cls(
        **given._loop_kwargs,
        rollout_buffer=given.rollout_buffer,
        model_version_value=given._model_version_value,
        heartbeat_value=given._heartbeat_value,
        failed_event=given._failed_event,
        exception_info_queue=given._exception_info_queue,
        metrics_queue=given.metrics_queue,
    )
    given.thread = threading.Thread(target=given.loop.run, daemon=True)
    given.thread.start()


def stop_thread(given: Any) -> None:
    if given.thread.is_alive():
        given.loop._loop.call_soon_threadsafe(given.loop._stop_event.set)
    given.thread.join(timeout=60)
    assert not given.thread.is_alive()
    for one in (given.rollout_buffer, given.metrics_queue):
        one.cancel_join_thread()  # or the test's process waits for somebody to empty them

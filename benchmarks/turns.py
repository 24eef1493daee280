"""Trainings that take turns step by step, so that drift of the machine hits all of them.

Each is a process of its own, as its user would run it: in one process the pools of threads of two
trainings get in each other's way, which doubled a step and told more of that than of the step.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import transformers
from transformers import TrainerCallback


class Semaphore(Protocol):
    def acquire(self) -> Any: ...

    def release(self) -> Any: ...


class TakeTurns(TrainerCallback):
    """Takes a step when it is its turn, then gives it on; notes the seconds of each step."""

    def __init__(self, mine: Semaphore, other: Semaphore) -> None:
        self.mine, self.other = mine, other
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.mine.acquire()
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.other.release()


def in_turns(
    takes: Sequence[Callable[[TakeTurns], Any]], threads: int, after_s: float = 1200
) -> list[Any]:
    """What each of the functions returns, all called at once, each in a process of its own.

    Args:
        takes: functions that make a trainer with the callback that they are given, and train.
        threads: torch threads of each; only one of them computes at a time.
        after_s: seconds after which a process that has not answered is given up.

    Raises:
        RuntimeError: one of them failed; its error stands above.
    """
    context = multiprocessing.get_context("spawn")
    turns = [context.Semaphore(int(i == 0)) for i in range(len(takes))]
    answers = [context.Queue() for _ in takes]
    processes = [
        context.Process(
            target=_take_part,
            args=(take, mine, turns[(i + 1) % len(takes)], answers[i], threads),
            daemon=True,
        )
        for i, (take, mine) in enumerate(zip(takes, turns, strict=True))
    ]
    for process in processes:
        process.start()
    try:
        return [_answer(*pair, after_s) for pair in zip(processes, answers, strict=True)]
    finally:
        for process in processes:
            process.terminate()


def _take_part(take: Any, mine: Any, other: Any, answer: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    answer.put(take(TakeTurns(mine, other)))


def _answer(process: Any, answers: Any, after_s: float) -> Any:
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        if not answers.empty():
            return answers.get()
        if not process.is_alive() and answers.empty():
            break
        time.sleep(0.2)
    raise RuntimeError("a training failed or took too long; its error stands above")

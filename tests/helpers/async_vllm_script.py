"""Trains with AsyncDoPRTrainer against a vLLM server; what it did goes into its folder.

python async_vllm_script.py MODEL SERVER FOLDER '{"section": {...}, "settings": {...}}'

FOLDER/scored.jsonl has a line for every group that was scored, written by the process that scores;
FOLDER/taken.jsonl one for every row that the trainer took from the queue.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))

import cpu_attention
from async_tools import chat_tokenizer
from dopr.engines.trl.async_rollouts import AsyncDoPRTrainer
from tiny import digits_reward, make_dataset, settings

ROWS = 24
GROUP = 4


def noted_reward(
    file: str, completions: list[Any], number: list[int], **columns: Any
) -> list[float]:
    """`digits_reward`, and a line in the file for the group."""
    rewards = digits_reward(completions)
    lengths = [len(ids) for ids in columns["completion_ids"]]
    line = {"number": number[0], "rewards": rewards, "tokens": lengths, "pid": os.getpid()}
    append(file, line)
    return rewards


def append(file: str, line: dict[str, Any]) -> None:
    with open(file, "a") as out:
        out.write(json.dumps(line) + "\n")


class NotedQueue:
    """The queue that the trainer takes rows from, with a line in the file for each of them."""

    def __init__(self, queue: Any, file: str, trainer: Any) -> None:
        self._queue, self._file, self._trainer = queue, file, trainer

    def get(self, timeout: float) -> Any:
        row = self._queue.get(timeout=timeout)
        age = self._trainer.model_version - row.model_version
        said = {"group": row.group_id, "age": age, "reward_std": row.metrics["reward_std"]}
        append(self._file, said | {"step": self._trainer.state.global_step})
        return row

    def qsize(self) -> int:
        return self._queue.qsize()


class WaitBefore(TrainerCallback):
    """Stops for good before a step, when no weights are being sent; the child goes on."""

    def __init__(self, step: int, file: Path) -> None:
        self.step, self.file = step, file

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.file.touch()
            time.sleep(600)


def dataset() -> Any:
    rows = make_dataset(ROWS, chat=True)
    return rows.add_column("number", list(range(ROWS)))


def main(model: str, server: str, folder: Path, wanted: dict[str, Any]) -> None:
    # Not where this module is loaded again, in the process that scores: it sends no weights.
    from trl.experimental.async_grpo import AsyncGRPOConfig

    import vllm_sockets  # noqa: F401

    torch.set_num_threads(1)
    cpu_attention.install()
    folder.mkdir(parents=True, exist_ok=True)
    resume = wanted.pop("resume", None)
    usual = settings(folder / "run", vllm_server_base_url=server, save_strategy="steps")
    trainer = AsyncDoPRTrainer(
        model,
        functools.partial(noted_reward, str(folder / "scored.jsonl")),
        AsyncGRPOConfig(**(usual | wanted.pop("settings"))),
        dataset(),
        processing_class=chat_tokenizer(),
        dopr=wanted.pop("section"),
    )
    if "wait" in wanted:
        trainer.add_callback(WaitBefore(wanted["wait"], folder / "waits"))
    trainer.rollout_queue = NotedQueue(trainer.rollout_queue, str(folder / "taken.jsonl"), trainer)
    trainer.train(resume_from_checkpoint=resume)
    found = {
        "log": trainer.state.log_history,
        "groups_trained": sorted(trainer._trained_groups),
        "version": trainer.model_version,
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))

"""TRL's AsyncGRPOTrainer with a strategy choosing what to roll out (TRL 1.16, experimental).

TRL generates in a child process that takes rows in the dataset's order, scores finished groups and
hands them to the trainer by a queue. Here the strategy lives in that child: the next row is the
chooser's next job, and every scored group is told to it. The trainer gets the groups that the
strategy keeps, once it has decided.

TRL's private methods are wrapped by `super()` and none is copied.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

try:
    from trl.experimental.async_grpo import AsyncGRPOTrainer
    from trl.experimental.async_grpo.async_rollout_worker import (
        AsyncRolloutWorker,
        RolloutGroup,
        RolloutSample,
        _AsyncRolloutLoop,
    )
except ImportError as error:
    raise ImportError(
        f"AsyncDoPRTrainer was written for TRL 1.16's experimental AsyncGRPOTrainer ({error})"
    ) from error

from dopr.core.advantages import compute_advantages
from dopr.core.errors import UserError
from dopr.core.strategy import Group
from dopr.engines.adapter import (
    EngineSettings,
    engine_advantages_hold,
    make_engine_driver,
    read_engine_settings,
)
from dopr.engines.chooser import Chooser, Job
from dopr.engines.metrics_log import choice_metrics, totals
from dopr.engines.orphans import is_orphan
from dopr.engines.prompt_pool import (
    as_shown,
    moves_since,
    pool_state,
    prompt_categories,
    prompt_names,
)
from dopr.engines.trl import checkpoints
from dopr.engines.trl.whole import newest_whole, save_whole

logger = logging.getLogger(__name__)

STATE_FOLDER = "dopr"  # in a checkpoint
_REQUEST = "save-request.json"  # by which the trainer asks the child for its state
_POLL_S = 0.2

Rows = list[list[RolloutSample]]  # training rows of each rollout of a group


class ChoosingLoop(_AsyncRolloutLoop):
    """TRL's rollout loop; rows come from a strategy, which is told every scored group.

    Args:
        dopr: the section `dopr` as plain values, see `EngineSettings`.
        dopr_folder: where the trainer and this process meet: requests for the state lie here.
        dopr_state: folder of a saved state to go on from.
        prompts_per_step: the trainer's usual prompts a step.
        seed: of the trainer.
        **rest: TRL's.

    Raises:
        UserError: a strategy that needs more than rollouts of the trainer's group size.
    """

    def __init__(
        self,
        *,
        dopr: Mapping[str, Any],
        dopr_folder: str,
        dopr_state: str | None = None,
        prompts_per_step: int = 1,
        seed: int = 0,
        **rest: Any,
    ) -> None:
        rest["dataset_start_index"] = 0  # a position in the dataset's order, which nothing follows
        super().__init__(**rest)
        settings = read_engine_settings(dopr)
        self._estimator = settings.advantage_estimator
        self._names = prompt_names(as_shown(self.dataset))
        self.chooser = make_chooser(
            settings, self.dataset, self.num_generations, prompts_per_step, seed
        )
        self._held: dict[int, Rows] = {}  # scored, while the strategy has not decided
        self._lock = threading.Lock()
        if dopr_state is not None:
            self._load(Path(dopr_state))
        self._folder = Path(dopr_folder)
        threading.Thread(target=self._watch_requests, daemon=True).start()

    # -- choosing and learning ----------------------------------------------------------------

    def _repeat_iterator(self) -> Iterator[tuple[int, dict[str, Any]]]:
        while True:
            with self._lock:
                (job,) = self.chooser.ask(1)
            check_size(job, self.num_generations)
            row = self.dataset[job.prompt_id]
            for _ in range(self.num_generations):
                yield job.number, row

    async def _score_group(self, group: RolloutGroup) -> list[RolloutSample]:
        rows = by_rollout(await super()._score_group(group), group)
        rewards = [mine[0].metrics["reward"] if mine else float("nan") for mine in rows]
        tokens = [len(ids) for ids in group.completions_ids]
        with self._lock:
            self._held[group.group_id] = rows
            self.chooser.tell(
                group.group_id,
                np.array(rewards, dtype=np.float64),
                np.array(tokens, dtype=np.int64),
            )
            return self._decided()

    def _decided(self) -> list[RolloutSample]:
        """The rows of what the strategy keeps of the steps that are finished."""
        samples: list[RolloutSample] = []
        driver = self.chooser.driver
        while self.chooser.outcomes:
            outcome = self.chooser.outcomes.popleft()
            for group in outcome.kept:
                rows = [one for number in group.handle for one in self._held[number]]
                samples += self._rows_of(group, rows)
            for group in outcome.generated:
                for number in group.handle:
                    self._held.pop(number, None)
            self._push_metrics({**choice_metrics(driver, outcome), **totals(driver)})
        return samples

    def _rows_of(self, group: Group, rows: Rows) -> list[RolloutSample]:
        if len(group.handle) == 1 and engine_advantages_hold(group, self._estimator):
            return [row for mine in rows for row in mine]  # with TRL's own advantages
        (advantages,) = compute_advantages([group], self.chooser.driver.ledger, self._estimator)
        kept = range(group.num_rollouts) if group.kept is None else group.kept.tolist()
        for i in kept:
            for row in rows[i]:
                row.advantage = float(advantages[i])
        return [row for i in kept for row in rows[i]]

    # -- saving -------------------------------------------------------------------------------

    def _watch_requests(self) -> None:
        request = self._folder / _REQUEST
        while not self._loop.is_closed():
            if is_orphan():
                # The trainer was killed. This process would go on asking the server, and would
                # answer the requests of the run that is resumed in the same folder.
                os._exit(1)
            if request.is_file():
                target = Path(json.loads(request.read_text())["folder"])
                request.unlink()
                self.save(target)
            time.sleep(_POLL_S)

    def save(self, target: Path) -> None:
        """Write the state into a folder that is there once it is whole."""
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with self._lock:
            state = self.chooser.state_dict()
            state["pool"] = pool_state(self._names, self.chooser.driver.stream)
        checkpoints.save_state(partial, state)
        partial.rename(target)

    def _load(self, folder: Path) -> None:
        state = checkpoints.load_state(folder)
        driver = self.chooser.driver
        moves = moves_since(state["pool"], self._names, driver.stream)
        if moves is not None:  # its jobs are of rows that are elsewhere now
            driver.load_state_dict(state["driver"], moves=moves)
            return
        self.chooser.load_state_dict(state)
        self.chooser.lose(self.chooser.handed_out)
        # What had come of steps in flight is known; its training rows are gone with the process.
        for flight in driver.flights:
            for group in (*flight.generated, *flight.arrived):
                if group is not None:
                    first, *others = group.handle
                    self._held[first] = [[] for _ in range(group.num_rollouts)]
                    self._held |= {number: [] for number in others}


def by_rollout(samples: list[RolloutSample], group: RolloutGroup) -> Rows:
    """The rows of each rollout: a conversation that forked has several, one after the other."""
    rows, start = [], 0
    for sequences in group.completions_sequences:
        rows.append(samples[start : start + len(sequences)])
        start += len(sequences)
    return rows


def make_chooser(
    settings: EngineSettings, pool: Any, num_generations: int, prompts_per_step: int, seed: int
) -> Chooser:
    """The chooser of a run.

    Raises:
        UserError: a pool without random access, or a strategy that cannot run here.
    """
    if not isinstance(pool, Dataset):
        raise UserError(
            "a strategy chooses among rows that it can look up; give AsyncDoPRTrainer a Dataset, "
            f"not a {type(pool).__name__}"
        )
    driver = make_engine_driver(
        settings,
        len(pool),
        num_generations=num_generations,
        prompts_per_step=prompts_per_step,
        seed=seed,
        categories=prompt_categories(as_shown(pool)),
        engine="AsyncGRPOTrainer",
    )
    return Chooser(driver)


def check_size(job: Job, num_generations: int) -> None:
    """Refuse a job that TRL's groups cannot make up.

    Raises:
        UserError: its rollouts are no multiple of `num_generations`.
    """
    if job.num_rollouts % num_generations:
        raise UserError(
            f"the strategy asks for {job.num_rollouts} rollouts of a prompt, and groups of "
            f"AsyncGRPOTrainer have num_generations = {num_generations}: set its "
            "sizes to that number or a multiple of it"
        )


class AsyncDoPRTrainer(AsyncGRPOTrainer):
    """TRL's AsyncGRPOTrainer whose prompts are chosen by a strategy.

    Args:
        *args: TRL's.
        dopr: the section `dopr` (`dopr.engines.adapter.EngineSettings`): `strategy`,
            `strategy_args`, `seed`, `max_rounds`, `advantage_estimator`.
        **kwargs: TRL's. Rewards, tools and environments are pickled, as TRL demands.

    Raises:
        UserError: a setting or a strategy that cannot be; a rollout worker of the user's own.
    """

    args: Any  # TRL declares it more loosely than it uses it

    def __init__(self, *args: Any, dopr: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        section = dict(dopr or {})
        settings = read_engine_settings(section)
        if kwargs.get("rollout_worker") is not None:
            raise UserError(
                "AsyncDoPRTrainer chooses inside TRL's own rollout worker; leave rollout_worker out"
            )
        super().__init__(*args, **kwargs)
        group = self.args.num_generations
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        self._per_step = max(1, rows * self.accelerator.num_processes // group)
        # Refused here and not in the child, where the message would be deep in a traceback.
        chooser = make_chooser(settings, self.train_dataset, group, self._per_step, self.args.seed)
        check_size(chooser.ask(1)[0], group)
        newest = totals(chooser.driver)
        self._metrics["train"] = _Sink(newest, self._metrics["train"])
        self._meeting = Path(self.args.output_dir).absolute() / ".dopr"
        if isinstance(self.rollout_worker, AsyncRolloutWorker):
            prepare_worker(
                self.rollout_worker, section, self._meeting, self._per_step, self.args.seed
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        usual = super()._save_checkpoint
        save_whole(self, trial, lambda: usual(model, trial), self._add_state)

    def _add_state(self, folder: Path) -> None:
        if not isinstance(self.rollout_worker, AsyncRolloutWorker):
            return  # another node's copy
        # TRL counts up to the first number that was not trained on: of jobs that is the first one
        # that a strategy dropped, and after a resume it is the first of all.
        file = folder / "rollout_state.json"
        trained = self._groups_before_resume + len(self._trained_groups)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prompt_index": trained}))
        ask_for_state(self._meeting, folder / STATE_FOLDER)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; `resume_from_checkpoint=True` takes the newest checkpoint that is whole.

        Raises:
            UserError: there are checkpoints and none of them is whole, or the one named has no
                state of a strategy.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole(self)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        worker, checkpoint = self.rollout_worker, kwargs.get("resume_from_checkpoint")
        if isinstance(worker, AsyncRolloutWorker):
            state = Path(checkpoint).absolute() / STATE_FOLDER if checkpoint is not None else None
            if state is not None and not state.is_dir():
                raise UserError(f"{checkpoint} holds no state of a strategy; start a new run")
            worker._loop_kwargs["dopr_state"] = None if state is None else str(state)
        return super()._inner_training_loop(*args, **kwargs)


class _Sink(defaultdict[str, list[Any]]):
    """TRL's metrics between two logs; of a run's totals the newest alone.

    TRL adds up what is named a total, as its own processes report what came since the last time.
    """

    def __init__(self, totals: Mapping[str, float], values: Mapping[str, list[Any]]) -> None:
        super().__init__(list, values)
        self._totals = frozenset(totals)

    def __missing__(self, key: str) -> list[Any]:
        self[key] = _Newest() if key in self._totals else []
        return self[key]


class _Newest(list[Any]):
    def append(self, value: Any) -> None:
        self[:] = [value]


def prepare_worker(
    worker: AsyncRolloutWorker,
    section: Mapping[str, Any],
    folder: Path,
    prompts_per_step: int,
    seed: int,
) -> None:
    """Let a worker that is not started yet run `ChoosingLoop`; see there for the arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _REQUEST).unlink(missing_ok=True)
    worker._loop_cls = ChoosingLoop
    worker._loop_kwargs |= {
        "dopr": dict(section),
        "dopr_folder": str(folder),
        "prompts_per_step": prompts_per_step,
        "seed": seed,
    }


def ask_for_state(folder: Path, target: Path, timeout_s: float = 60.0) -> None:
    """Have the child process write its state.

    Args:
        folder: where it looks for requests.
        target: the folder to write.
        timeout_s: how long to wait for it.

    Raises:
        UserError: it does not answer.
    """
    shutil.rmtree(target, ignore_errors=True)  # of a run that came this far and was begun anew
    partial = folder / "request.partial"
    partial.write_text(json.dumps({"folder": str(target.absolute())}))
    partial.rename(folder / _REQUEST)
    ends = time.monotonic() + timeout_s
    while not target.is_dir():
        if time.monotonic() > ends:
            raise UserError(
                f"the rollout process did not write its state to {target} in {timeout_s:g} s; "
                "look for its error above"
            )
        time.sleep(_POLL_S / 4)

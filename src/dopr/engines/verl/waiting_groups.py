"""verl's asynchronous replay buffer, from which a strategy's groups are trained on.

verl's buffer hands out the oldest finished groups, replaces those that are too old, and counts in
prompts. All of that stays. What is added lies between a finished group and one that may be handed
out: the strategy is told of it, and decides with the rest of its step what is trained on.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import transfer_queue
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync

from dopr.core.driver import StepOutcome
from dopr.core.strategy import Group
from dopr.engines.adapter import Generated, Stored, TrainingBatch, assemble, make_groups
from dopr.engines.chooser import Chooser, Job
from dopr.engines.verl.store import TRAIN, read_rollouts
from dopr.strategies import Request

Reasons = tuple[set[str], set[str], set[str], Counter]


@dataclass(frozen=True)
class Ready:
    """A group that the strategy keeps.

    Attributes:
        jobs: numbers of the jobs it was made by; the first stands for it in verl's bookkeeping.
        batch: what to train on.
    """

    jobs: tuple[int, ...]
    batch: TrainingBatch

    @property
    def uids(self) -> set[str]:
        """Names of its jobs in verl's store."""
        return {str(number) for number in self.jobs}


class StrategyBuffer(ReplayBufferAsync):
    """verl's asynchronous buffer; `connect` comes before the first use.

    Every group that the trainer has ordered is in one of these states: under way, told of while the
    strategy has not decided (`held`), or to be trained on (`ready`). Whatever leaves them untrained
    (the strategy drops it, or verl finds it too old) makes room for another job.

    Args:
        **verls: as of `verl.trainer.ppo.v1.replay_buffer.ReplayBuffer`.

    Attributes:
        chooser: with the driver.
        owed: groups that were ordered and not handed out yet.
        held: rollouts of each job whose step is not decided.
        ready: by the name of the group's first job.
        outcomes: of the steps that were decided; whoever logs them takes them out.
        taken: what was handed out last.
    """

    chooser: Chooser

    def __init__(self, **verls: Any) -> None:
        # verl's buffer has evicted groups replaced by number; here there is simply room again.
        super().__init__(**verls, refill_fn=lambda count: self._fill_up())
        self.owed = 0
        self.held: dict[int, int] = {}
        self.ready: dict[str, Ready] = {}
        self.outcomes: deque[StepOutcome] = deque()
        self.taken = TrainingBatch([], [], {}, {})
        self._connected = False

    def connect(
        self,
        chooser: Chooser,
        submit: Callable[[list[Job]], None],
        scale: str,
        estimator: str = "forecast",
    ) -> None:
        """Say who chooses.

        Args:
            chooser: of the run.
            submit: has jobs rolled out, under their numbers.
            scale, estimator: of the advantages, see `assemble`.
        """
        self.chooser, self._submit, self._scale = chooser, submit, scale
        self._estimator = estimator
        self._connected = True

    def order(self, count: int) -> None:
        """Have so many more groups chosen and rolled out, by all that is known by now."""
        self.owed += count
        self._sync_metadata_from_transfer_queue()
        self._fill_up()

    @property
    def existing(self) -> int:
        """Groups under way, held or ready."""
        return len(self.chooser.handed_out) + len(self.held) + len(self.ready)

    # -- what has come ------------------------------------------------------------------------

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        if not self._connected:
            return
        # A group with lost rollouts is a group; they have no reward.
        self.finished_keys[TRAIN] |= self.failure_keys[TRAIN]
        self.failure_keys[TRAIN].clear()
        known = {str(number) for number in self.held}
        known = known.union(*(group.uids for group in self.ready.values()))
        new = self.finished_keys[TRAIN] - known
        if new:
            self._tell(new)
            self._fill_up()

    def _tell(self, uids: set[str]) -> None:
        jobs = {uid: self.chooser.job(int(uid)) for uid in sorted(uids, key=int)}
        self._clear_groups(TRAIN, {uid for uid, job in jobs.items() if job is None})
        pieces: dict[str, list[Generated]] = {}
        for piece in read_rollouts([key for key in self.partitions[TRAIN] if _uid(key) in uids]):
            pieces.setdefault(piece.uid, []).append(piece)
        for uid, job in jobs.items():
            if job is None:
                continue  # nobody waits for it, as after a restart on other rows
            request = Request(job.prompt_id, job.num_rollouts)
            (group,) = make_groups([request], [uid], pieces.get(uid, []), 0)
            self.held[job.number] = job.num_rollouts
            self.chooser.tell(job.number, group.rewards, group.tokens)
            self._settle()

    def _settle(self) -> None:
        """Take in what the strategy has decided."""
        while self.chooser.outcomes:
            outcome = self.chooser.outcomes.popleft()
            self.outcomes.append(outcome)
            places = self._places()
            found = StepOutcome(
                [self._with_places(group, places) for group in outcome.kept],
                [self._with_places(group, places) for group in outcome.generated],
            )
            batch = assemble(found, self.chooser.driver.ledger, self._scale, self._estimator)
            first = {n: group.handle[0] for group in outcome.kept for n in group.handle}
            jobs = [number for group in outcome.generated for number in group.handle]
            self._line_up(batch, first, jobs)
            for number in jobs:
                self.held.pop(number, None)

    def _line_up(self, batch: TrainingBatch, first: dict[int, int], jobs: list[int]) -> None:
        """Sort a step's batch by groups, and clear from the store what is not trained on.

        Args:
            batch: of the step.
            first: the first job of the group that a kept job belongs to.
            jobs: all of the step's.
        """
        keys: dict[int, list[str]] = {}
        for key in batch.keys:
            number = int(_uid(key))
            keys.setdefault(first.get(number, number), []).append(key)
        for lead, mine in keys.items():
            own = {key: batch.advantages[key] for key in mine if key in batch.advantages}
            prompts = {key: int(batch.prompts[key]) for key in mine}
            others = [n for n in jobs if n != lead and first.get(n, n) == lead]
            batch_of = TrainingBatch(mine, [], own, prompts)
            self.ready[str(lead)] = Ready((lead, *others), batch_of)
        self._clear_groups(TRAIN, {str(n) for n in jobs if first.get(n, n) not in keys})
        self._clear_rows([key for key in batch.dropped if key in self.partitions[TRAIN]])

    def _places(self) -> dict[tuple[int, int], list[str]]:
        """The stored sequences of each rollout of the jobs that are held."""
        places: dict[tuple[int, int], list[str]] = {}
        held = {str(number): number for number in self.held}
        for key in self.partitions[TRAIN]:
            if _uid(key) in held:  # among the others are verl's rows of padding
                rollout = int(key.split("_")[1])
                places.setdefault((held[_uid(key)], rollout), []).append(key)
        return places

    def _with_places(self, group: Group, places: dict[tuple[int, int], list[str]]) -> Group:
        stored = []
        for number in group.handle:
            for rollout in range(self.held.get(number, group.num_rollouts)):
                keys = places.get((number, rollout), [])
                if number not in self.held:  # of an earlier step; `assemble` says what that means
                    keys = [f"{number}_{rollout}_0"]
                stored.append(Stored(str(number), tuple(sorted(keys, key=_part))))
        return replace(group, handle=tuple(stored))

    def _fill_up(self) -> None:
        """Send out jobs that steps stand still for, and further ones while there is room."""
        jobs = self.chooser.ask_for_stalled()
        room = self.owed - self.existing
        if room > 0:
            jobs += self.chooser.ask(room)
        if jobs:
            self._submit(jobs)
        self._settle()

    # -- what verl's buffer asks itself ---------------------------------------------------------

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str) -> Reasons:
        reasons: Reasons = super()._terminal_eviction_reasons(global_steps, partition_id)
        if partition_id != TRAIN:
            return reasons
        # A group goes as a whole, and not before its step is decided: the rest waits for it.
        old = [group.uids for group in self.ready.values() if group.uids & reasons[0]]
        return set().union(*old), set(), set(), Counter()

    def _sampleable_terminal_keys(self, partition_id: str, eviction_reasons: Reasons) -> set[str]:
        keys: set[str] = super()._sampleable_terminal_keys(partition_id, eviction_reasons)
        return keys & self.ready.keys() if partition_id == TRAIN else keys

    def _has_enough_samples(
        self, global_steps: int, partition_id: str, batch_size: int, sampleable_keys: set[str]
    ) -> bool:
        limit = self.max_off_policy_threshold
        if partition_id == TRAIN and limit is not None and self.max_off_policy_strategy == "wait":
            begun = self.prompt_global_steps[TRAIN]
            ages = (global_steps - begun.get(str(n), global_steps) + 1 for n in self.held)
            if any(age >= limit for age in ages):
                return False
        return bool(
            super()._has_enough_samples(global_steps, partition_id, batch_size, sampleable_keys)
        )

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        super()._clear_groups(partition_id, uids)
        if partition_id == TRAIN:
            for uid in uids:
                self.ready.pop(uid, None)

    def _materialize_batch(
        self, partition_id: str, selected_prompt_uids: list[str], partition_snapshot: dict[str, Any]
    ) -> KVBatchMeta:
        if partition_id != TRAIN:
            return super()._materialize_batch(
                partition_id, selected_prompt_uids, partition_snapshot
            )
        groups = [self.ready.pop(uid) for uid in selected_prompt_uids]
        self.owed -= len(groups)
        self.taken = TrainingBatch([], [], {}, {})
        for group in groups:
            self.taken.keys.extend(group.batch.keys)
            self.taken.advantages.update(group.batch.advantages)
            self.taken.prompts.update(group.batch.prompts)
        tags = {key: partition_snapshot[key] for key in self.taken.keys}
        uids = [uid for group in groups for uid in group.uids]
        return super()._materialize_batch(partition_id, uids, tags)

    # -- saving -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain values and arrays: the chooser's state, and the groups that wait."""
        return self.chooser.state_dict() | {
            "held": np.array(list(self.held.items()), dtype=np.int64).reshape(-1, 2),
            "ready": [
                [list(g.jobs), g.batch.keys, g.batch.advantages, g.batch.prompts]
                for g in self.ready.values()
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the saved buffer stood, with what verl has put back into its store.

        Jobs that are not in the store are handed out again; groups whose rollouts are not are known
        and counted, and are not trained on.
        """
        self.chooser.load_state_dict(state)
        self.held = dict(state["held"].tolist())
        self.ready = {}
        super()._sync_metadata_from_transfer_queue()
        there = set(self.prompt_global_steps[TRAIN])
        for jobs, keys, advantages, prompts in state["ready"]:
            group = Ready(tuple(jobs), TrainingBatch(keys, [], advantages, prompts))
            if group.uids <= there and self.partitions[TRAIN].keys() >= set(keys):
                self.ready[str(jobs[0])] = group
        known = {str(number) for number in (*self.held, *self.chooser.handed_out)}
        self._clear_all_but(known.union(*(group.uids for group in self.ready.values())))
        self.chooser.lose([n for n in self.chooser.handed_out if str(n) not in there])
        self.owed = self.existing

    def forget(self) -> None:
        """Clear from the store what the steps of other rows have left there."""
        super()._sync_metadata_from_transfer_queue()
        self._clear_all_but(set())

    def _clear_all_but(self, uids: set[str]) -> None:
        self._clear_groups(TRAIN, set(self.prompt_global_steps[TRAIN]) - uids)
        # verl saves its store before it clears what it has just trained on.
        self._clear_rows([key for key in self.partitions[TRAIN] if _uid(key) not in uids])

    def _clear_rows(self, keys: list[str]) -> None:
        if keys:
            transfer_queue.kv_clear(keys=keys, partition_id=TRAIN)
        for key in keys:
            del self.partitions[TRAIN][key]


def _uid(key: str) -> str:
    return key.split("_")[0]


def _part(key: str) -> int:
    return int(key.rsplit("_", 1)[1])

"""verl's synchronous v1 trainer with a strategy choosing what to roll out.

verl hands a step's prompts out, waits until their rollouts are in its store (TransferQueue), and
then works on the stored rows by their keys. So the strategy runs where verl waits: `_choose` sends
out one round of requests after the other, while the inference servers are awake, and hands verl the
keys of what is to be trained on. Everything after that is verl's.
"""

from collections.abc import Callable
from typing import Any

import transfer_queue
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync

from dopr.engines.adapter import assemble, make_groups
from dopr.engines.metrics_log import choice_metrics, totals
from dopr.engines.verl.choosing import Choosing
from dopr.engines.verl.store import TRAIN, read_rollouts
from dopr.strategies import Group, Request


class ChosenRollouts:
    """Stands where verl's replay buffer does: a training batch is what the strategy chose.

    Args:
        inner: verl's own buffer; it waits for rollouts and serves validation.
        choose: gives the training batch and its metrics.
    """

    def __init__(
        self, inner: Any, choose: Callable[[], tuple[KVBatchMeta, dict[str, float]]]
    ) -> None:
        self.inner = inner
        self._choose = choose

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, float]]:
        """As `verl.trainer.ppo.v1.replay_buffer.ReplayBuffer.sample`.

        `batch_size` counts for validation only.
        """
        if partition_id == TRAIN:
            return self._choose()
        return self.inner.sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )


class DoPRTrainerSync(Choosing, PPOTrainerSync):
    """verl's synchronous trainer; prompts are chosen by a strategy.

    Args:
        config: verl's, with the section `dopr` (`dopr.engines.adapter.EngineSettings`).

    Attributes:
        driver: the running strategy with its ledger and its totals.

    Raises:
        UserError: a setting that would go past the strategy, or a strategy that cannot run here.
    """

    def _build_replay_buffer(self) -> ChosenRollouts:
        inner = super()._build_replay_buffer()
        inner.poll_interval = self._settings.poll_interval  # verl's own 2 s suit long steps
        return ChosenRollouts(inner, self._choose)

    def prepare_step(self) -> dict[str, float]:
        """Nothing: the strategy asks for rollouts where verl waits for them."""
        return {}

    def _choose(self) -> tuple[KVBatchMeta, dict[str, float]]:
        """Run the strategy for one step; the keys to train on, and what to log."""
        self._round = 0
        self._tags: dict[str, dict[str, Any]] = {}
        outcome = self.driver.step(self._roll_out)
        estimator = self._settings.advantage_estimator
        chosen = assemble(outcome, self.driver.ledger, self._scale, estimator)
        if chosen.dropped:
            transfer_queue.kv_clear(keys=chosen.dropped, partition_id=TRAIN)
        self._chosen = chosen
        tags = [self._tags[key] for key in chosen.keys]
        batch = KVBatchMeta(partition_id=TRAIN, keys=list(chosen.keys), tags=tags)
        return batch, choice_metrics(self.driver, outcome) | totals(self.driver)

    def _roll_out(self, requests: list[Request]) -> list[Group]:
        """Have verl generate and score one round of requests."""
        # verl cuts its keys at the underscores.
        uids = [f"{self.global_steps}-{self._round}-{i}" for i in range(len(requests))]
        self._round += 1
        self._submit_batch_to_rollout(self._batch_of(requests, uids))
        found, _ = self.replay_buffer.inner.sample(
            global_steps=self.global_steps, partition_id=TRAIN, batch_size=len(requests)
        )
        self._tags |= dict(zip(found.keys, found.tags, strict=True))
        return make_groups(requests, uids, read_rollouts(found.keys), self.driver.ledger.step)

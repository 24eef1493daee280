"""verl's asynchronous v1 trainers with a strategy choosing what to roll out.

verl puts new prompts into rollout at the head of each step and trains on the oldest groups that are
finished; what is under way in between is rolled out while it trains. Here its prompts are the next
jobs of a chooser (`dopr.engines.chooser`), which is told of every finished group, and its groups
those that the strategy keeps (`StrategyBuffer`). Steps of the strategy overlap, and are not the
trainer's: a step may end while the trainer is at another one.
"""

from typing import Any

import numpy as np
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync

from dopr.core.errors import UserError
from dopr.core.moves import Moves
from dopr.engines.chooser import Chooser, Job
from dopr.engines.metrics_log import choice_metrics, totals
from dopr.engines.verl.choosing import Choosing
from dopr.engines.verl.waiting_groups import StrategyBuffer
from dopr.strategies import Request


class ChoosingAhead(Choosing):
    """What the adapter does in both asynchronous trainers."""

    replay_buffer: StrategyBuffer

    def _build_replay_buffer(self) -> StrategyBuffer:
        v1 = self.config.trainer.v1
        sampler = v1.sampler
        if (sampler.get("custom_sampler") or {}).get("path"):
            raise UserError(
                "with dopr trainer.v1.sampler.custom_sampler must be left out: the strategy says "
                "which groups are trained on"
            )
        return StrategyBuffer(
            trainer_mode=self.trainer_mode,
            trainer_config=v1.get(self.trainer_mode, {}),
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs=sampler.sampler_kwargs,
            poll_interval=self._settings.poll_interval,
        )

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self.replay_buffer.connect(
            Chooser(self.driver), self._roll_out, self._scale, self._settings.advantage_estimator
        )

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        self.replay_buffer.order(num_prompts)
        return num_prompts

    def _add_batch_to_generate(self) -> None:
        self.replay_buffer.order(self.config.data.train_batch_size)

    def _roll_out(self, jobs: list[Job]) -> None:
        """Hand jobs to verl's agent loops, which put what comes of them into the store."""
        requests = [Request(job.prompt_id, job.num_rollouts) for job in jobs]
        self._submit_batch_to_rollout(self._batch_of(requests, [str(job.number) for job in jobs]))

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """As verl's, with what was chosen and what it cost among the metrics."""
        batch = super().step(metrics, timing_raw)
        # Not with the groups of one update: verl would add up the totals of a step's updates.
        outcomes = self.replay_buffer.outcomes
        said = [choice_metrics(self.driver, outcome) for outcome in outcomes]
        outcomes.clear()
        for name in sorted({name for one in said for name in one}):
            values = np.array([one[name] for one in said if name in one], dtype=np.float64)
            metrics[name] = float(np.nanmean(values)) if not np.isnan(values).all() else np.nan
        metrics.update(totals(self.driver))
        metrics["rollout/in_flight"] = sum(self.driver.ledger.in_flight.values())
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, float]) -> KVBatchMeta:
        self._chosen = self.replay_buffer.taken
        return super()._compute_advantage(batch, metrics)

    def _state(self) -> dict[str, Any]:
        return self.replay_buffer.state_dict()

    def _take_state(self, state: dict[str, Any], moves: Moves | None) -> None:
        if moves is None:
            self.replay_buffer.load_state_dict(state)
        else:  # rows are elsewhere now: what was under way is given up, and chosen anew
            self.driver.load_state_dict(state["driver"], moves=moves)
            self.replay_buffer.forget()
        self._restored_tq_prompt_count = self.replay_buffer.existing  # verl orders what lacks


class DoPRTrainerColocateAsync(ChoosingAhead, PPOTrainerColocateAsync):
    """verl's asynchronous trainer on shared GPUs; prompts are chosen by a strategy.

    Arguments, attributes and errors are those of `DoPRTrainerSync`.
    """


class DoPRTrainerSeparateAsync(ChoosingAhead, PPOTrainerSeparateAsync):
    """verl's asynchronous trainer with GPUs of their own for rollout; a strategy chooses.

    Arguments, attributes and errors are those of `DoPRTrainerSync`.
    """

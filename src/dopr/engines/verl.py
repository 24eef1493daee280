"""verl's synchronous v1 trainer with a strategy choosing what to roll out.

    VERL_USE_EXTERNAL_MODULES=dopr.engines.verl \\
        python -m verl.trainer.main_ppo ... +dopr.strategy=dopr +dopr.strategy_args.candidates=64

Importing this file puts `DoPRTrainerSync` in the place of verl's own in its registry. It is the
only file that touches verl's private methods: it wraps them by `super()` and copies none, and
tests/with_verl/test_contract.py fails when one of them moves.

verl hands a step's prompts out, waits until their rollouts are in its store (TransferQueue), and
then works on the stored rows by their keys. So the strategy runs where verl waits: `_choose` sends
out one round of requests after the other, while the inference servers are awake, and hands verl the
keys of what is to be trained on. Everything after that is verl's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    import transfer_queue
    import verl
    from datasets import Dataset
    from omegaconf import DictConfig, OmegaConf
    from tensordict import TensorDict
    from transfer_queue import KVBatchMeta
    from verl.trainer.ppo.v1 import PPOTrainerSync
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    from verl.utils import tensordict_utils
    from verl.utils.dataset.rl_dataset import collate_fn
except ImportError as error:
    raise ImportError(
        f"dopr.engines.verl needs verl 0.9 with its v1 trainer ({error}); "
        "pip install verl==0.9.1 TransferQueue cachetools uvicorn fastapi"
    ) from error

from dopr.core.errors import UserError
from dopr.engines.adapter import (
    Generated,
    TrainingBatch,
    assemble,
    make_engine_driver,
    make_groups,
    read_engine_settings,
)
from dopr.engines.metrics_log import choice_metrics, totals
from dopr.engines.prompt_pool import moves_since, pool_state, prompt_categories, prompt_names
from dopr.engines.trl import checkpoints
from dopr.policy.entropies import EntropyTotals
from dopr.strategies import Group, Request

STATE_FOLDER = "dopr"
TRAIN = "train"  # verl's name of the partition with rollouts to train on

# What verl's configuration must say, and what to do about it where it says otherwise.
_REQUIRED: tuple[tuple[str, Any, str], ...] = (
    ("algorithm.adv_estimator", "grpo", "the strategies' advantages are relative to the group"),
    ("algorithm.use_kl_in_reward", False, "put the penalty into the loss, by actor.use_kl_loss"),
    ("algorithm.filter_groups.enable", False, "+dopr.strategy=dapo resamples instead"),
    ("trainer.v1.sampler.sync_refill_failed_groups", False, "lost rollouts are left out"),
    ("skip.rollout_tq.enable", False, "the prompts depend on the rollouts before"),
)


def check_config(config: DictConfig) -> None:
    """Refuse what would go past the strategy.

    Raises:
        UserError: one sentence that names the key.
    """
    for key, value, why in _REQUIRED:
        found = OmegaConf.select(config, key, default=value)
        if found != value:
            raise UserError(f"with dopr {key} must be {value}, not {found}: {why}")
    model = config.reward.reward_model
    if model.enable and not model.enable_resource_pool:
        raise UserError(
            "a reward model on the training GPUs scores only after the choice is made; give it its "
            "own by reward.reward_model.enable_resource_pool=True, or use a rule-based reward"
        )


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


class DoPRTrainerSync(PPOTrainerSync):
    """verl's synchronous trainer; prompts are chosen by a strategy.

    Args:
        config: verl's, with the section `dopr` (`dopr.engines.adapter.EngineSettings`).

    Attributes:
        driver: the running strategy with its ledger and its totals.

    Raises:
        UserError: a setting that would go past the strategy, or a strategy that cannot run here.
    """

    def __init__(self, config: DictConfig) -> None:
        section = config.get("dopr")
        plain = OmegaConf.to_container(section, resolve=True) if section is not None else None
        self._settings = read_engine_settings(plain)
        check_config(config)
        self._chosen = TrainingBatch([], [], {}, {})
        super().__init__(config=config)

    def _build_replay_buffer(self) -> ChosenRollouts:
        inner = super()._build_replay_buffer()
        inner.poll_interval = self._settings.poll_interval  # verl's own 2 s suit long steps
        return ChosenRollouts(inner, self._choose)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        rows = getattr(self.train_dataset, "dataframe", None)
        self._names = prompt_names(rows) if isinstance(rows, Dataset) else None
        self.driver = make_engine_driver(
            self._settings,
            len(self.train_dataset),
            num_generations=self.config.actor_rollout_ref.rollout.n,
            prompts_per_step=self.config.data.train_batch_size,
            seed=self.config.data.get("seed") or 0,
            categories=prompt_categories(rows) if isinstance(rows, Dataset) else None,
            engine="verl's trainer",
        )

    # -- choosing ---------------------------------------------------------------------------

    def prepare_step(self) -> dict[str, float]:
        """Nothing: the strategy asks for rollouts where verl waits for them."""
        return {}

    def _choose(self) -> tuple[KVBatchMeta, dict[str, float]]:
        """Run the strategy for one step; the keys to train on, and what to log."""
        self._round = 0
        self._tags: dict[str, dict[str, Any]] = {}
        outcome = self.driver.step(self._roll_out)
        scaled = self.config.algorithm.get("norm_adv_by_std_in_grpo", True)
        chosen = assemble(outcome, self.driver.ledger, "group" if scaled else "none")
        if chosen.dropped:
            transfer_queue.kv_clear(keys=chosen.dropped, partition_id=TRAIN)
        self._chosen = chosen
        tags = [self._tags[key] for key in chosen.keys]
        batch = KVBatchMeta(partition_id=TRAIN, keys=list(chosen.keys), tags=tags)
        return batch, choice_metrics(self.driver, outcome) | totals(self.driver)

    def _roll_out(self, requests: list[Request]) -> list[Group]:
        """Have verl generate and score one round of requests."""
        step = self.global_steps
        # verl cuts its keys at the underscores.
        uids = [f"{step}-{self._round}-{i}" for i in range(len(requests))]
        self._round += 1
        rows = collate_fn([self.train_dataset[request.prompt_id] for request in requests])
        rows["uid"] = np.array(uids, dtype=object)
        rows["__rollout_n__"] = np.array([r.num_rollouts for r in requests], dtype=object)
        batch = tensordict_utils.get_tensordict(rows)
        tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
        self._submit_batch_to_rollout(batch)
        found, _ = self.replay_buffer.inner.sample(
            global_steps=step, partition_id=TRAIN, batch_size=len(requests)
        )
        self._tags |= dict(zip(found.keys, found.tags, strict=True))
        return make_groups(requests, uids, _read(found), self.driver.ledger.step)

    # -- training ---------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, float]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        _write_advantages(self._chosen.advantages)
        self._note_entropies()
        return batch

    def _note_entropies(self) -> None:
        """Tell the ledger the token entropies that verl computed with the old log-probabilities."""
        keys = self._chosen.keys
        fields = ["entropy", "response_mask"]
        stored = transfer_queue.kv_batch_get(keys=keys, partition_id=TRAIN, select_fields=fields)
        if "entropy" not in stored:
            return  # verl's bypass mode takes the sampler's log-probabilities and has none
        entropies = EntropyTotals()
        for key, values, mask in zip(keys, stored["entropy"], stored["response_mask"], strict=True):
            total = float((values * mask).sum())
            entropies.add([(self._chosen.prompts[key], total, int(mask.sum()))])
        entropies.flush(self.driver.ledger)

    # -- checkpoints ------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        # Ours first: verl's last act is to name the checkpoint as the one to resume from.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        # Nothing is kept for later steps, so no group's rollouts need to be found again.
        state = self.driver.state_dict(lambda handle: [])
        if self._names is not None:
            state["pool"] = pool_state(self._names, self.driver.stream)
        checkpoints.save_state(folder / STATE_FOLDER, state)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        trainer = self.config.trainer
        if not self.global_steps:
            return
        folder = Path(trainer.default_local_dir) / f"global_step_{self.global_steps}"
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        state, moves = checkpoints.load_state(folder / STATE_FOLDER), None
        if self._names is not None:
            moves = moves_since(state.get("pool"), self._names, self.driver.stream)
        self.driver.load_state_dict(state, moves=moves)


def _read(batch: KVBatchMeta) -> list[Generated]:
    """The stored sequences' rewards and lengths."""
    stored = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=TRAIN, select_fields=["rm_scores", "response_mask"]
    )
    found = []
    rows = zip(batch.keys, stored["rm_scores"], stored["response_mask"], strict=True)
    for key, scores, mask in rows:
        uid, rollout, part = key.rsplit("_", 2)
        reward, tokens = float(scores.sum()), int(mask.sum())
        found.append(Generated(key, uid, int(rollout), int(part), reward, tokens))
    return found


def _write_advantages(advantages: dict[str, float]) -> None:
    """Put our advantages in the place of verl's."""
    if not advantages:
        return
    keys = list(advantages)
    stored = transfer_queue.kv_batch_get(
        keys=keys, partition_id=TRAIN, select_fields=["response_mask"]
    )
    masks = zip(advantages.values(), stored["response_mask"], strict=True)
    spread = torch.nested.as_nested_tensor(
        [value * mask.float() for value, mask in masks], layout=torch.jagged
    )
    fields = TensorDict({"advantages": spread, "returns": spread.clone()}, batch_size=len(keys))
    transfer_queue.kv_batch_put(keys=keys, partition_id=TRAIN, fields=fields)


def _refusing(mode: str, trainer: type) -> type:
    """A trainer of another mode that says why it cannot be used."""

    def refuse(self: Any, config: DictConfig) -> None:
        raise UserError(
            f"dopr chooses prompts in verl's synchronous trainer only, not in {mode!r}; set "
            "trainer.v1.trainer_mode=sync, or take dopr.engines.verl out of "
            "VERL_USE_EXTERNAL_MODULES"
        )

    return type(trainer.__name__, (trainer,), {"__init__": refuse})


def register() -> None:
    """Take the place of verl's synchronous trainer, and refuse the others.

    Raises:
        ImportError: this is another verl than the one this file was written for.
    """
    if not verl.__version__.startswith("0.9."):
        raise ImportError(
            f"dopr.engines.verl was written for verl 0.9, not {verl.__version__}; "
            "pip install verl==0.9.1"
        )
    for mode, trainer in TRAINER_REGISTRY.items():
        if mode != "sync":
            TRAINER_REGISTRY[mode] = _refusing(mode, trainer)
    # verl's own decorator refuses a name that is taken; only "sync" gets the synchronous path.
    TRAINER_REGISTRY["sync"] = DoPRTrainerSync


register()

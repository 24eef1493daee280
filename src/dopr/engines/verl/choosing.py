"""What the adapter does in all of verl's trainers: settings, driver, advantages and checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils
from verl.utils.dataset.rl_dataset import collate_fn

from dopr.core.errors import UserError
from dopr.core.moves import Moves
from dopr.engines.adapter import TrainingBatch, make_engine_driver, read_engine_settings
from dopr.engines.prompt_pool import moves_since, pool_state, prompt_categories, prompt_names
from dopr.engines.trl import checkpoints
from dopr.engines.verl.store import note_entropies, write_advantages
from dopr.strategies import Request

STATE_FOLDER = "dopr"

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


class Choosing(PPOTrainer):
    """The half of a trainer that all of verl's modes share; verl's own comes behind it.

    Attributes:
        driver: the running strategy with its ledger and its totals.
    """

    _chosen: TrainingBatch

    def __init__(self, config: DictConfig) -> None:
        section = config.get("dopr")
        plain = OmegaConf.to_container(section, resolve=True) if section is not None else None
        self._settings = read_engine_settings(plain)
        check_config(config)
        self._chosen = TrainingBatch([], [], {}, {})
        super().__init__(config=config)

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

    @property
    def _scale(self) -> str:
        scaled = self.config.algorithm.get("norm_adv_by_std_in_grpo", True)
        return "group" if scaled else "none"

    def _batch_of(self, requests: Sequence[Request], uids: Sequence[str]) -> TensorDict:
        """Prompts in the form in which verl's agent loops take them."""
        rows = collate_fn([self.train_dataset[request.prompt_id] for request in requests])
        rows["uid"] = np.array(uids, dtype=object)
        rows["__rollout_n__"] = np.array([r.num_rollouts for r in requests], dtype=object)
        batch = tensordict_utils.get_tensordict(rows)
        tensordict_utils.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    # -- training ---------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, float]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        write_advantages(self._chosen.advantages)
        note_entropies(self._chosen, self.driver.ledger)
        return batch

    # -- checkpoints ------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        # Nothing is kept for later steps, so no group's rollouts need to be found again.
        return self.driver.state_dict(lambda handle: [])

    def _take_state(self, state: dict[str, Any], moves: Moves | None) -> None:
        self.driver.load_state_dict(state, moves=moves)

    def _save_checkpoint(self) -> None:
        # Ours first: verl's last act is to name the checkpoint as the one to resume from.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        state = self._state()
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
        self._take_state(state, moves)

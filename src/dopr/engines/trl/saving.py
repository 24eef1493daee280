"""The part of DoPRTrainer that saves and restores: the strategy's state beside TRL's own files."""

from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dopr.engines.metrics_log import StepLog
from dopr.engines.prompt_pool import moves_since, pool_state
from dopr.engines.trl import checkpoints
from dopr.engines.trl.loading import LoadingTrainer
from dopr.engines.trl.rounds import pack_handle, unpack_handle
from dopr.engines.trl.whole import save_whole
from dopr.policy.entropies import EntropyTotals


class SavingTrainer(LoadingTrainer):
    """GRPOTrainer whose checkpoints hold the strategy's state, and say when they are whole."""

    state: Any
    training_seconds: float
    checkpoint_dir: Path | None = None
    _entropy_totals: EntropyTotals
    _step_log: StepLog

    def _get_output_dir(self, trial: Any) -> str:
        usual = super()._get_output_dir(trial)
        return usual if self.checkpoint_dir is None else str(self.checkpoint_dir)

    def save_checkpoint(self) -> Path | None:
        """Save a checkpoint now, for a run that must stop; None before the first step."""
        step = self.state.global_step
        if step == 0 or self.optimizer is None:
            return None
        folder = Path(self._get_output_dir(None)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if not checkpoints.is_whole(folder):
            self._save_checkpoint(self.model, None)
        return folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        usual = super()._save_checkpoint

        def save() -> None:
            usual(model, trial)
            self._entropy_totals.flush(self.driver.ledger)

        save_whole(self, trial, save, self._save_state)

    def _save_state(self, folder: Path) -> None:
        state = self.driver.state_dict(pack_handle) | {"training_seconds": self.training_seconds}
        state["pool"] = pool_state(self.prompt_names, self.driver.stream)
        state["rollouts_before"] = self._rollouts_before
        if self._window is not None:
            state["window"] = self._window.state_dict()
        checkpoints.save_state(folder, state)

    def restore(self, folder: Path) -> None:
        """Take weights, counts and the strategy's state from a checkpoint, without training on."""
        self._load_from_checkpoint(str(folder))
        self.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        self._restore_driver(folder)

    def _restore_driver(self, folder: Path) -> None:
        state, device = checkpoints.load_state(folder), self.accelerator.device
        if self._window is not None and "window" in state:
            self._window.load_state_dict(state["window"])
            self._take_window(self._window)
        moves = moves_since(state.get("pool"), self.prompt_names, self.driver.stream)
        self.driver.load_state_dict(state, lambda packed: unpack_handle(packed, device), moves)
        self.training_seconds = state["training_seconds"]
        self._rollouts_before = state.get("rollouts_before", 0)
        if self.accelerator.is_main_process:
            self._step_log.resume(self.state.global_step)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)
        if folder is not None:
            self._restore_driver(Path(folder))

"""The part of DoPRTrainer that saves and restores: the strategy's state beside TRL's own files."""

from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from dopr.engines.metrics_log import StepLog
from dopr.engines.prompt_pool import moves_since, pool_state
from dopr.engines.trl import checkpoints
from dopr.engines.trl.loading import LoadingTrainer
from dopr.engines.trl.rounds import pack_handle, unpack_handle
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
        # Rotation waits until the new checkpoint is known to be whole, or a full disk could leave
        # none at all; so does the upload, or it would go without our part.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        uploads, self.args.push_to_hub = self.args.push_to_hub, False
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
            self.args.push_to_hub = uploads
        self._entropy_totals.flush(self.driver.ledger)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        run_dir = self._get_output_dir(trial=trial)
        folder = Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        state = self.driver.state_dict(pack_handle) | {"training_seconds": self.training_seconds}
        state["pool"] = pool_state(self.prompt_names, self.driver.stream)
        if self._window is not None:
            state["window"] = self._window.state_dict()
        checkpoints.save_state(folder, state)
        checkpoints.write_manifest(folder)
        if uploads:
            self._push_from_checkpoint(str(folder))
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

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
        if self.accelerator.is_main_process:
            self._step_log.resume(self.state.global_step)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)
        if folder is not None:
            self._restore_driver(Path(folder))

"""DoPRTrainer: TRL's GRPOTrainer with a strategy choosing what to roll out.

This file is the only one that touches TRL's private methods. It wraps them by `super()` and copies
none; tests/test_trl_contract.py fails when one of them moves. The core loop is
`_generate_and_score_completions`: the driver runs the strategy, `_roll_out` turns each round of
requests into groups by TRL's own generation and scoring, and `_assemble` makes the training batch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from dopr.core.advantages import compute_advantages
from dopr.core.driver import StepOutcome
from dopr.core.stream import OfferedStream
from dopr.engines.metrics_log import StepClock, StepLog, choice_metrics, totals
from dopr.engines.prompt_pool import prompt_names, row_name
from dopr.engines.trl import checkpoints, pictures, rollout_tensors
from dopr.engines.trl.completion_table import clear_table, correct_advantages
from dopr.engines.trl.extra_terms import bonus_coefficient, reweighted
from dopr.engines.trl.loading import LoadingTrainer
from dopr.engines.trl.micro_batches import (
    cut_micro_batches,
    loss_mask,
    shape_blank_advantages,
    whole_batch,
)
from dopr.engines.trl.multi_objective import (
    NORMALIZE_THEN_SUM,
    check_aggregation,
    normalize_then_sum,
)
from dopr.engines.trl.objectives import ibro_term, ibro_weight
from dopr.engines.trl.processes import check_same_choice, own_share
from dopr.engines.trl.rounds import (
    Round,
    check_fresh,
    is_plain_batch,
    make_groups,
    pack_handle,
    trl_advantages_hold,
    unpack_handle,
)
from dopr.engines.trl.schedule import run_over_rollouts, share_over
from dopr.engines.trl.selection import Selection
from dopr.engines.trl.setup import (
    check_engine,
    check_pool,
    loader_order,
    make_driver,
    prompt_stream,
)
from dopr.engines.trl.streaming import Window
from dopr.policy.entropies import EntropyTotals, entropy_rows, mean_entropies
from dopr.policy.final_answers import final_answers
from dopr.policy.generation import faster_generation
from dopr.policy.measuring import measure
from dopr.policy.sampling import Sampling, weighted_total
from dopr.strategies import Group, Measure, Request, Strategy

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig, TrainerCallback
    from trl import GRPOConfig
    from trl.trainer.grpo_trainer import EnvironmentFactory, RolloutFunc

    from dopr.engines.trl import arguments

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class DoPRTrainer(LoadingTrainer):
    """A drop-in for GRPOTrainer that chooses prompts before paying for their rollouts.

    Args:
        model, ..., environment_factory: as for `trl.GRPOTrainer`. `args` may be a plain
            `GRPOConfig`, which gives DoPR with its defaults.
        strategy: a `Strategy` object, of which a copy runs, or a name; overrides the one in `args`.

    Attributes:
        driver: the running strategy with its ledger and its totals.
        prompt_names: the id of each prompt of the pool, in the order of the ledger's rows.
        training_seconds: time in training steps, evaluation and saving left out.
        checkpoint_dir: folder for the checkpoints; None puts them into `args.output_dir`.

    Raises:
        UserError: no training rows, an unknown strategy or option, or vLLM asked for where it is
            not installed.
    """

    # TRL and transformers declare these more loosely than they use them.
    _buffered_inputs: Any
    _logs: Any
    checkpoint_dir: Path | None = None

    def __init__(
        self,
        model: arguments.Model,
        reward_funcs: arguments.Rewards | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: arguments.EvalDataset | None = None,
        processing_class: arguments.Processing | None = None,
        reward_processing_classes: arguments.RewardProcessing | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: arguments.Optimizers = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        tools: list[Callable[..., Any]] | None = None,
        rollout_func: RolloutFunc | None = None,
        environment_factory: EnvironmentFactory | dict[str, EnvironmentFactory] | None = None,
        *,
        strategy: Strategy | str | None = None,
    ) -> None:
        everything: dict[str, Any] = {
            "reward_funcs": list(reward_funcs) if isinstance(reward_funcs, tuple) else reward_funcs,
            "args": args,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "reward_processing_classes": reward_processing_classes,
            "callbacks": callbacks,
            "optimizers": optimizers,
            "quantization_config": quantization_config,
            "peft_config": peft_config,
            "tools": tools,
            "rollout_func": rollout_func,
            "environment_factory": environment_factory,
        }
        check_pool(train_dataset)
        check_engine(getattr(args, "use_vllm", False))
        self._settings = Selection.of(args)
        aggregation = getattr(args, "multi_objective_aggregation", "sum_then_normalize")
        check_aggregation(aggregation, self._settings.advantage_estimator)
        self.training_seconds = 0.0
        # Only what is given: not every version of TRL knows all of them.
        given = {name: value for name, value in everything.items() if value is not None}
        super().__init__(model, **given)
        self._window: Window | None = None
        if isinstance(self.train_dataset, IterableDataset):
            self._window = Window(self.train_dataset, self._settings.stream_window)
            self.train_dataset = self._window.rows  # what drives TRL's loop
        self._take_pool(self.train_dataset)
        self.driver = make_driver(
            strategy,
            self._settings,
            self._pool,
            self.args,
            # A picture cannot be told from its prompt's text, nor what an environment will say.
            readable=not self._is_vlm and train_dataset is not None,
            from_stream=self._window is not None,
        )
        self.add_callback(StepClock(self))
        self._step_log = StepLog(Path(self.args.output_dir) / "metrics.jsonl")
        self._micro_batches: list[dict[str, Any]] | None = None
        self._round_rewards: NDArray[np.float64] | None = None
        self._single_rewards: NDArray[np.float64] | None = None
        self._round_tokens: NDArray[np.int64] | None = None
        self._round_names: list[str] | None = None
        self._round_answers: list[str] | None = None
        self._own_tokens: list[int] = []
        self._entropies: torch.Tensor | None = None
        self._aux_loss: torch.Tensor | None = None
        self._entropy_totals = EntropyTotals()
        self._loss_inputs: dict[str, Any] | None = None

    def _take_pool(self, rows: Dataset) -> None:
        """Choose among these rows from now on."""
        self.prompt_names = prompt_names(rows)
        if self.args.remove_unused_columns:  # rewards see what is left, as in TRL
            rows = self._remove_unused_columns(rows, "training")
        self._pool = rows

    def _renew_window(self) -> None:
        """Of a streaming dataset, take the next rows once all of those held were offered."""
        window = self._window
        if window is not None and not window.whole and self.driver.stream.offered_all:
            self._take_window(window, window.refill())

    def _take_window(self, window: Window, rows: Dataset) -> None:
        self._take_pool(rows)
        self.driver.change_pool(prompt_stream(rows, self.args, window.number))

    # -- the step ---------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if isinstance(self.driver.stream, OfferedStream):
            assert self.num_generations is not None  # TRL fills it in
            self.driver.stream.offer(loader_order(self.offered, self.num_generations))
        self._entropy_totals.flush(self.driver.ledger)
        self._renew_window()
        step = self.driver.ledger.step
        outcome = self.driver.step(self._roll_out, self._measure)
        check_fresh(outcome.kept, self.driver.strategy, step)
        self._log_choice(outcome)
        return self._assemble(outcome)

    def _roll_out(self, requests: list[Request]) -> list[Group]:
        """Generate and score one round of requests with TRL; the same groups on every process."""
        ids = np.repeat([r.prompt_id for r in requests], [r.num_rollouts for r in requests])
        check_same_choice(ids)
        processes = self.accelerator.num_processes
        mine = own_share(ids, self.accelerator.process_index, processes)
        local = len(mine)
        found = {int(i): self._pool[int(i)] for i in np.unique(mine)}
        sizes = {r.num_rollouts for r in requests}
        regular = len(sizes) == 1 and len(ids) == local * processes
        self._round_names = [self.prompt_names[i] for i in mine]
        with self._group_size(sizes.pop() if regular else 1):
            # Copies: an environment or a rollout function may write into its row.
            rows = [copy.deepcopy(found[int(i)]) for i in mine]
            batch = super()._generate_and_score_completions(rows)
        self._round_names = None
        assert self._round_rewards is not None and self._round_tokens is not None
        assert self._single_rewards is not None
        entropies, answers = self._read_rollouts(batch), self._round_answers
        batch = split_pixel_values_by_grid(batch)
        done = Round(batch, local, self._single_rewards, regular)
        if self.driver.strategy.replays and processes > 1:
            everyones = rollout_tensors.share(batch, self.accelerator, self._tokenizer.pad_token_id)
            done = Round(everyones, local * processes, self._single_rewards, False, shared=True)
        groups = make_groups(
            requests,
            done,
            self.driver.ledger.step,
            self._round_rewards,
            self._round_tokens,
            entropies,
            answers,
        )
        if not regular:
            blank = [not group.informative for group in groups]
            self._metrics["train"]["frac_reward_zero_std"][-1] = float(np.mean(blank))
        return groups

    def _read_rollouts(self, batch: dict[str, Any]) -> NDArray[np.float64] | None:
        """Keep the log-probabilities of rollouts that may be trained on later, for the importance
        ratio; and give each rollout's mean token entropy where the strategy reads it, shape (n,).
        """
        strategy = self.driver.strategy
        if not (strategy.replays or strategy.reads_entropies):
            return None
        with torch.no_grad():
            logps, entropies, _ = super()._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
                **pictures.forward_fields(batch),
            )
        if strategy.replays:
            batch.setdefault("old_per_token_logps", logps)
        means = mean_entropies(entropies, loss_mask(batch))
        return np.asarray(self.accelerator.gather(means).double().cpu().numpy())

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        _, completion_ids, own = generated[:3]
        # What a tool or an environment said stands among a completion's tokens, but nobody
        # generated it.
        self._own_tokens = [sum(mask) for mask in own] if own else [len(i) for i in completion_ids]
        return generated

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # Parameters spread over processes are gathered in lockstep, which only TRL's way keeps.
        whole = self.accelerator.distributed_type not in _SHARDED
        if not (self._settings.fast_decoding and whole) or self.use_vllm:
            return super()._generate_single_turn(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        # The loader's order promises TRL's own result, to the last bit.
        exact = isinstance(self.driver.stream, OfferedStream)
        with faster_generation(policy, self.generation_config, exact):
            return super()._generate_single_turn(*args, **kwargs)

    def _measure(self, asked: Measure) -> tuple[NDArray[np.float64], int]:
        """Answer what a strategy asks of the policy; the random state stays as it was."""
        sampling = Sampling(
            self.max_completion_length or 256,
            self.temperature,
            self.top_p,
            seed=self.args.seed + 7919 * self.driver.ledger.step,
        )
        return measure(
            asked,
            self.accelerator.unwrap_model(self.model),
            self._tokenizer,
            self._pool,
            self.reward_funcs,
            self.reward_weights.tolist(),
            sampling,
        )

    @contextlib.contextmanager
    def _group_size(self, size: int) -> Iterator[None]:
        """Let TRL see groups of `size`; 1 makes it leave unequal groups alone."""
        usual, self.num_generations = self.num_generations, size
        try:
            yield
        finally:
            self.num_generations = usual

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        # In evaluation too, or the columns of one table of completions were of unequal length.
        names = self._round_names or [row_name(row) for row in inputs]
        self._log_completion_extra("prompt_id", names)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._round_names is not None:
            self._single_rewards = rewards.double().cpu().numpy()
            weights = self.reward_weights.cpu().numpy()
            self._round_rewards = weighted_total(rewards.cpu().numpy(), weights)
            lengths = torch.tensor(self._own_tokens, device=rewards.device)
            self._round_tokens = self.accelerator.gather(lengths).cpu().numpy()
            if self.driver.strategy.reads_answers:
                self._round_answers = gather_object(final_answers(completions))
        return rewards

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        budget = self._settings.rollout_budget
        scheduler = super().create_scheduler(budget or num_training_steps, optimizer)
        if budget is not None:
            run_over_rollouts(scheduler, self.driver, budget)
        return scheduler

    # -- the training batch -----------------------------------------------------------------

    def _assemble(self, outcome: StepOutcome) -> dict[str, Any]:
        """The kept rollouts as TRL's training batch, or the micro-batches cut by our own hand."""
        settings = self._settings
        advantages = self._advantages(outcome)
        usual = self.args.per_device_train_batch_size * self.args.steps_per_generation
        processes = self.accelerator.num_processes
        own_shape = is_plain_batch(outcome.kept, outcome.generated, usual, processes)
        in_groups = settings.advantage_estimator == "group"
        if own_shape and in_groups and trl_advantages_hold(outcome.kept):
            return self._whole(outcome.kept, None)
        correct_advantages(self._logs, outcome, advantages)
        flat = np.concatenate(advantages) if advantages else np.empty(0)
        idle = settings.empty_update == "skip" and not np.any(flat)
        if own_shape and not idle:
            return self._whole(outcome.kept, flat)
        trained = [] if idle else list(zip(outcome.kept, advantages, strict=True))
        cut = cut_micro_batches(
            trained, self.args, self.accelerator, self.loss_type, self._tokenizer.pad_token_id
        )
        self._micro_batches = [unsplit_pixel_values_by_grid(part) for part in cut]
        # TRL shuffles and cuts what it gets here; `_prepare_inputs` then puts ours in its place.
        return {"advantages": torch.zeros(self.args.steps_per_generation)}

    def _whole(self, kept: list[Group], advantages: NDArray[np.float64] | None) -> dict[str, Any]:
        return unsplit_pixel_values_by_grid(whole_batch(kept, advantages, self.accelerator))

    def _advantages(self, outcome: StepOutcome) -> list[NDArray[np.float64]]:
        """Of every rollout of each kept group, shape (n,)."""
        kept, driver = outcome.kept, self.driver
        if self.multi_objective_aggregation == NORMALIZE_THEN_SUM:
            weights = self.reward_weights.double().cpu().numpy()
            return normalize_then_sum(kept, weights, driver.strategy)
        estimator = self._settings.advantage_estimator
        return compute_advantages(kept, driver.ledger, estimator, self.scale_rewards)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._micro_batches is None or not self.model.training:
            return inputs
        self._buffered_inputs, self._micro_batches = self._micro_batches, None
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # -- loss and entropy -------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if "dopr_skip" in inputs:
            # No parameter gets a gradient, so an optimiser step after only such batches is none.
            return torch.zeros((), device=self.accelerator.device, requires_grad=True)
        self._loss_inputs = inputs
        coefficient = bonus_coefficient(self)
        loss = super()._compute_loss(model, inputs)
        self._loss_inputs = None
        loss = reweighted(loss, self, inputs, coefficient, self._entropies, self._aux_loss)
        self._aux_loss = None
        if self._settings.ibro_coefficient and self.model.training:
            loss = loss - self._ibro(inputs)
        if "dopr_prompt" in inputs and self.model.training:
            self._note_entropies(inputs)
        return loss

    def _ibro(self, inputs: dict[str, Any]) -> torch.Tensor:
        """IBRO's weighted term; the mean runs over the tokens of an optimiser step, as TRL's `dapo`
        loss counts them, whatever the loss.
        """
        settings = self._settings
        assert settings.ibro_coefficient is not None and self._entropies is not None
        over = share_over(self.state, self.driver, settings.rollout_budget)
        weight = ibro_weight(settings.ibro_coefficient, settings.ibro_schedule, over)
        self._metrics["train"]["ibro/coefficient"].append(weight)
        updates = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        mask = loss_mask(inputs)
        return weight * ibro_term(self._entropies, inputs["advantages"], mask, tokens / updates)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._entropies = result[1]
        self._aux_loss = result[2] if len(result) > 2 else None  # older TRL gives two
        if self._loss_inputs is not None and self._settings.advantage_estimator == "zvp":
            shape_blank_advantages(self._loss_inputs, result[1])
        return result

    def _note_entropies(self, inputs: dict[str, Any]) -> None:
        """Add a micro-batch's token entropies to its prompts; the forward pass is paid anyway."""
        if self._entropies is None:
            return
        rows = entropy_rows(inputs["dopr_prompt"], self._entropies.detach(), loss_mask(inputs))
        self._entropies = None
        self._entropy_totals.add(self.accelerator.gather(rows).tolist())

    # -- logs and checkpoints ---------------------------------------------------------------

    def _log_choice(self, outcome: StepOutcome) -> None:
        """Put what was chosen and spent where TRL's `log` will find it."""
        for name, value in choice_metrics(self.driver, outcome).items():
            self._metrics["train"][name].append(value)
        for group in outcome.generated:
            self._step_log.chose(self.prompt_names[group.prompt_id], group.mean)

    def clear_completions(self) -> None:
        """Empty TRL's table of completions, or a small step would show rows of earlier ones."""
        clear_table(self._logs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        training = self.model.training
        if training and "loss" in logs:
            # Every step, also those that reuse a batch and generate nothing.
            for name, total in totals(self.driver).items():
                self._metrics["train"][name] = [total]
        super().log(logs, start_time)
        if training and "loss" in logs and self.accelerator.is_main_process:
            self._step_log.write(self.state.global_step, logs, self.training_seconds)

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

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on one batch of rollouts."""
        passes = self.args.steps_per_generation * self.num_iterations
        return max(1, passes // self.args.gradient_accumulation_steps)

    def restore(self, folder: Path) -> None:
        """Take weights, counts and the strategy's state from a checkpoint, without training on."""
        self._load_from_checkpoint(str(folder))
        self.state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        self._restore_driver(folder)

    def _restore_driver(self, folder: Path) -> None:
        state, device = checkpoints.load_state(folder), self.accelerator.device
        if self._window is not None and "window" in state:
            self._window.load_state_dict(state["window"])
            self._take_window(self._window, self._window.rows)
        self.driver.load_state_dict(state, lambda packed: unpack_handle(packed, device))
        self.training_seconds = state["training_seconds"]
        if self.accelerator.is_main_process:
            self._step_log.resume(self.state.global_step)

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        super()._load_optimizer_and_scheduler(folder)
        if folder is not None:
            self._restore_driver(Path(folder))

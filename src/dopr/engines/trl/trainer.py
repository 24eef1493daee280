"""DoPRTrainer: TRL's GRPOTrainer with a strategy choosing what to roll out.

TRL's private methods are wrapped by `super()` and none is copied, here and in the classes that this
one is made of: `loading` (the rows to choose among, resuming), `saving` and `losses`.
tests/test_trl_names.py and tests/test_trl_contract.py fail when one of the methods moves.

The core loop is `_generate_and_score_completions`: the driver runs the strategy, `_roll_out` turns
each round of requests into groups by TRL's own generation and scoring, and `_assemble` makes the
training batch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from numpy.typing import NDArray
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from dopr.core.advantages import compute_advantages
from dopr.core.driver import StepOutcome
from dopr.core.errors import UserError
from dopr.engines.metrics_log import StepClock, StepLog, choice_metrics, totals
from dopr.engines.prompt_pool import row_name
from dopr.engines.trl import pictures, rollout_tensors, versions
from dopr.engines.trl.completion_table import clear_table, correct_advantages
from dopr.engines.trl.losses import LossTrainer
from dopr.engines.trl.micro_batches import cut_micro_batches, loss_mask, whole_batch
from dopr.engines.trl.multi_objective import (
    NORMALIZE_THEN_SUM,
    estimator_beside,
    normalize_then_sum,
)
from dopr.engines.trl.processes import SHARDED, check_same_choice, own_share
from dopr.engines.trl.rounds import (
    Round,
    check_fresh,
    is_plain_batch,
    make_groups,
    trl_advantages_hold,
)
from dopr.engines.trl.saving import SavingTrainer
from dopr.engines.trl.schedule import run_over_rollouts
from dopr.engines.trl.selection import Selection
from dopr.engines.trl.setup import check_engine, check_pool, make_driver
from dopr.engines.trl.streaming import Window
from dopr.policy.entropies import EntropyTotals, mean_entropies
from dopr.policy.final_answers import final_answers
from dopr.policy.generation import faster_generation
from dopr.policy.measuring import measure
from dopr.policy.sampling import Sampling, weighted_total
from dopr.strategies import Group, Measure, Request, Strategy

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig, TrainerCallback
    from trl import GRPOConfig
    from trl.trainer.grpo_trainer import EnvironmentFactory, RolloutFunc

    from dopr.engines.trl import arguments


class DoPRTrainer(SavingTrainer, LossTrainer):
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

    def __init__(
        self,
        model: arguments.Model,
        reward_funcs: arguments.Rewards | None = None,
        args: GRPOConfig | None = None,
        train_dataset: arguments.SomeDataset | None = None,
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
        self._estimator = estimator_beside(aggregation, self._settings.advantage_estimator)
        versions.check_entropies(
            self._settings.ibro_coefficient,
            self._estimator,
            getattr(args, "use_liger_kernel", False),
        )
        self.training_seconds = 0.0
        # Only what is given: not every version of TRL knows all of them.
        given = {name: value for name, value in everything.items() if value is not None}
        super().__init__(model, **given)
        versions.add_missing_attributes(self)
        self._window: Window | None = None
        self._rollouts_before = 0
        if isinstance(self.train_dataset, IterableDataset):
            self._window = Window(self.train_dataset, self._settings.stream_window)
            self.train_dataset = self._window.rows  # what drives TRL's loop
        self._take_pool(self.train_dataset)
        # Nothing is known of a prompt before an environment speaks.
        told = frozenset() if train_dataset is None else self._measurable()
        self.driver = make_driver(
            strategy,
            self._settings,
            self._plain_pool,
            self.args,
            can_measure=told,
            from_stream=self._window is not None,
        )
        self.add_callback(StepClock(self))
        self._step_log = StepLog(Path(self.args.output_dir) / "metrics.jsonl")
        self._micro_batches: list[dict[str, Any]] | None = None
        self._round_rewards: NDArray[np.float64] | None = None
        self._single_rewards: NDArray[np.float64] | None = None
        self._round_tokens: NDArray[np.int64] | None = None
        self._round_names: list[str] | None = None
        self._round_final_answers: list[str] | None = None
        self._own_tokens: list[int] = []
        self._entropy_totals = EntropyTotals()

    # -- the step ---------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        self._take_loader_order()
        self._entropy_totals.flush(self.driver.ledger)
        self._renew_window()
        outcome = self.driver.step(self._roll_out, self._measure)
        check_fresh(outcome.kept, self.driver.strategy, outcome.step)
        self._log_choice(outcome)
        return self._assemble(outcome)

    def _roll_out(self, requests: list[Request]) -> list[Group]:
        """Generate and score one round of requests with TRL; the same groups on every process."""
        ids = np.repeat([r.prompt_id for r in requests], [r.num_rollouts for r in requests])
        check_same_choice(ids)
        processes = self.accelerator.num_processes
        mine = own_share(ids, self.accelerator.process_index, processes)
        local = len(mine)
        needed = np.unique(mine).tolist()
        found = dict(zip(needed, self._pool_rows(needed), strict=True))
        sizes = {r.num_rollouts for r in requests}
        regular = len(sizes) == 1 and len(ids) == local * processes
        self._round_names = [self.prompt_names[i] for i in mine]
        try:
            with self._group_size(sizes.pop() if regular else 1):
                # Copies: an environment or a rollout function may write into its row.
                rows = [copy.deepcopy(found[int(i)]) for i in mine]
                batch = super()._generate_and_score_completions(rows)
        finally:
            self._round_names = None
        assert self._round_rewards is not None and self._round_tokens is not None
        assert self._single_rewards is not None
        entropies = self._read_rollouts(batch)
        batch = split_pixel_values_by_grid(batch)
        # The loader's order promises TRL's own result, so it keeps TRL's advantages.
        right = self._in_loader_order or not versions.miscounts_unscored(self._round_rewards)
        holds = regular and right
        done = Round(batch, local, self._single_rewards, holds)
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
            self._round_final_answers,
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
            result = super()._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
                **pictures.forward_fields(batch),
            )
        logps, entropies, _ = versions.per_token(result)
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
        whole = self.accelerator.distributed_type not in SHARDED
        if not (self._settings.fast_decoding and whole) or self.use_vllm:
            return super()._generate_single_turn(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        # The loader's order promises TRL's own result, to the last bit.
        with faster_generation(policy, self.generation_config, exact=self._in_loader_order):
            return super()._generate_single_turn(*args, **kwargs)

    def _measure(self, asked: Measure) -> tuple[NDArray[np.float64], int]:
        """Answer what a strategy asks of the policy; the random state stays as it was."""
        sampling = Sampling(
            self.max_completion_length or 256,
            self.temperature,
            self.top_p,
            seed=self.args.seed + 7919 * self.driver.ledger.step,
            template_options=self.args.chat_template_kwargs,
            generation_options=self.args.generation_kwargs,
        )
        return measure(
            asked,
            self.accelerator.unwrap_model(self.model),
            self._tokenizer,
            self._plain_pool,
            self.reward_funcs,
            self.reward_weights.tolist(),
            sampling,
            self._settings.answer_column,
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
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        # In evaluation too, for a table's columns are of one length; and after what may raise.
        names = self._round_names or [row_name(row) for row in inputs]
        self._log_completion_extra("prompt_id", names)
        if torch.isinf(rewards).any():
            raise UserError(
                "a reward is infinite; give a finite number, or None where nothing can be scored"
            )
        if self._round_names is not None:
            self._single_rewards = rewards.double().cpu().numpy()
            weights = self.reward_weights.cpu().numpy()
            self._round_rewards = weighted_total(rewards.cpu().numpy(), weights)
            lengths = torch.tensor(self._own_tokens, device=rewards.device)
            self._round_tokens = self.accelerator.gather(lengths).cpu().numpy()
            if self.driver.strategy.reads_final_answers:
                self._round_final_answers = gather_object(final_answers(completions))
        return rewards

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        budget = self._settings.rollout_budget
        scheduler = super().create_scheduler(budget or num_training_steps, optimizer)
        if budget is not None:
            run_over_rollouts(scheduler, lambda: self.training_rollouts, budget)
        return scheduler

    # -- the training batch -----------------------------------------------------------------

    def _assemble(self, outcome: StepOutcome) -> dict[str, Any]:
        """The kept rollouts as TRL's training batch, or the micro-batches cut by our own hand."""
        settings = self._settings
        advantages = self._advantages(outcome)
        usual = self.args.per_device_train_batch_size * self.args.steps_per_generation
        processes = self.accelerator.num_processes
        own_shape = is_plain_batch(outcome.kept, outcome.generated, usual, processes)
        if own_shape and trl_advantages_hold(outcome.kept, self._estimator):
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
        return compute_advantages(kept, driver.ledger, self._estimator, self.scale_rewards)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._micro_batches is None or not self.model.training:
            return inputs
        self._buffered_inputs, self._micro_batches = self._micro_batches, None
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # -- logs ------------------------------------------------------------------------------

    def _log_choice(self, outcome: StepOutcome) -> None:
        """Put what was chosen and spent where TRL's `log` will find it."""
        for name, value in choice_metrics(self.driver, outcome).items():
            self._metrics["train"][name].append(value)
        if not self.accelerator.is_main_process:
            return  # which alone writes the log
        sources = self.prompt_sources
        for group in outcome.generated:
            source = None if sources is None else sources[group.prompt_id]
            self._step_log.chose(self.prompt_names[group.prompt_id], group.mean, source)

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
            # Newer TRL puts its own metrics into `logs`, older into a copy; here they all are.
            row = self.state.log_history[-1]
            self._step_log.write(self.state.global_step, row, self.training_seconds)

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on one batch of rollouts."""
        passes = self.args.steps_per_generation * self.num_iterations
        return max(1, passes // self.args.gradient_accumulation_steps)

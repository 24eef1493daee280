"""What `dopr train` knows: every setting of a run, and the checks that refuse what cannot be."""

import dataclasses
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dopr.core.configuration import (
    MOST_THREADS,
    above_zero,
    at_least,
    at_most,
    check_choices,
    check_seeds,
    check_value,
)
from dopr.core.errors import UserError, unknown_name
from dopr.engines.trl.objectives import OBJECTIVES, departures, laid_under
from dopr.engines.trl.selection import MethodSettings, check_method

_LOSS_TYPES = ("bnpo", "cispo", "dapo", "dr_grpo", "grpo", "luspo", "sapo", "vespo")  # TRL's
# Settings that an objective may lay and that have names of their own here, with what they are
# without one.
_LAID = {"ibro_coefficient": 0.0, "loss_type": "dapo", "scale_rewards": "group"}


@dataclass
class EvalSettings:
    """How the policy is evaluated while it trains; nothing of it counts as training.

    Args:
        every_rollouts: evaluate each time so many more training rollouts are spent.
        every_steps: evaluate every so many steps, where `every_rollouts` is not given.
        at_start: also evaluate the base model.
        k: samples a prompt.
        num_prompts: at most so many prompts of `eval_dataset`, the first ones; null takes all.
        temperature: of sampling.
        top_p: of sampling.
        batch_size: sequences generated at once.
        seed: of sampling; the same in every run, so that runs are compared on equal draws.
    """

    every_rollouts: int | None = None
    every_steps: int | None = None
    at_start: bool = True
    k: int = 1
    num_prompts: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 256
    seed: int = 1234

    def check(self) -> None:
        """Refuse what cannot be evaluated.

        Raises:
            UserError: naming the setting and its limits.
        """
        at_least(
            self,
            1,
            *("every_rollouts", "every_steps", "k", "num_prompts", "batch_size"),
            where="eval.",
        )
        at_least(self, 0, "temperature", where="eval.")
        check_seeds({"eval.seed": self.seed})
        above_zero(self, "top_p", where="eval.")
        at_most(self, 1, "top_p", where="eval.")


def completion_length_for(*models: str) -> int:
    """Tokens of the longest completion where nothing is said: as in TRL, and what fits beside a
    prompt where the tiny model, whose context is 256, is among them.
    """
    return 128 if "tiny-reasoner" in models else 256


def passed(default: Any, choices: Sequence[str] | None = None) -> Any:
    """A setting that goes to TRL as it is, under the same name."""
    return field(default=default, metadata={"passed": True, "choices": choices})


def stands_for(default: Any, *names: str) -> Any:
    """A setting that TRL has under other names."""
    return field(default=default, metadata={"stands_for": names})


def one_of(default: str | None, *choices: str) -> Any:
    """A setting of ours that knows these words."""
    return field(default=default, metadata={"choices": choices})


@dataclass
class TaskSettings:
    """What is trained, on what, and what is rewarded.

    Args:
        model: local folder, Hub id, GGUF file, `smollm2-135m` (see `dopr.policy.gguf`), or
            `tiny-reasoner`, the model that comes with the package.
        dataset: a task or a list of tasks; `dopr tasks` lists them.
        mixing: the shares of several training tasks, one number each, in any unit; as many prompts
            of each are taken as the scarcest allows. Null takes all of them.
        eval_dataset: held-out tasks to evaluate on, or null; several are also scored one by one.
        reward: `math`, `exact_match`, `format`, `gym`, `code`, `length_penalty`, `srl`, `rlpt`,
            `embedding:DIR` (a fitted reward model) or `path/to/file.py:name`; several may be given
            as a list and are added up.
        judge: `path/to/file.py:name`, what scores the predictions of `rlpt` instead of the match
            of words, or null.
        reward_weights: one factor a reward.
        reward_timeout_s: seconds that a reward from a file may take for a batch.
        reward_noise: share of the verdicts in training that are flipped (0 for 1 and 1 for 0), for
            studies; evaluation stays true.
    """

    model: str = "tiny-reasoner"
    dataset: str | list[str] | None = None
    mixing: list[float] | None = None
    eval_dataset: str | list[str] | None = None
    reward: str | list[str] = "math"
    judge: str | None = None
    reward_weights: list[float] | None = passed(None)  # noqa: RUF009
    reward_timeout_s: float = 60.0
    reward_noise: float = 0.0


@dataclass
class TrainSettings(MethodSettings, TaskSettings):
    """What `dopr train` knows: a task, a method (`MethodSettings`), and how the run goes.

    Args:
        output_dir: the run directory.
        seed: of the weights that are new, the order of prompts and the sampling.
        steps: stop after so many optimiser steps.
        max_rollouts: stop when so many training rollouts are spent.
        max_tokens: stop when so many tokens are generated in training; those read to choose by do
            not count here.
        max_seconds: stop after so many seconds of training, evaluation and saving left out.
        num_generations: rollouts of a prompt in a step.
        batch_size: rollouts in a forward pass of the update, per device; null fits the strategy.
        gradient_accumulation_steps: forward passes in an update; null fits the strategy.
        learning_rate: of AdamW.
        num_iterations: optimiser steps on each batch of rollouts; more than 1 reuses them.
        lr_scheduler_type: `constant`, or another of transformers' names; it runs over `steps`, or
            over `max_rollouts` where no steps are given.
        warmup_steps: steps (or rollouts) of linear warm-up.
        max_completion_length: tokens; 0 stands for 256, and for 128 with the tiny model, whose
            context is 256.
        temperature: of training rollouts.
        top_p: of training rollouts.
        loss_type: TRL's name of the loss; null takes the objective's, else `dapo`.
        scale_rewards: TRL's `group`, `batch` or `none`; null takes the objective's, else `group`.
        beta: weight of the KL term.
        data_seed: of reasoning-gym tasks that name no seed; equal for all runs of a comparison.
        split: of `dataset`.
        eval_split: of `eval_dataset`.
        limit: at most so many training prompts.
        columns: `{prompt: NAME, answer: NAME}` where the names are not recognised.
        chat: present prompts as chats.
        system_prompt: put before each prompt.
        max_prompt_length: tokens a prompt may have; null bounds it by the model's context alone.
        overlong_prompts: what is done with prompts that are longer, or leave no room for a
            completion: `error`, `drop`, or `truncate` to keep the end of plain text.
        eval: see `EvalSettings`.
        keep_best: `avg@k` or `pass@k`: the folder `best` holds the model that did best in it so
            far; null keeps the last model alone.
        early_stop_evals: end the run after so many evaluations in a row that did not better
            `keep_best` (`avg@k` where that is null); null never does.
        save_every: steps between checkpoints; 0 saves only at the end.
        save_total_limit: checkpoints kept.
        completions_every: steps between tables of completions; 0 writes none.
        report_to: TRL's trackers, such as `trackio`, or `none`.
        lora: options of peft's LoraConfig, or null for full training.
        use_vllm: generate with vLLM.
        vllm_mode: `colocate` or `server`.
        dtype: of the weights.
        bf16: mixed precision; null decides by the machine.
        gradient_checkpointing: null decides by the machine.
        trust_remote_code: run code that comes with the model.
        threads: torch threads; null leaves the setting alone.
        trl: further settings of TRL's GRPOConfig, passed as they are.
    """

    output_dir: str = "runs/train"
    seed: int = passed(0)
    steps: int | None = stands_for(None, "max_steps")
    max_rollouts: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    num_generations: int = passed(8)
    batch_size: int | None = stands_for(None, "per_device_train_batch_size")
    gradient_accumulation_steps: int | None = None
    learning_rate: float = passed(1e-6)
    num_iterations: int = passed(1)
    lr_scheduler_type: str = passed("constant")
    warmup_steps: int = passed(0)
    max_completion_length: int = passed(0)
    temperature: float = passed(1.0)
    top_p: float = passed(1.0)
    loss_type: str | None = passed(None, _LOSS_TYPES)
    scale_rewards: str | bool | None = passed(None, ("batch", "group", "none"))
    beta: float = passed(0.0)
    data_seed: int = 0
    split: str = "train"
    eval_split: str = "test"
    limit: int | None = None
    columns: dict[str, str] | None = None
    chat: bool = False
    system_prompt: str | None = None
    max_prompt_length: int | None = None
    overlong_prompts: str = one_of("error", "drop", "error", "truncate")
    eval: EvalSettings = field(default_factory=EvalSettings)
    keep_best: str | None = one_of(None, "avg@k", "pass@k")
    early_stop_evals: int | None = None
    save_every: int = stands_for(50, "save_steps", "save_strategy")
    save_total_limit: int | None = passed(2)
    completions_every: int = stands_for(10, "log_completions")
    report_to: str | list[str] = passed("none")  # noqa: RUF009
    lora: dict[str, Any] | None = None
    use_vllm: bool = passed(False)
    vllm_mode: str = passed("colocate", ("colocate", "server"))
    dtype: str = one_of("float32", "bfloat16", "float16", "float32")
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    trl: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Lay the objective's settings under what is given, and find what stands for 0."""
        if self.max_completion_length == 0:
            self.max_completion_length = completion_length_for(self.model)
        own = {name: getattr(self, name) for name in _LAID}
        given = {name: value for name, value in own.items() if value is not None}
        objective = self.objective if self.objective in OBJECTIVES else None  # refused by `check`
        found = _LAID | laid_under(objective, given)
        for name in own:
            setattr(self, name, found.pop(name))
        self.trl = found | self.trl

    def check(self) -> None:
        """Refuse what cannot be run, before anything is loaded.

        Raises:
            UserError: naming the setting and the mend.
        """
        from dopr.strategies import make_strategy

        if not self.dataset:
            raise UserError("no dataset is given; add `dataset: ...` or `--dataset ...`")
        if all(limit is None for limit in self.limits.values()):
            raise UserError("nothing says when to stop; give `steps` or `max_rollouts`")
        if self.lr_scheduler_type != "constant" and self.steps is self.max_rollouts is None:
            raise UserError(
                f"lr_scheduler_type {self.lr_scheduler_type!r} needs to know the end; give `steps` "
                "or `max_rollouts`"
            )
        above_zero(self, "learning_rate", "temperature", "top_p", "max_seconds", "reward_timeout_s")
        at_most(self, 1, "top_p")
        check_seeds({"seed": self.seed})
        at_most(self, MOST_THREADS, "threads")
        at_least(
            self,
            1,
            "steps",
            "max_rollouts",
            "max_tokens",
            "batch_size",
            "gradient_accumulation_steps",
            "num_iterations",
            "max_completion_length",
            "max_prompt_length",
            "early_stop_evals",
            "limit",
            "save_total_limit",
            "threads",
        )
        if not 0 <= self.reward_noise < 1:
            raise UserError(f"reward_noise is {self.reward_noise}; it must lie in [0, 1)")
        at_least(self, 0, "save_every", "completions_every", "warmup_steps", "beta")
        at_least(self, 2, "num_generations")
        check_choices(self, TrainSettings)
        self.eval.check()
        self._check_best()
        check_method(self)
        self._check_trl()
        self._check_objective()
        rewards = [self.reward] if isinstance(self.reward, str) else self.reward
        if self.judge is not None and "rlpt" not in [r.removesuffix("_reward") for r in rewards]:
            raise UserError("judge is for the reward rlpt, which is not among the rewards; add it")
        make_strategy(
            self.strategy, **{"num_generations": self.num_generations, **self.strategy_args}
        )

    @property
    def for_trainer(self) -> dict[str, Any]:
        """What goes to the trainer's config as it is; the objective is laid already."""
        names = {f.name for f in dataclasses.fields(MethodSettings)} - {"objective"}
        names |= {f.name for f in dataclasses.fields(self) if f.metadata.get("passed")}
        return {name: getattr(self, name) for name in names}

    @property
    def mixes_on_gpu(self) -> bool:
        """Whether a GPU computes in bfloat16 beside the weights, where `bf16` leaves it open."""
        return self.dtype == "float32" and not self.trl.get("fp16")

    @property
    def template_options(self) -> dict[str, Any] | None:
        """What the chat template reads besides the messages: TRL's `chat_template_kwargs`."""
        return _mapping_of(self.trl, "chat_template_kwargs")

    @property
    def generation_options(self) -> dict[str, Any] | None:
        """TRL's `generation_kwargs`."""
        return _mapping_of(self.trl, "generation_kwargs")

    @property
    def limits(self) -> dict[str, float | None]:
        """What ends the run, whichever comes first; None does not bound it."""
        return {
            "steps": self.steps,
            "rollouts": self.max_rollouts,
            "generated_tokens": self.max_tokens,
            "training_seconds": self.max_seconds,
        }

    def is_spent(self, totals: dict[str, Any]) -> bool:
        """Whether a run with these totals (keys as in `limits`) has come to its end."""
        limits = self.limits.items()
        return any(limit is not None and totals[name] >= limit for name, limit in limits)

    @property
    def objective_departures(self) -> list[str]:
        """Where settings that win leave the named objective, one sentence each."""
        if self.objective is None:
            return []
        own = {"loss_type": self.loss_type, "scale_rewards": self.scale_rewards}
        return departures(self.objective, self.trl | own)

    def _check_best(self) -> None:
        regular = self.eval.every_rollouts is not None or self.eval.every_steps is not None
        for name in ("keep_best", "early_stop_evals"):
            if getattr(self, name) is not None and not (self.eval_dataset and regular):
                raise UserError(
                    f"{name} goes by evaluations during the run; give eval_dataset, and "
                    "eval.every_rollouts or eval.every_steps"
                )

    def _check_objective(self) -> None:
        _ = self.objective_departures  # refuses what contradicts itself
        decays = self.ibro_coefficient and self.ibro_schedule != "constant"
        if decays and self.steps is self.max_rollouts is None:
            raise UserError(
                f"ibro_schedule {self.ibro_schedule!r} needs to know the end; give `steps` or "
                "`max_rollouts`"
            )

    def _check_trl(self) -> None:
        _ = self.template_options  # refuses what is no mapping
        if (self.generation_options or {}).get("stop_strings") and not self.use_vllm:
            raise UserError(
                "TRL stops at strings with vLLM alone; name the token that ends a completion, "
                "trl.generation_kwargs: {eos_token_id: [...]}, or set use_vllm"
            )
        specs = dataclasses.fields(self)
        own = {f.name: f.name for f in specs if f.name not in ("trl", "eval")}
        own |= {other: f.name for f in specs for other in f.metadata.get("stands_for", ())}
        for key in self.trl:
            if key in own:
                raise UserError(f"trl.{key} has its own setting here; use `{own[key]}`")
        if self.trl:
            from dopr.engines.trl.config import DoPRConfig

            known = [f.name for f in dataclasses.fields(DoPRConfig)]
            hints = typing.get_type_hints(DoPRConfig)
            for key, value in self.trl.items():
                if key not in known:
                    raise unknown_name("TRL setting", f"trl.{key}", [f"trl.{k}" for k in known])
                check_value(value, hints[key], f"trl.{key}")


def _mapping_of(trl: dict[str, Any], name: str) -> dict[str, Any] | None:
    """One of TRL's settings that are mappings, which may be given as JSON."""
    value = trl.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = trl[name]
    if value is not None and not isinstance(value, dict):
        raise UserError(f"trl.{name} must be a mapping of options, not {value!r}")
    return value

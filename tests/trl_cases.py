"""Fields of TRL's GRPOConfig as they are tried together, see tests/test_trl_fields.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """Fields that are tried together: uniform choice must do what plain GRPOTrainer does with them,
    and DoPR must train.

    Attributes:
        fields: their values, none of them TRL's default.
        with_: further settings of both runs.
        setup: names of the additions to the run that `tests/helpers/trl_run.py` knows.
        trains: the values change the parameters after training.
        note: goes into the table.
        slow: takes seconds.
        unseen: those of the fields of which a run in one process on a CPU shows nothing; that they
            reach TRL is all that is tried.
    """

    fields: Mapping[str, Any]
    with_: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    trains: bool = True
    note: str = ""
    slow: bool = False
    unseen: tuple[str, ...] = ()


_EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}

_STAND_IN = "tried with an engine in vLLM's place; real vLLM: `make test-vllm`"

_OF_SCRIPTS = {
    "do_train": True,
    "do_predict": True,
    "local_rank": 0,
    "fsdp_config": {"min_num_params": 1},
    "resume_from_checkpoint": "nowhere",
    "project": "a project",
    "ds3_gather_for_generation": False,
    "hub_model_id": "someone/model",
    "hub_private_repo": True,
    "hub_strategy": "end",
    "hub_token": "none",
    "hub_always_push": True,
    "hub_revision": "branch",
    "trackio_space_id": "someone/space",
    "trackio_bucket_id": "someone/bucket",
    "trackio_static_space_id": "someone/static",
}

CASES = {
    "optimiser": Case(
        {
            "optim": "adamw_torch",
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "adam_beta1": 0.8,
            "adam_beta2": 0.95,
            "adam_epsilon": 1e-6,
            "max_grad_norm": 0.05,
        }
    ),
    "optimiser with arguments": Case(
        {"optim_args": "momentum=0.9", "optim_target_modules": ["mlp"]},
        {"optim": "rmsprop"},
        unseen=("optim_target_modules",),
    ),
    "schedule": Case(
        {
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "warmup_steps": 1,
        },
        {"max_steps": 4},
    ),
    "length of the run": Case({"num_train_epochs": 0.25}, {"max_steps": -1}),
    "steps": Case({"max_steps": 1}),
    "logging": Case(
        {
            "logging_steps": 2,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,
            "log_on_each_node": False,
            "log_level": "error",
            "log_level_replica": "error",
            "disable_tqdm": False,
            "run_name": "a run",
        },
        {"max_steps": 3},
        unseen=("logging_nan_inf_filter", "log_on_each_node", "log_level_replica", "run_name"),
    ),
    "memory in the log": Case({"skip_memory_metrics": False}, trains=False, slow=True),
    "logging by epoch": Case(
        {"logging_strategy": "epoch"}, {"max_steps": -1, "num_train_epochs": 0.25}
    ),
    "evaluation": Case(
        {
            **_EACH_STEP,
            "eval_delay": 2,
            "num_generations_eval": 2,
            "eval_on_start": True,
            "eval_accumulation_steps": 1,
            "eval_do_concat_batches": False,
            "eval_use_gather_object": True,
            "prediction_loss_only": True,
            "batch_eval_metrics": True,
            "include_for_metrics": ["loss"],
            "label_names": ["answer"],
            "do_eval": True,
        },
        {"logging_steps": 2, "max_steps": 4},
        setup=("evaluation",),
        unseen=(
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "prediction_loss_only",
            "batch_eval_metrics",
            "include_for_metrics",
            "label_names",
            "do_eval",
        ),
    ),
    "saving": Case(
        {
            "save_strategy": "best",
            "save_total_limit": 1,
            "save_on_each_node": True,
            "metric_for_best_model": "eval_reward",
            "greater_is_better": False,
            "load_best_model_at_end": True,
        },
        _EACH_STEP | {"max_steps": 4},
        setup=("evaluation",),
        unseen=("save_on_each_node",),
    ),
    "saving the model alone": Case(
        {
            "save_steps": 1,
            "save_only_model": True,
            "enable_jit_checkpoint": True,
            "restore_callback_states_from_checkpoint": True,
        },
        {"save_strategy": "steps"},
        trains=False,
        unseen=("restore_callback_states_from_checkpoint",),
    ),
    "loading of data": Case(
        {
            "dataloader_num_workers": 1,
            "dataloader_pin_memory": False,
            "dataloader_persistent_workers": True,
            "dataloader_prefetch_factor": 1,
            "dataloader_multiprocessing_context": "fork",
            "dataloader_in_order": False,
            "dataloader_drop_last": True,
            "accelerator_config": {"use_seedable_sampler": False},
        },
        trains=False,
        unseen=("dataloader_pin_memory", "dataloader_drop_last"),
    ),
    "order of data": Case(
        {
            "shuffle_dataset": False,
            "seed": 5,
            "data_seed": 6,
            "train_sampling_strategy": "sequential",
            "length_column_name": "answer",
            "ignore_data_skip": True,
        },
        unseen=("data_seed", "train_sampling_strategy", "length_column_name", "ignore_data_skip"),
    ),
    "columns": Case(
        {"remove_unused_columns": True},
        setup=("columns reward",),
        note="rewards then see `prompt` and pictures alone, as in TRL",
    ),
    "forward pass": Case(
        {
            "neftune_noise_alpha": 50.0,
            "label_smoothing_factor": 0.1,
            "torch_empty_cache_steps": 1,
            "average_tokens_across_devices": False,
            "use_cache": True,
            "include_num_input_tokens_seen": "all",
            "debug": "underflow_overflow",
        },
        unseen=(
            "label_smoothing_factor",
            "torch_empty_cache_steps",
            "average_tokens_across_devices",
            "debug",
        ),
    ),
    "half precision": Case(
        {"fp16": True, "tf32": False}, trains=False, unseen=("tf32",), note="tried on a CPU alone"
    ),
    "determinism": Case({"full_determinism": True}, trains=False),
    "recomputation": Case(
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
        trains=False,
    ),
    "recomputation by layers": Case(
        {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": True},
        },
        trains=False,
    ),
    "compilation": Case(
        {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"},
        trains=False,
        unseen=("torch_compile",),
        slow=True,
    ),
    "sampling": Case(
        {
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 10,
            "max_completion_length": 6,
        }
    ),
    "sampling by probability": Case({"min_p": 0.9, "repetition_penalty": 10.0}),
    "generation": Case({"generation_kwargs": {"min_new_tokens": 4, "no_repeat_ngram_size": 2}}),
    "cache": Case({"cache_implementation": "static"}, trains=False),
    "continuous batching": Case(
        {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": {"block_size": 32, "num_blocks": 64},
        },
        unseen=("transformers_continuous_batching_config",),
        slow=True,
    ),
    "continuous batching by its old name": Case(
        {"use_transformers_paged": True},
        {"transformers_continuous_batching_config": {"block_size": 32, "num_blocks": 64}},
        slow=True,
    ),
    "chat template": Case({"chat_template_kwargs": {"shout": True}}, setup=("chat",)),
    "batch by rows": Case(
        {"per_device_train_batch_size": 4, "generation_batch_size": 16},
        {"gradient_accumulation_steps": 2},
    ),
    "batch by steps": Case(
        {
            "gradient_accumulation_steps": 2,
            "steps_per_generation": 4,
            "num_generations": 2,
            "num_iterations": 2,
        },
        {"max_steps": 5},
    ),
    "padding": Case({"pad_to_multiple_of": 16}),
    "clipping": Case({"epsilon": 0.01, "epsilon_high": 0.02, "delta": 1.05}, {"num_iterations": 3}),
    "ratios of sequences": Case({"importance_sampling_level": "sequence"}, {"num_iterations": 2}),
    "mask of truncated rollouts": Case(
        {"mask_truncated_completions": True}, setup=("short answers",)
    ),
    "mask of sure tokens": Case({"top_entropy_quantile": 0.5}),
    "mask of stale rollouts": Case({"off_policy_mask_threshold": 1e-4}, {"num_iterations": 3}),
    "sapo": Case(
        {"loss_type": "sapo", "sapo_temperature_neg": 1.5, "sapo_temperature_pos": 0.5},
        {"num_iterations": 2},
    ),
    "vespo": Case(
        {
            "vespo_k_pos": 1.0,
            "vespo_lambda_pos": 2.0,
            "vespo_k_neg": 2.0,
            "vespo_lambda_neg": 1.0,
        },
        {"loss_type": "vespo", "num_iterations": 2},
    ),
    "entropy bonus": Case({"entropy_coef": 0.5}, {"gradient_accumulation_steps": 2}),
    "adaptive entropy bonus": Case(
        {
            "use_adaptive_entropy": True,
            "entropy_coef_max": 0.7,
            "entropy_coef_delta": 0.5,
            "entropy_target": 10.0,
        },
        {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2},
    ),
    "adaptive entropy bonus held back": Case(
        {"entropy_coef_min": 0.1},
        {"use_adaptive_entropy": True, "entropy_target": 0.0},
        trains=False,
    ),
    "experts": Case(
        {"router_aux_loss_coef": 1.0}, {"gradient_accumulation_steps": 2}, setup=("experts",)
    ),
    "reference model": Case(
        {
            "beta": 0.5,
            "use_bias_correction_kl": False,
            "sync_ref_model": True,
            "ref_model_mixup_alpha": 0.5,
            "ref_model_sync_steps": 1,
            "model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"},
        },
        setup=("model by name",),
    ),
    "dropout": Case({"disable_dropout": True}, setup=("dropout",)),
    "head": Case({"cast_lm_head_to_fp32": True}, setup=("bfloat16",)),
    "several rewards": Case(
        {
            "reward_weights": [1.0, 0.25],
            "multi_objective_aggregation": "normalize_then_sum",
        },
        setup=("two rewards",),
    ),
    "scale": Case({"scale_rewards": "none"}),
    "tables of completions": Case(
        {
            "log_completions": True,
            "num_completions_to_print": 1,
            "log_unique_prompts": True,
            "log_multimodal": False,
        },
        _EACH_STEP,
        setup=("evaluation",),
        trains=False,
        unseen=("log_unique_prompts", "log_multimodal"),
    ),
    "vllm on its own device": Case(
        {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": "http://127.0.0.1:1",
            "vllm_server_host": "127.0.0.1",
            "vllm_server_port": 1,
            "vllm_server_timeout": 1.0,
            "vllm_group_port": 2,
            "vllm_structured_outputs_regex": "[0-9]+",
            "vllm_importance_sampling_mode": "token_truncate",
            "vllm_importance_sampling_clip_max": 1.001,
            "vllm_importance_sampling_clip_min": 0.999,
        },
        setup=("vllm",),
        note=_STAND_IN,
    ),
    "vllm beside the policy": Case(
        {
            "vllm_model_impl": "transformers",
            "vllm_enable_sleep_mode": True,
            "vllm_gpu_memory_utilization": 0.2,
            "vllm_max_model_length": 64,
            "vllm_tensor_parallel_size": 1,
            "vllm_importance_sampling_cap": 1.1,
        },
        {"use_vllm": True},
        setup=("vllm",),
        note=_STAND_IN,
    ),
    "vllm uncorrected": Case(
        {"vllm_importance_sampling_correction": False},
        {"use_vllm": True, "num_iterations": 2},
        setup=("vllm",),
        note=_STAND_IN,
    ),
    "flags of scripts": Case(_OF_SCRIPTS, trains=False, unseen=tuple(_OF_SCRIPTS)),
}

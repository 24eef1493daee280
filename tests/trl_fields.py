"""What becomes of every field of TRL's GRPOConfig and every argument of its GRPOTrainer.

`docs/make_field_table.py` writes the table of docs/drop-in.md from this; tests/test_trl_fields.py
fails when TRL has a field that is missing here, or a test named here does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The release of TRL whose fields these are; older ones have fewer.
TRL_VERSION = "1.16"

HONOURED, REFUSED = "honoured", "refused"


@dataclass(frozen=True)
class Support:
    """What becomes of one field.

    Attributes:
        how: `honoured` or `refused`.
        test: `file.py::test`, with `[case]` where it has several.
        note: what there is to know.
    """

    how: str
    test: str
    note: str = ""


@dataclass(frozen=True)
class Case:
    """Fields that are tried together: uniform choice must do what plain GRPOTrainer does with them,
    and DoPR must train.

    Attributes:
        fields: their values, none of them TRL's default.
        with_: further settings of both runs.
        setup: names of `tests/test_trl_fields.py`'s additions to the run.
        trains: the values change the parameters after training.
        slow: takes seconds.
        note: goes into the table.
    """

    fields: Mapping[str, Any]
    with_: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    trains: bool = True
    note: str = ""
    slow: bool = False


_EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}

_STAND_IN = "tried with an engine in vLLM's place; real vLLM: `make test-vllm`"

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
        {"optim_args": "alpha=2", "optim_target_modules": ["mlp"]}, {"optim": "adafactor"}
    ),
    "schedule": Case(
        {
            "lr_scheduler_type": "cosine_with_restarts",
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "warmup_steps": 1,
        }
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
        trains=False,
    ),
    "memory in the log": Case({"skip_memory_metrics": False}, trains=False, slow=True),
    "logging by epoch": Case(
        {"logging_strategy": "epoch"}, {"max_steps": -1, "num_train_epochs": 0.25}
    ),
    "evaluation": Case(
        {
            **_EACH_STEP,
            "eval_delay": 1,
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
        setup=("evaluation",),
    ),
    "saving": Case(
        {
            "save_strategy": "best",
            "save_total_limit": 1,
            "save_on_each_node": True,
            "metric_for_best_model": "eval_reward",
            "greater_is_better": True,
            "load_best_model_at_end": True,
        },
        _EACH_STEP,
        setup=("evaluation",),
        trains=False,
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
    ),
    "order of data": Case(
        {
            "shuffle_dataset": False,
            "seed": 5,
            "data_seed": 6,
            "train_sampling_strategy": "sequential",
            "length_column_name": "answer",
            "ignore_data_skip": True,
        }
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
        note="without effect in GRPO: `label_smoothing_factor`",
    ),
    "half precision": Case(
        {"fp16": True, "tf32": False}, trains=False, note="tried on a CPU alone"
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
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        },
        trains=False,
    ),
    "compilation": Case(
        {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"},
        trains=False,
        slow=True,
    ),
    "sampling": Case(
        {
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 10,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "max_completion_length": 6,
        }
    ),
    "generation": Case({"generation_kwargs": {"min_new_tokens": 4, "no_repeat_ngram_size": 2}}),
    "cache": Case({"cache_implementation": "static"}, trains=False),
    "continuous batching": Case(
        {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": {"block_size": 32, "num_blocks": 64},
        },
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
    "clipping": Case(
        {
            "epsilon": 0.01,
            "epsilon_high": 0.02,
            "delta": 1.05,
            "importance_sampling_level": "sequence",
            "mask_truncated_completions": True,
            "top_entropy_quantile": 0.5,
            "off_policy_mask_threshold": 0.001,
        },
        {"num_iterations": 3, "max_steps": 4, "loss_type": "grpo"},
        setup=("short answers",),
    ),
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
            "entropy_coef_min": 0.1,
            "entropy_coef_max": 0.9,
            "entropy_coef_delta": 0.2,
            "entropy_target": 10.0,
        },
        {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2},
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
    "model": Case({"disable_dropout": True, "cast_lm_head_to_fp32": True}, setup=("dropout",)),
    "several rewards": Case(
        {
            "reward_weights": [1.0, 0.25],
            "multi_objective_aggregation": "normalize_then_sum",
            "scale_rewards": "none",
        },
        setup=("two rewards",),
    ),
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
            "vllm_importance_sampling_clip_max": 1.1,
            "vllm_importance_sampling_clip_min": 0.9,
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
    "flags of scripts": Case(
        {
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
        },
        trains=False,
    ),
}


_RUN = "test_trl_fields.py::test_uniform_does_what_plain_grpo_does"
_REFUSAL = "test_trl_arguments.py::test_what_trl_refuses_is_refused_in_its_words"
_ARGUMENT_REFUSAL = (
    "test_trl_arguments.py::test_arguments_that_trl_refuses_are_refused_in_its_words"
)
_PROCESSES = "test_processes.py::test_settings_of_data_parallel_training_are_kept"
_PRECISION = "test_precision.py::test_uniform_with_trl_defaults_equals_plain_grpo"
_TRACKERS = "test_trl_arguments.py::test_trackers_get_the_runs_name_project_and_space"
_HUB = "test_trl_arguments.py::test_a_checkpoint_is_uploaded_with_our_part_of_it"
_HALF_EVALUATION = "test_trl_arguments.py::test_full_evaluation_in_half_precision_is_trls"
_TOOLS = "test_trl_arguments.py::test_tools_and_environments_are_used_as_in_trl"
_SHARDED = "test_sharded.py::test_spread_parameters_do_what_whole_ones_do"


def _by_case() -> dict[str, Support]:
    """The fields that a case tries; the first case counts."""
    table: dict[str, Support] = {}
    for name, case in CASES.items():
        for field_name in case.fields:
            table.setdefault(field_name, Support(HONOURED, f"{_RUN}[{name}]", case.note))
    return table


FIELDS: dict[str, Support] = _by_case() | {
    "output_dir": Support(HONOURED, "test_trl_arguments.py::test_files_go_into_the_output_folder"),
    "use_cpu": Support(HONOURED, _PRECISION),
    "bf16": Support(HONOURED, _PRECISION),
    "bf16_full_eval": Support(HONOURED, _HALF_EVALUATION),
    "fp16_full_eval": Support(HONOURED, _HALF_EVALUATION),
    "trust_remote_code": Support(
        HONOURED,
        "test_trl_arguments.py::test_code_that_comes_with_a_model_runs_only_where_trusted",
    ),
    "report_to": Support(HONOURED, _TRACKERS),
    "project": Support(HONOURED, _TRACKERS),
    "trackio_space_id": Support(HONOURED, _TRACKERS),
    "trackio_bucket_id": Support(HONOURED, _TRACKERS),
    "trackio_static_space_id": Support(HONOURED, _TRACKERS),
    "push_to_hub": Support(HONOURED, _HUB),
    "hub_model_id": Support(HONOURED, _HUB),
    "hub_private_repo": Support(HONOURED, _HUB),
    "hub_strategy": Support(HONOURED, _HUB),
    "hub_always_push": Support(HONOURED, _HUB),
    "hub_token": Support(HONOURED, _HUB),
    "hub_revision": Support(HONOURED, _HUB),
    "log_completions_hub_repo": Support(
        HONOURED, "test_trl_arguments.py::test_tables_of_completions_go_to_the_hub"
    ),
    "resume_from_checkpoint": Support(
        HONOURED,
        "test_resume_drop_in.py::test_true_passes_over_a_half_written_checkpoint",
        "`train(resume_from_checkpoint=True)` takes the newest checkpoint that is whole; the field "
        "itself is for scripts, as in TRL",
    ),
    "ddp_find_unused_parameters": Support(HONOURED, _PROCESSES),
    "ddp_bucket_cap_mb": Support(HONOURED, _PROCESSES),
    "ddp_broadcast_buffers": Support(HONOURED, _PROCESSES),
    "ddp_static_graph": Support(HONOURED, _PROCESSES),
    "ddp_backend": Support(HONOURED, _PROCESSES),
    "ddp_timeout": Support(HONOURED, _PROCESSES),
    "fsdp": Support(HONOURED, _SHARDED, "FSDP2; see scaling.md"),
    "fsdp_config": Support(HONOURED, _SHARDED, "FSDP2; see scaling.md"),
    "deepspeed": Support(HONOURED, _SHARDED, "ZeRO-2 and ZeRO-3; see scaling.md"),
    "ds3_gather_for_generation": Support(HONOURED, _SHARDED),
    "max_tool_calling_iterations": Support(HONOURED, _TOOLS),
    "auto_find_batch_size": Support(
        REFUSED, f"{_REFUSAL}[auto_find_batch_size]", "by TRL: groups must stay whole"
    ),
    "parallelism_config": Support(
        REFUSED,
        f"{_REFUSAL}[parallelism_config]",
        "by TRL where a sequence is spread over devices; data-parallel sizes are TRL's",
    ),
    "use_liger_kernel": Support(
        REFUSED, f"{_REFUSAL}[liger]", "by TRL where liger-kernel is not installed"
    ),
    "liger_kernel_config": Support(REFUSED, f"{_REFUSAL}[liger]", "as `use_liger_kernel`"),
}

ARGUMENTS: dict[str, Support] = {
    "model": Support(
        HONOURED,
        "test_trl_arguments.py::test_a_model_by_name_brings_its_tokenizer_and_the_run_a_folder",
    ),
    "reward_funcs": Support(HONOURED, f"{_RUN}[several rewards]"),
    "args": Support(HONOURED, "test_trainer.py::test_plain_grpo_config_gives_dopr_with_defaults"),
    "train_dataset": Support(
        HONOURED,
        "test_trl_arguments.py::test_arguments_stand_in_trls_order",
    ),
    "eval_dataset": Support(
        HONOURED, "test_trl_arguments.py::test_evaluation_sets_by_name_are_evaluated_each"
    ),
    "processing_class": Support(
        HONOURED,
        "test_trl_arguments.py::test_a_model_by_name_brings_its_tokenizer_and_the_run_a_folder",
    ),
    "reward_processing_classes": Support(
        HONOURED, "test_trl_arguments.py::test_a_reward_model_reads_with_its_own_tokenizer"
    ),
    "callbacks": Support(HONOURED, "test_trl_arguments.py::test_callbacks_are_called_as_in_trl"),
    "optimizers": Support(HONOURED, "test_trl_arguments.py::test_own_optimizers_are_used"),
    "quantization_config": Support(
        HONOURED,
        "test_trl_arguments.py::"
        "test_quantization_of_a_model_that_is_there_already_is_ignored_as_in_trl",
        "handed on to TRL; a quantized model itself needs bitsandbytes and was not tried",
    ),
    "peft_config": Support(
        HONOURED, "test_trl_arguments.py::test_adapters_are_made_of_a_peft_config"
    ),
    "tools": Support(HONOURED, _TOOLS),
    "rollout_func": Support(
        HONOURED, "test_trl_arguments.py::test_a_rollout_function_of_ones_own_generates"
    ),
    "environment_factory": Support(
        HONOURED, "test_trl_arguments.py::test_an_environment_may_own_the_prompts"
    ),
}

"""What becomes of every field of TRL's GRPOConfig and every argument of its GRPOTrainer.

`docs/make_field_table.py` writes the table of docs/drop-in.md from this; tests/test_trl_fields.py
fails when TRL has a field that is missing here, or a test named here does not exist.
"""

from dataclasses import dataclass

from trl_cases import CASES

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


_UNSEEN = "handed on to TRL; a run in one process on a CPU shows nothing of it"

_RUN = "test_trl_fields.py::test_uniform_does_what_plain_grpo_does"
_REFUSAL = "test_trl_refusals.py::test_what_trl_refuses_is_refused_in_its_words"
_ARGUMENT_REFUSAL = "test_trl_refusals.py::test_arguments_that_trl_refuses_are_refused_in_its_words"
_PROCESSES = "test_processes.py::test_settings_of_data_parallel_training_are_kept"
_PRECISION = "test_precision.py::test_uniform_with_trl_defaults_equals_plain_grpo"
_TRACKERS = "test_trl_settings.py::test_trackers_get_the_runs_name_project_and_space"
_HUB = "test_trl_settings.py::test_a_checkpoint_is_uploaded_with_our_part_of_it"
_HALF_EVALUATION = "test_trl_settings.py::test_full_evaluation_in_half_precision_is_trls"
_TOOLS = "test_trl_arguments.py::test_tools_and_environments_are_used_as_in_trl"
_SHARDED = "test_sharded.py::test_spread_parameters_do_what_whole_ones_do"


def _by_case() -> dict[str, Support]:
    """The fields that a case tries; the first case counts."""
    table: dict[str, Support] = {}
    for name, case in CASES.items():
        for field_name in case.fields:
            notes = [case.note, _UNSEEN if field_name in case.unseen else ""]
            note = "; ".join(filter(None, notes))
            table.setdefault(field_name, Support(HONOURED, f"{_RUN}[{name}]", note))
    return table


FIELDS: dict[str, Support] = _by_case() | {
    "output_dir": Support(HONOURED, "test_trl_settings.py::test_files_go_into_the_output_folder"),
    "use_cpu": Support(HONOURED, _PRECISION),
    "bf16": Support(HONOURED, _PRECISION),
    "bf16_full_eval": Support(HONOURED, _HALF_EVALUATION),
    "fp16_full_eval": Support(HONOURED, _HALF_EVALUATION),
    "trust_remote_code": Support(
        HONOURED,
        "test_trl_settings.py::test_code_that_comes_with_a_model_runs_only_where_trusted",
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
        HONOURED, "test_trl_settings.py::test_tables_of_completions_go_to_the_hub"
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

"""Settings from files and command lines: what is accepted, and what is said of the rest."""

from dataclasses import fields
from pathlib import Path

import pytest

from dopr import DoPRConfig
from dopr.core.configuration import (
    apply_overrides,
    build,
    load_yaml,
    merge,
    parse_named_options,
    parse_overrides,
    read_yaml,
    to_mapping,
    to_yaml,
)
from dopr.core.errors import UserError
from dopr.engines.trl.objectives import OBJECTIVES
from dopr.engines.trl.selection import MethodSettings, Selection
from dopr.policy.models import lora_config
from dopr.runs.settings import EvalSettings, TrainSettings
from dopr.runs.train import trainer_arguments

GOOD = {"dataset": "gym:chain_sum", "steps": 3}


def refused(mapping: dict) -> str:
    with pytest.raises(UserError) as caught:
        build(TrainSettings, GOOD | mapping).check()
    return str(caught.value)


def test_values_are_read_as_annotated() -> None:
    settings = build(
        TrainSettings,
        {"learning_rate": "1e-4", "steps": 3, "dataset": ["a", "b"], "eval": {"k": 2}, "model": 7},
    )
    assert settings.learning_rate == 1e-4
    assert settings.dataset == ["a", "b"]
    assert settings.eval.k == 2
    assert settings.model == "7"


def test_settings_survive_yaml() -> None:
    settings = build(TrainSettings, GOOD | {"strategy_args": {"candidates": 8}, "lora": {"r": 4}})
    settings.output_dir, settings.system_prompt = "1e5", "2026-11-26"
    again = build(TrainSettings, read_yaml(to_yaml(to_mapping(settings))))
    assert again == settings


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'?"),
        ({"eval": {"every_rollout": 3}}, "did you mean 'eval.every_rollouts'?"),
        ({"steps": 1.5}, "`steps` must be a whole number"),
        ({"steps": True}, "`steps` must be a whole number"),
        ({"chat": "yes"}, "`chat` must be true or false"),
        ({"dataset": {"a": 1}}, "`dataset` must be text or a list"),
        ({"strategy_args": [1]}, "`strategy_args` must be a mapping"),
        ({"learning_rate": "fast"}, "`learning_rate` must be a number"),
        ({"strategy": "dorp"}, "did you mean 'dopr'?"),
        ({"strategy_args": {"candidates": 0}}, "candidates is 0"),
        ({"strategy_args": {"exploratoin": 0}}, "did you mean 'exploration'?"),
        ({"steps": None}, "give `steps` or `max_rollouts`"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"dataset": None}, "no dataset is given"),
        ({"num_generations": 1}, "num_generations is 1; it must be at least 2"),
        ({"eval": {"k": 0}}, "eval.k is 0"),
        ({"eval": {"seed": -1}}, "eval.seed is -1"),
        ({"eval": {"top_p": 2}}, "eval.top_p is 2.0; it must be at most 1"),
        ({"seed": 2**32}, "seed is 4294967296; it must lie between 0 and 4294967295"),
        ({"threads": 100_000}, "threads is 100000; it must be at most 1024"),
        ({"top_p": 0}, "top_p is 0.0; it must be above 0"),
        ({"beta": -1}, "beta is -1.0; it must be at least 0"),
        ({"reward_timeout_s": 0}, "reward_timeout_s is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number, not nan"),
        ({"max_seconds": float("inf")}, "`max_seconds` must be a number, not inf"),
        ({"reward_weights": [1, float("nan")]}, "`reward_weights[1]` must be a number, not nan"),
        ({"trl": {"epsilon": "wide"}}, "`trl.epsilon` must be a number, not 'wide'"),
        ({"trl": {"epsilon": float("nan")}}, "`trl.epsilon` must be a number, not nan"),
        ({"trl": {"mask_truncated_completions": 1}}, "must be true or false"),
        ({"overlong_prompts": "dorp"}, "did you mean 'drop'?"),
        ({"trl": {"max_grad_nrm": 1}}, "did you mean 'trl.max_grad_norm'?"),
        ({"trl": {"max_steps": 1}}, "use `steps`"),
        ({"trl": {"learning_rate": 1}}, "use `learning_rate`"),
    ],
)
def test_mistakes_are_named_with_the_mend(mapping: dict, said: str) -> None:
    message = refused(mapping)
    assert said in message
    assert "\n" not in message


def test_overrides_are_dotted_and_read_as_yaml() -> None:
    words = ["--strategy_args.candidates", "4", "--eval.k=2", "--max-rollouts", "10", "--x", "a: b"]
    overrides = parse_overrides(words)
    assert overrides == {
        "strategy_args.candidates": 4,
        "eval.k": 2,
        "max_rollouts": 10,
        "x": "a: b",
    }
    base = {"eval": {"k": 1, "top_p": 0.5}}
    assert apply_overrides(base, overrides)["eval"] == {"k": 2, "top_p": 0.5}
    assert base == {"eval": {"k": 1, "top_p": 0.5}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-3E5", -3e5),
        (".5e+2", 50.0),
        ("{r: 4, lora_dropout: 5e-2}", {"r": 4, "lora_dropout": 5e-2}),
        ("e5", "e5"),
        ("2026-11-26", "2026-11-26"),
        ("Use # for sums", "Use # for sums"),
        ("first line\n second line", "first line\n second line"),
        ("'a # b'", "a # b"),
        ("gym:chain_sum?size=4", "gym:chain_sum?size=4"),
        ("yes: no", "yes: no"),
        ("[" * 2000, "[" * 2000),
    ],
)
def test_numbers_are_numbers_and_text_stays_as_it_is_written(text: str, value: object) -> None:
    assert parse_overrides(["--name", text]) == {"name": value}
    assert parse_named_options([f"dopr.x={text}"]) == {"dopr": {"x": value}}


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_numbers_as_1e_4(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbftrl: {epsilon: 1e-4}\noutput_dir: 2026-11-26\n")
    assert load_yaml(file) == {"trl": {"epsilon": 1e-4}, "output_dir": "2026-11-26"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r": "many"}, "`lora.r` must be a whole number, not 'many'"),
        ({"lora_dropout": "half"}, "`lora.lora_dropout` must be a number"),
        ({"rr": 4}, "did you mean 'lora.r'?"),
    ],
)
def test_lora_settings_are_refused_by_name(options: dict, said: str) -> None:
    pytest.importorskip("peft")
    with pytest.raises(UserError) as caught:
        lora_config(options)
    assert said in str(caught.value)


@pytest.mark.parametrize("words", [["--steps"], ["steps", "3"], ["--"]])
def test_overrides_that_cannot_be_read(words: list[str]) -> None:
    with pytest.raises(UserError):
        parse_overrides(words)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="'model' is not a mapping"):
        apply_overrides({"model": "x"}, {"model.name": 1})


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\t"])
def test_files_that_are_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError):
        load_yaml(tmp_path / "c.yaml")


def test_merge_goes_into_mappings() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
    }


# -- one source --------------------------------------------------------------------------------


def test_every_setting_is_printed() -> None:
    printed = read_yaml(to_yaml(to_mapping(build(TrainSettings, GOOD))))
    assert list(printed) == [field.name for field in fields(TrainSettings)]
    assert list(printed["eval"]) == [field.name for field in fields(EvalSettings)]


def test_what_is_said_of_the_method_reaches_the_trainer_as_it_is(tmp_path: Path) -> None:
    changed = {
        "strategy": "mopps",
        "strategy_args": {"prompts_per_step": 3},
        "answer_column": "solution",
        "ibro_coefficient": 0.25,
        "ibro_schedule": "linear",
        "advantage_estimator": "dbb",
        "ledger_discount": 0.5,
        "empty_update": "skip",
        "feedback_delay": 3,
        "withhold_in_flight": False,
        "fast_decoding": False,
        "share_prefixes": False,
    }
    usual = MethodSettings()
    assert {f.name for f in fields(MethodSettings)} == {*changed, "objective"}
    assert all(getattr(usual, name) != value for name, value in changed.items())
    arguments = trainer_arguments(build(TrainSettings, GOOD | changed | {"bf16": False}), tmp_path)
    for selection in (arguments, Selection.of(arguments)):
        assert {name: getattr(selection, name) for name in changed} == changed


def test_defaults_of_the_method_are_the_same_for_command_and_trainer() -> None:
    ours, theirs = ({f.name: f for f in fields(cls)} for cls in (TrainSettings, DoPRConfig))
    for field in fields(MethodSettings):
        assert ours[field.name].default == theirs[field.name].default == field.default
    assert Selection.of(object()) == Selection()  # a plain GRPOConfig


def test_what_goes_to_trl_as_it_is_has_its_name_there() -> None:
    settings = build(TrainSettings, GOOD)
    assert settings.for_trainer.keys() <= {field.name for field in fields(DoPRConfig)}
    # Names that TRL has too, for something else.
    assert not {"data_seed", "trust_remote_code", "objective"} & settings.for_trainer.keys()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("empty_update", "skp", "did you mean 'skip'?"),
        ("advantage_estimator", "dbbb", "did you mean 'dbb'?"),
        ("ibro_schedule", "linaer", "did you mean 'linear'?"),
        ("objective", "minrl", "did you mean 'minirl'?"),
        ("ledger_discount", 0.0, "ledger_discount is 0.0"),
        ("feedback_delay", -1, "feedback_delay"),
        ("feedback_delay", 10**20, "it must be at most 4096"),
        ("ibro_coefficient", -1.0, "must be at least 0"),
    ],
)
def test_the_method_is_checked_alike_by_command_and_trainer(
    tmp_path: Path, name: str, value: object, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        DoPRConfig(str(tmp_path), bf16=False, **{name: value})
    assert said in str(caught.value) and said in refused({name: value})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rollout_budget": "100"}, "rollout_budget is '100'; it must be a number"),
        ({"rollout_budget": float("nan")}, "rollout_budget is nan"),
        ({"ledger_discount": "0.5"}, "ledger_discount is '0.5'"),
        ({"ibro_coefficient": float("nan")}, "ibro_coefficient is nan"),
    ],
)
def test_a_script_gets_a_sentence_for_values_of_the_wrong_kind(
    tmp_path: Path, given: dict, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        DoPRConfig(str(tmp_path), bf16=False, **given)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_preset_is_no_departure_from_itself_and_survives_yaml(name: str) -> None:
    settings = build(TrainSettings, GOOD | {"objective": name})
    settings.check()
    assert settings.objective_departures == []
    assert build(TrainSettings, read_yaml(to_yaml(to_mapping(settings)))) == settings


def test_stop_strings_are_refused_where_trl_cannot_heed_them() -> None:
    stop = {"trl": {"generation_kwargs": {"stop_strings": ["\n"]}}}
    assert "eos_token_id" in refused(stop)
    build(TrainSettings, GOOD | stop | {"use_vllm": True}).check()
    build(TrainSettings, GOOD | {"trl": {"generation_kwargs": {"eos_token_id": [1, 2]}}}).check()


def test_a_gpu_mixes_precisions_only_beside_float32_weights() -> None:
    def mixes(**changes: object) -> bool:
        return build(TrainSettings, GOOD | changes).mixes_on_gpu

    assert mixes()
    assert not mixes(dtype="bfloat16") and not mixes(dtype="float16")
    assert not mixes(trl={"fp16": True})

"""Settings from files and command lines: what is accepted, and what is said of the rest."""

from pathlib import Path

import pytest
import yaml

from dopr.core.configuration import (
    apply_overrides,
    build,
    load_yaml,
    merge,
    parse_overrides,
    to_mapping,
    to_yaml,
)
from dopr.core.errors import UserError
from dopr.runs.settings import TrainSettings

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
    again = build(TrainSettings, yaml.safe_load(to_yaml(to_mapping(settings))))
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
        ({"eval": {"k": 0}}, "k is 0"),
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

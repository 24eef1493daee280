"""Arguments of TRL's GRPOTrainer are taken as it takes them."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig

from dopr import DoPRConfig, DoPRTrainer
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings
from trl_pair import BOTH, both_trained, made, parameters, usual
from trl_run import ends_soon


def test_arguments_stand_in_trls_order(tmp_path: Path) -> None:
    args = DoPRConfig(**settings(tmp_path, max_steps=1))
    rows = make_dataset()
    trainer = DoPRTrainer(
        make_model(), digits_reward, args, rows, make_dataset(2), make_tokenizer()
    )
    assert trainer.args is args and trainer.train_dataset is rows
    assert len(trainer.eval_dataset) == 2 and trainer.reward_funcs == [digits_reward]


def test_a_model_by_name_brings_its_tokenizer_and_the_run_a_folder(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    on_cpu = functools.partial(GRPOConfig, use_cpu=True)
    monkeypatch.setattr("trl.trainer.grpo_trainer.GRPOConfig", on_cpu)
    trainer = DoPRTrainer(str(tiny_model_dir), digits_reward, None, make_dataset())
    assert Path(trainer.args.output_dir).name == f"{tiny_model_dir.name}-GRPO"
    assert trainer.processing_class.vocab_size == make_tokenizer().vocab_size


def test_callbacks_are_called_as_in_trl(tmp_path: Path) -> None:
    class Notes(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_event(self, event: str, control: Any) -> Any:
            self.seen.append(event)
            return control

    for event in ("train_begin", "step_begin", "substep_end", "step_end", "log", "train_end"):

        def noted(
            self: Any, args: Any, state: Any, control: Any, _event: str = event, **_: Any
        ) -> Any:
            return self.on_event(f"{_event} {state.global_step}", control)

        setattr(Notes, f"on_{event}", noted)
    seen = []
    for cls, config in BOTH:
        notes = Notes()
        changes = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
        made(cls, config, tmp_path / config.__name__, changes, callbacks=[notes]).train()
        seen.append(notes.seen)
    assert seen[0] == seen[1] and "substep_end 0" in seen[0]


def test_own_optimizers_are_used(tmp_path: Path) -> None:
    def arguments() -> dict[str, Any]:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        return {"model": model, "optimizers": (optimizer, schedule)}

    plain, ours = both_trained(tmp_path, arguments)
    assert torch.equal(plain, ours) and not torch.equal(plain, usual(tmp_path))


def test_a_reward_model_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    def arguments() -> dict[str, Any]:
        torch.manual_seed(1)
        config = make_model().config
        config.num_labels = 1
        judge = transformers.LlamaForSequenceClassification(config)
        judge.name_or_path = config._name_or_path = "judge"
        tokenizer = make_tokenizer()
        tokenizer.pad_token = None
        return {"reward_funcs": judge, "reward_processing_classes": tokenizer}

    plain, ours = both_trained(tmp_path, arguments)
    assert torch.equal(plain, ours) and not torch.equal(plain, usual(tmp_path))


def test_adapters_are_made_of_a_peft_config(tmp_path: Path) -> None:
    peft = lambda: {"peft_config": LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1)}  # noqa: E731
    plain, ours = both_trained(tmp_path, peft, beta=0.1)
    assert torch.equal(plain, ours)


def test_evaluation_sets_by_name_are_evaluated_each(tmp_path: Path) -> None:
    logged = []
    for cls, config in BOTH:
        sets = {"few": make_dataset(2), "more": make_dataset(4)}
        changes = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
        trainer = made(cls, config, tmp_path / config.__name__, changes, eval_dataset=sets)
        trainer.train()
        rows = trainer.state.log_history
        logged.append(
            [{k: v for k, v in r.items() if k.endswith(("reward", "loss"))} for r in rows]
        )
    assert logged[0] == logged[1]
    assert {"eval_few_loss", "eval_more_loss", "eval_reward"} <= set().union(*logged[1])


def test_quantization_of_a_model_that_is_there_already_is_ignored_as_in_trl(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    quantized = transformers.BitsAndBytesConfig(load_in_4bit=True)
    plain, ours = both_trained(tmp_path, lambda: {"quantization_config": quantized})
    assert torch.equal(plain, ours)
    said = []
    for cls, config in BOTH:  # a name reaches the loading, which asks for bitsandbytes or a GPU
        twice = {"model_init_kwargs": {"quantization_config": quantized}}
        model = {"model": str(tiny_model_dir), "quantization_config": quantized}
        with pytest.raises(ValueError, match="both as a trainer argument") as error:
            made(cls, config, tmp_path / config.__name__, twice, **model)
        said.append(str(error.value))
    assert said[0] == said[1]


def answers(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """A rollout_func: random digits, and a column of its own for the rewards."""
    drawn = torch.randint(3, 13, (len(prompts), 5)).tolist()
    return {
        "prompt_ids": trainer.processing_class(prompts)["input_ids"],
        "completion_ids": [[*row, 1] for row in drawn],
        "logprobs": None,
        "first": [row[0] for row in drawn],
    }


def first_reward(completions: list[Any], first: list[int], **columns: Any) -> list[float]:
    return [float(number % 2) for number in first]


def test_a_rollout_function_of_ones_own_generates(tmp_path: Path) -> None:
    own = {"rollout_func": answers, "reward_funcs": first_reward}
    plain, ours = both_trained(tmp_path, lambda: own)
    assert torch.equal(plain, ours)
    trainer = made(DoPRTrainer, DoPRConfig, tmp_path / "dopr", {"strategy": "dopr"}, **own)
    trainer.train()
    assert trainer.driver.spent.rollouts == 2 * trainer.args.per_device_train_batch_size


TOOL_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] or '' }}{% for c in m['tool_calls'] or [] %}"
    "{{ c['function']['name'] }}"
    "{% for k, v in c['function']['arguments'].items() %} {{ k }} {{ v }}{% endfor %}{% endfor %}"
    ".{% endfor %}"
)


def calling_tokenizer() -> Any:
    """Takes a completion with two digits or more for a call of `double`."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.response_template = {}  # there, so that TRL does not look for a known one

    def parse(ids: Any, prefix: Any = None, tools: Any = None, **_: Any) -> dict[str, Any]:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        said: dict[str, Any] = {"role": "assistant", "content": text}
        digits = [c for c in text if c.isdigit()]
        if len(digits) > 1:
            call = {"name": "double", "arguments": {"number": int(digits[0])}}
            said["tool_calls"] = [{"type": "function", "function": call}]
        return said

    tokenizer.parse_response = parse
    return tokenizer


class Doubling:
    """An environment with one tool, which knows how often it was used."""

    def reset(self, **row: Any) -> str:
        self.used = 0
        return "go"

    def double(self, number: int) -> str:
        """Double a number.

        Args:
            number: what to double.

        Returns:
            Twice the number.
        """
        self.used += 1
        return str(2 * number)

    def get_reward(self) -> float:
        return float(self.used)


def double(number: int) -> str:
    """Double a number.

    Args:
        number: what to double.

    Returns:
        Twice the number.
    """
    return str(2 * number)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["tools", "environment_factory"])
def test_tools_and_environments_are_used_as_in_trl(tmp_path: Path, kind: str) -> None:
    own: dict[str, Any] = {"train_dataset": make_dataset(chat=True)}
    own |= {"tools": [double]} if kind == "tools" else {"environment_factory": Doubling}
    own |= {} if kind == "tools" else {"reward_funcs": None}
    changes = {"max_tool_calling_iterations": 1, "max_completion_length": 24}
    logged, trained = [], []
    for cls, config in BOTH:
        folder = tmp_path / config.__name__
        own |= {"processing_class": calling_tokenizer(), "model": ends_soon()}
        trainer = made(cls, config, folder, changes, **own)
        trainer.train()
        trained.append(parameters(trainer))
        logged.append([r.get("tools/call_frequency") for r in trainer.state.log_history])
    assert torch.equal(*trained) and logged[0] == logged[1] and logged[0][0] > 0
    own["processing_class"] = calling_tokenizer()
    trainer = made(
        DoPRTrainer, DoPRConfig, tmp_path / "dopr", changes | {"strategy": "dopr"}, **own
    )
    trainer.train()
    assert trainer.driver.spent.rollouts == 16


OWNED = {
    "no dataset": (None, Doubling),
    "rows that only name an environment": (
        Dataset.from_list([{"environment": "doubling"}] * 24),
        {"doubling": Doubling},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", OWNED)
def test_an_environment_may_own_the_prompts(tmp_path: Path, way: str) -> None:
    """`uniform` then is plain GRPO, and DoPR does without what it would read from the prompts."""
    rows, factory = OWNED[way]
    trained = []
    for kind, (cls, config) in enumerate([*BOTH, BOTH[1]]):
        changes = {"max_completion_length": 24} | ({"strategy": "dopr"} if kind == 2 else {})
        trainer = made(
            cls,
            config,
            tmp_path / str(kind),
            changes,
            reward_funcs=None,
            train_dataset=rows,
            environment_factory=factory,
            processing_class=calling_tokenizer(),
        )
        trainer.train()
        trained.append(parameters(trainer))
    assert torch.equal(trained[0], trained[1])
    assert trainer.driver.spent.rollouts == 16

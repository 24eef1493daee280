"""Arguments of TRL's GRPOTrainer, and fields of its config that need more than a run beside it."""

import functools
import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import transformers
from accelerate import ParallelismConfig
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer, UserError
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

BOTH = [(GRPOTrainer, GRPOConfig), (DoPRTrainer, DoPRConfig)]


def made(cls: Any, config: Any, folder: Path, changes: Any = None, **arguments: Any) -> Any:
    """A trainer of either kind; uniform choice where it is ours."""
    ours = {"strategy": "uniform"} if config is DoPRConfig else {}
    given: dict[str, Any] = {
        "model": make_model(),
        "reward_funcs": digits_reward,
        "train_dataset": make_dataset(),
        "processing_class": make_tokenizer(),
    }
    args = config(**(settings(folder, max_steps=2) | ours | (changes or {})))
    return cls(args=args, **(given | arguments))


def parameters(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def both_trained(folder: Path, arguments: Callable[[], dict[str, Any]], **changes: Any) -> Any:
    """Plain GRPOTrainer's and DoPRTrainer's parameters after the same training."""
    trained = []
    for cls, config in BOTH:
        trainer = made(cls, config, folder / config.__name__, changes, **arguments())
        trainer.train()
        trained.append(parameters(trainer))
    return trained


def usual(folder: Path) -> torch.Tensor:
    trainer = made(GRPOTrainer, GRPOConfig, folder / "usual")
    trainer.train()
    return parameters(trainer)


# -- what TRL refuses is refused in its words ------------------------------------------------

REFUSALS: dict[str, Callable[[], dict[str, Any]]] = {
    "auto_find_batch_size": lambda: {"auto_find_batch_size": True},
    "liger": lambda: {"use_liger_kernel": True, "liger_kernel_config": {"rope": True}},
    "parallelism_config": lambda: {"parallelism_config": ParallelismConfig(cp_size=2)},
    "fsdp": lambda: {"fsdp": "full_shard"},
    "dispatch_batches": lambda: {"accelerator_config": {"dispatch_batches": True}},
    "stop strings": lambda: {"generation_kwargs": {"stop_strings": ["1"]}},
    "hub without tables": lambda: {"log_completions_hub_repo": "someone/tables"},
    "importance sampling": lambda: {"importance_sampling_level": "paragraph"},
    "loss": lambda: {"loss_type": "none"},
    "batch": lambda: {"generation_batch_size": 12},
    "groups": lambda: {"num_generations": 1},
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_trl_refuses_is_refused_in_its_words(tmp_path: Path, name: str) -> None:
    said = []
    for cls, config in BOTH:
        with pytest.raises(Exception, match=r".") as error:
            made(cls, config, tmp_path / config.__name__, REFUSALS[name]()).train()
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_dataset": None},
        {"reward_funcs": None},
        {"processing_class": object()},
        {"peft_config": object()},
        {"reward_processing_classes": [None, None]},
        {"tools": [len]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_that_trl_refuses_are_refused_in_its_words(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    said = []
    for cls, config in BOTH:
        with pytest.raises(Exception, match=r".") as error:
            made(cls, config, tmp_path / config.__name__, **arguments)
        said.append((type(error.value), str(error.value)))
    assert said[0] == said[1]


# -- arguments -------------------------------------------------------------------------------


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


def test_full_evaluation_in_half_precision_is_trls(tmp_path: Path) -> None:
    for name in ("bf16_full_eval", "fp16_full_eval"):
        found = []
        for cls, config in BOTH:
            folder = tmp_path / name / config.__name__
            trainer = made(cls, config, folder, {name: True}, eval_dataset=make_dataset(4))
            result = trainer.evaluate()
            found.append({k: v for k, v in result.items() if "reward" in k or "entropy" in k})
            assert next(trainer.model.parameters()).dtype != torch.float32
        assert found[0] == found[1] and found[0]


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
    changes = {"max_tool_calling_iterations": 2, "max_completion_length": 24}
    logged, trained = [], []
    for cls, config in BOTH:
        folder = tmp_path / config.__name__
        own["processing_class"] = calling_tokenizer()
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


# -- fields ----------------------------------------------------------------------------------


def test_code_that_comes_with_a_model_runs_only_where_trusted(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spied(name: str, **settings: Any) -> Any:
        asked.append(settings.get("trust_remote_code"))
        return make_model()

    monkeypatch.setattr("trl.trainer.grpo_trainer.create_model_from_path", spied)
    for trusted in (False, True):
        changes = {"trust_remote_code": trusted, "strategy": "dopr"}
        made(DoPRTrainer, DoPRConfig, tmp_path, changes, model=str(tiny_model_dir))
    assert asked == [False, True]


def test_trackers_get_the_runs_name_project_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    tracker = ModuleType("trackio")
    tracker.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
    tracker.init = lambda **given: begun.append(given)  # type: ignore[attr-defined]
    tracker.config = MagicMock()  # type: ignore[attr-defined]
    tracker.__version__ = "99"  # type: ignore[attr-defined]
    tracker.context_vars = MagicMock()  # type: ignore[attr-defined]
    frozen: list[Any] = []
    tracker.freeze = lambda **given: frozen.append(given)  # type: ignore[attr-defined]
    logged: list[Any] = []
    tracker.log = lambda *given, **more: logged.append(given)  # type: ignore[attr-defined]
    tracker.finish = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    available = "transformers.integrations.integration_utils.is_trackio_available"
    monkeypatch.setattr(available, lambda: True)
    for user in ("trl.trainer.grpo_trainer", "trl.extras.profiling"):
        monkeypatch.setattr(f"{user}.trackio", tracker, raising=False)
    changes = {
        "report_to": "trackio",
        "run_name": "a run",
        "project": "a project",
        "trackio_space_id": "someone/space",
        "trackio_bucket_id": "someone/bucket",
        "trackio_static_space_id": "someone/static",
    }
    for cls, config in BOTH:
        made(cls, config, tmp_path / config.__name__, changes).train()
    assert len(begun) == 2 and begun[0] == begun[1]
    assert begun[0]["name"] == "a run" and begun[0]["project"] == "a project"
    assert begun[0]["space_id"] == "someone/space" and begun[0]["bucket_id"] == "someone/bucket"
    assert len(logged) >= 4


class Hub:
    """What a run asks of the Hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.uploads: list[set[str]] = []

        def create(repo: str, **settings: Any) -> Any:
            self.asked.append((repo, settings.get("private")))
            return type("Repository", (), {"repo_id": repo})()

        def upload(folder_path: str, **settings: Any) -> Any:
            self.uploads.append({f.name for f in Path(folder_path).iterdir()})
            done = {"is_done": lambda _: True, "result": lambda _: None}
            return type("Upload", (), done | {"done": lambda _: True})()

        api = MagicMock(create_repo=create, upload_folder=upload)
        monkeypatch.setattr("transformers.trainer.hf_api", lambda: api)
        monkeypatch.setattr("trl.trainer.grpo_trainer.create_repo", create)
        monkeypatch.setattr("trl.trainer.grpo_trainer.CommitScheduler", self.schedule)
        monkeypatch.setattr("huggingface_hub.DatasetCard.push_to_hub", lambda *_, **__: None)

    def schedule(self, **settings: Any) -> None:
        self.asked.append((settings["repo_id"], settings["folder_path"]))


def test_a_checkpoint_is_uploaded_with_our_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    changes = {
        "push_to_hub": True,
        "hub_model_id": "someone/model",
        "hub_private_repo": True,
        "hub_strategy": "all_checkpoints",
        "hub_always_push": True,
        "hub_token": "none",
        "save_strategy": "steps",
        "save_steps": 1,
    }
    made(DoPRTrainer, DoPRConfig, tmp_path, changes).train()
    assert ("someone/model", True) in hub.asked
    checkpoints = [files for files in hub.uploads if "trainer_state.json" in files]
    assert checkpoints
    assert all({"dopr_state.json", "dopr_manifest.json"} <= files for files in checkpoints)


def test_tables_of_completions_go_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch)
    changes = {"log_completions": True, "log_completions_hub_repo": "someone/tables"}
    made(DoPRTrainer, DoPRConfig, tmp_path, changes).train()
    assert hub.asked[-1] == ("someone/tables", f"{tmp_path}/completions")
    assert len(list(tmp_path.glob("completions/*.parquet"))) == 2


def test_files_go_into_the_output_folder(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "strategy": "dopr"}
    made(DoPRTrainer, DoPRConfig, tmp_path / "here", changes).train()
    assert {f.name for f in (tmp_path / "here").iterdir()} >= {"checkpoint-2", "metrics.jsonl"}
    assert [f.name for f in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("estimator", ["leave_one_out", "dbb", "zvp"])
def test_an_estimator_of_one_reward_is_refused_beside_rewards_kept_apart(
    tmp_path: Path, estimator: str
) -> None:
    changes = {
        "multi_objective_aggregation": "normalize_then_sum",
        "advantage_estimator": estimator,
    }
    with pytest.raises(UserError, match=f"advantage_estimator '{estimator}' knows one reward"):
        made(DoPRTrainer, DoPRConfig, tmp_path, changes)


# -- rows and columns ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "dopr"])
def test_no_column_of_ours_is_seen_by_rewards_or_methods_of_the_users(
    tmp_path: Path, strategy: str
) -> None:
    seen: set[str] = set()

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns)
        return digits_reward(completions)

    class Own(DoPRTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any) -> Any:
            self.note(inputs)
            return super().training_step(model, inputs, *more)

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            self.note(generation_batch)
            return super()._prepare_inputs(generation_batch)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self.note(inputs)
            return super()._generate_and_score_completions(inputs)

        def _calculate_rewards(self, inputs: Any, *more: Any) -> Any:
            self.note(inputs)
            return super()._calculate_rewards(inputs, *more)

        def note(self, rows: Any) -> None:
            seen.update(*rows)

    changes = {"strategy": strategy, "per_device_train_batch_size": 4}
    changes |= {"gradient_accumulation_steps": 2}
    trainer = made(Own, DoPRConfig, tmp_path, changes, reward_funcs=reward)
    trainer.train()
    assert {"prompt", "answer"} <= seen
    assert seen <= {"prompt", "answer", "trainer_state", "log_extra", "log_metric"} | seen_by_trl()
    assert trainer.train_dataset.column_names == ["prompt", "answer"]


def seen_by_trl() -> set[str]:
    return {"prompts", "completions", "completion_ids"}


def test_columns_that_trl_drops_are_dropped_for_every_strategy(tmp_path: Path) -> None:
    seen: set[str] = set()

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns)
        return digits_reward(completions)

    changes = {"strategy": "dopr", "remove_unused_columns": True}
    trainer = made(DoPRTrainer, DoPRConfig, tmp_path, changes, reward_funcs=reward)
    trainer.train()
    assert "prompts" in seen and "answer" not in seen
    assert len(set(trainer.prompt_names)) == len(make_dataset())


def test_strategies_draw_in_the_rows_order_where_shuffling_is_off(tmp_path: Path) -> None:
    changes = {
        "strategy": "uniform",
        "strategy_args": {"prompts_per_step": 2},
        "shuffle_dataset": False,
        "max_steps": 4,
    }
    trainer = made(DoPRTrainer, DoPRConfig, tmp_path, changes)
    trainer.train()
    assert trainer.driver.ledger.visits.nonzero()[0].tolist() == list(range(8))


def test_rows_without_a_prompt_are_told_apart_by_what_they_hold() -> None:
    from dopr.engines.prompt_pool import prompt_names

    names = prompt_names(Dataset.from_list([{"level": 1}, {"level": 2}, {"level": 1}]))
    assert names[0] == names[2] != names[1]

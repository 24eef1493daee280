"""The contract: every name of TRL's trainer that ours overrides or reads, and what it must be.

The names are read off our own source, so that a new use without an entry here fails, and so does a
name that the installed TRL no longer has. `make test-matrix` runs this with several versions.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler
from transformers import GenerationConfig, TrainerState
from trl import GRPOConfig, GRPOTrainer

import dopr
from dopr import DoPRConfig, DoPRTrainer
from dopr.engines.trl import versions
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

Check = Callable[[Any], bool]

# What is read or set on a trainer, and what it must be once a plain GRPOTrainer has trained.
ATTRIBUTES: dict[str, Check] = {
    "_buffered_inputs": lambda x: isinstance(x, list) and isinstance(x[0], dict),
    "_entropy_bonus_enabled": lambda x: x is False,
    "_is_vlm": lambda x: x is False,
    "_last_world_entropy": lambda x: x is None or x >= 0,
    "_logs": lambda x: {"prompt", "completion", "rewards", "advantages", "extra"} <= set(x),
    "_metrics": lambda x: x["train"]["a new name"] == [] and isinstance(x["train"], dict),
    "_signature_columns": lambda x: "prompt" in x,
    "_step": lambda x: isinstance(x, int) and x > 0,
    "_tokenizer": lambda x: x.pad_token_id == 0,
    "accelerator": lambda x: isinstance(x, Accelerator),
    "args": lambda x: isinstance(x, GRPOConfig),
    "current_gradient_accumulation_steps": lambda x: x == 2,
    "entropy_coef": lambda x: x == 0,
    "generation_config": lambda x: isinstance(x, GenerationConfig),
    "log_completions": lambda x: x is False,
    "loss_type": lambda x: x == "dapo",
    "max_completion_length": lambda x: x == 8,
    "model": lambda x: isinstance(x, torch.nn.Module),
    "multi_objective_aggregation": lambda x: x == "sum_then_normalize",
    "num_generations": lambda x: x == 4,
    "num_iterations": lambda x: x == 1,
    "optimizer": lambda x: hasattr(x, "param_groups"),
    "processing_class": lambda x: x.pad_token_id == 0,
    "reward_funcs": lambda x: x == [digits_reward],
    "reward_weights": lambda x: x.tolist() == [1.0],
    "router_aux_loss_coef": lambda x: x >= 0,
    "scale_rewards": lambda x: x == "group",
    "state": lambda x: isinstance(x, TrainerState) and x.global_step == 2,
    "temperature": lambda x: x == 1.0,
    "tools": lambda x: list(x or []) == [],
    "top_entropy_quantile": lambda x: x == 1.0,
    "top_p": lambda x: x == 1.0,
    "train_dataset": lambda x: len(x) == 24,
    "use_adaptive_entropy": lambda x: x is False,
    "use_vllm": lambda x: x is False,
}
# Read only where they are there: TRL before 1.8 has no entropy bonus and before 1.7 no router loss.
NEWER = {"_entropy_bonus_enabled", "_last_world_entropy", "entropy_coef", "router_aux_loss_coef"}
NEWER |= {"use_adaptive_entropy"}
NEWER_SETTINGS = {"entropy_target"} if versions.TRL < (1, 8) else set()
# What is called and not overridden, with arguments as ours gives them.
CALLED: dict[str, tuple[Any, ...]] = {
    "_load_from_checkpoint": ("a folder",),
    "_log_completion_extra": ("a column", ["a value"]),
    "_push_from_checkpoint": ("a folder",),
    "_remove_unused_columns": ("a data set", "training"),
    "add_callback": (object,),
    "get_high_entropy_mask": ("entropies", "mask", 0.2),
    "remove_callback": (object,),
    "save_model": ("a folder",),
}
# What is overridden, and what TRL's own must return when a training run calls it.
OVERRIDDEN: dict[str, Check] = {
    "__init__": lambda _: True,
    "_calculate_rewards": lambda x: x.shape == (16, 1),
    "_compute_loss": lambda x: x.ndim == 0 and x.requires_grad,
    "_generate": lambda x: len(x[0]) == len(x[1]) == 16 and x[2] is None,
    "_generate_and_score_completions": lambda x: (
        {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"} <= set(x)
        and x["advantages"].shape == (16,)
        and x["num_items_in_batch"].ndim == 0
    ),
    "_generate_single_turn": lambda x: len(x[0]) == 16,
    "_get_output_dir": lambda x: isinstance(x, str),
    "_get_per_token_logps_and_entropies": lambda x: (
        all(t.shape == x[0].shape for t in versions.per_token(x)[:2]) and len(x[0]) == 8
    ),
    "_load_optimizer_and_scheduler": lambda x: x is None,
    "_prepare_inputs": lambda x: len(x["completion_ids"]) == 8,
    "_save_checkpoint": lambda x: x is None,
    "_set_signature_columns_if_needed": lambda x: x is None,
    "create_scheduler": lambda x: isinstance(x, LRScheduler),
    "get_batch_samples": lambda x: isinstance(x[0], list),
    "get_train_dataloader": lambda x: hasattr(x, "__iter__"),
    "log": lambda x: x is None,
    "train": lambda x: x.global_step == 2,
}
# Beside `versions.py`, which knows what older ones lack.
PACKAGE = Path(dopr.__file__).parent
SOURCES = [
    ast.parse(path.read_text())
    for folder in ("engines/trl", "runs")
    for path in sorted((PACKAGE / folder).glob("*.py"))
    if path.name != "versions.py"
]


def our_classes() -> list[type]:
    return [c for c in DoPRTrainer.__mro__ if c.__module__.startswith("dopr.")]


def tree_of(cls: type) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(cls)))


def names_on(tree: ast.AST, *receivers: str) -> Iterator[ast.Attribute]:
    """Every `receiver.name` in the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in receivers:
            yield node


def asked_for_on(tree: ast.AST, *receivers: str) -> Iterator[str]:
    """Every name in a `getattr(receiver, "name", ...)` of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            receiver, name = node.args[:2]
            if ast.unparse(receiver) in receivers and isinstance(name, ast.Constant):
                yield str(name.value)


def defined_by(cls: type) -> set[str]:
    """What a class declares, and what its methods set on `self`."""
    set_on_self = {n.attr for n in names_on(tree_of(cls), "self") if isinstance(n.ctx, ast.Store)}
    return set_on_self | set(vars(cls)) | set(vars(cls).get("__annotations__", {}))


def used() -> set[str]:
    """What our trainer reads, sets or overrides on itself, and others of ours read off it."""
    names = {n.attr for cls in our_classes() for n in names_on(tree_of(cls), "self", "super()")}
    names |= {name for cls in our_classes() for name in asked_for_on(tree_of(cls), "self")}
    for tree in SOURCES:
        names |= {n.attr for n in names_on(tree, "trainer", "self._trainer")}
        names |= set(asked_for_on(tree, "trainer"))
    overridden = {name for cls in our_classes() for name in vars(cls) if inspect.isroutine(name)}
    return names | overridden


def of_trl() -> set[str]:
    """What TRL's trainer and its bases define."""
    bases = [c for c in GRPOTrainer.__mro__ if c is not object and c.__module__ != "typing"]
    return {name for cls in bases for name in defined_by(cls)}


def overridden() -> set[str]:
    ours = {name for cls in our_classes() for name, x in vars(cls).items() if inspect.isroutine(x)}
    return ours & of_trl()


def test_every_name_of_trl_that_is_used_has_an_entry() -> None:
    ours_alone = set().union(*map(defined_by, our_classes())) - of_trl()
    entries = set(ATTRIBUTES) | set(CALLED) | set(OVERRIDDEN)
    assert used() - ours_alone - entries == set(), "used on the trainer without a contract"
    assert entries - used() - overridden() == set(), "entries that nothing needs any more"


def test_every_override_is_of_a_method_that_trl_has() -> None:
    assert overridden() == set(OVERRIDDEN)


def parameters(method: Any) -> list[str]:
    return list(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", sorted(set(OVERRIDDEN) - {"__init__"}))
def test_overrides_take_what_trl_gives(name: str) -> None:
    own = inspect.signature(getattr(DoPRTrainer, name)).parameters.values()
    named = [p.name for p in own if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    theirs = parameters(getattr(GRPOTrainer, name))
    hands_on_the_rest = len(named) < len(own)
    renamed = ["checkpoint" if p == "folder" else p for p in named]
    assert renamed == (theirs[: len(named)] if hands_on_the_rest else theirs)


def test_our_constructor_takes_what_trls_takes() -> None:
    ours, theirs = parameters(DoPRTrainer.__init__), parameters(GRPOTrainer.__init__)
    assert set(theirs) - set(ours) == set()
    assert theirs[:5] == ours[:5] and "strategy" not in theirs


class Recorded(GRPOTrainer):
    """Plain GRPOTrainer that keeps what each method returned that ours overrides."""

    returned: dict[str, list[Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.returned = {"__init__": [None]}
        super().__init__(*args, **kwargs)


def _recording(name: str) -> Callable[..., Any]:
    def method(self: Recorded, *args: Any, **kwargs: Any) -> Any:
        result = getattr(super(Recorded, self), name)(*args, **kwargs)
        self.returned.setdefault(name, []).append(result)
        return result

    return method


for _name in set(OVERRIDDEN) - {"__init__"}:
    setattr(Recorded, _name, _recording(_name))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two steps of plain GRPO, two micro-batches each, and the second again from a checkpoint."""
    changes: dict[str, Any] = {"max_steps": 2, "gradient_accumulation_steps": 2}
    changes |= {"save_strategy": "steps", "remove_unused_columns": True}
    folder = tmp_path_factory.mktemp("plain")
    args = GRPOConfig(**settings(folder, save_steps=1, **changes))
    data, tokenizer = make_dataset(), make_tokenizer()
    trainer = Recorded(make_model(), digits_reward, args, data, processing_class=tokenizer)
    versions.add_missing_attributes(trainer)
    trainer.train()
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    return trainer


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_trl_calls_what_is_overridden_and_returns_what_is_needed(
    trained: Recorded, name: str
) -> None:
    results = trained.returned.get(name, [])
    assert results, f"TRL no longer calls {name}"
    assert all(OVERRIDDEN[name](result) for result in results)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_what_is_needed(trained: Recorded, name: str) -> None:
    if name in NEWER and not hasattr(trained, name):
        assert versions.TRL < (1, 8)
    else:
        assert ATTRIBUTES[name](getattr(trained, name))


@pytest.mark.parametrize("name", CALLED)
def test_methods_can_be_called_as_they_are(name: str) -> None:
    inspect.signature(getattr(GRPOTrainer, name)).bind(None, *CALLED[name])


def test_every_setting_that_is_read_exists(trained: Recorded) -> None:
    receivers = ("args", "self.args", "trainer.args", "self._trainer.args")
    read = {n.attr for tree in SOURCES for n in names_on(tree, *receivers)}
    assert "steps_per_generation" in read
    ours = {field.name for field in dataclasses.fields(DoPRConfig)}
    theirs = read - ours - NEWER_SETTINGS
    assert [name for name in sorted(theirs) if not hasattr(trained.args, name)] == []


def test_log_probabilities_are_given_as_rollouts_are_read(trained: Recorded) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    result = GRPOTrainer._get_per_token_logps_and_entropies(
        trained, trained.model, ids, torch.ones_like(ids), 2, batch_size=1, compute_entropy=True
    )
    logps, entropies, _ = versions.per_token(result)
    expected = trained.model(ids).logits[:, 1:3].log_softmax(-1)
    assert torch.allclose(logps, expected.gather(2, ids[:, 2:, None]).squeeze(2), atol=1e-5)
    assert torch.allclose(entropies, -(expected.exp() * expected).sum(-1), atol=1e-5)


def test_log_probabilities_are_read_off_one_call_of_the_layers(trained: Recorded) -> None:
    """`dopr.policy.shared_prefixes` puts its tokens in at the layers and takes their states out."""
    ids, calls = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 4]]), []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs["input_ids"].shape))

    hook = trained.model.model.register_forward_pre_hook(note, with_kwargs=True)
    GRPOTrainer._get_per_token_logps_and_entropies(
        trained, trained.model, ids, torch.ones_like(ids), 2, compute_entropy=True
    )
    hook.remove()
    assert calls == [((), ids.shape)]

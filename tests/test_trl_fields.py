"""Every field of TRL's GRPOConfig and every argument of its GRPOTrainer is honoured or refused."""

import inspect
import math
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
import trl
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from fake_vllm import use_fake_vllm
from tiny import (
    digits_reward,
    length_reward,
    make_dataset,
    make_model,
    make_tokenizer,
    mixture_of_experts,
    settings,
)
from trl_fields import ARGUMENTS, CASES, FIELDS, TRL_VERSION, Case

# What a run logs about its own time and memory, and what only ours logs.
_OF_THE_MACHINE = ("time", "_per_second", "_mem_", "total_flos", "profiling/")
_OURS = ("rollout/", "select/")


def columns_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Depends on which columns of the dataset are there."""
    assert not any(name.startswith("dopr") for name in columns)
    scores = digits_reward(completions)
    return [-s for s in scores] if "answer" in columns else scores


class Run:
    """One training under a case's settings, and what can be seen of it afterwards."""

    def __init__(self, cls: Any, config: Any, case: Case, folder: Path, **ours: Any) -> None:
        usual = settings(folder, max_steps=2)
        arguments = config(**(usual | case.with_ | case.fields | ours))
        model: Any = make_model()
        dataset, rewards, tokenizer = make_dataset(), [digits_reward], make_tokenizer()
        more: dict[str, Any] = {}
        for part in case.setup:
            if part == "evaluation":
                more["eval_dataset"] = make_dataset(3)
            elif part == "chat":
                dataset = make_dataset(chat=True)
                tokenizer.chat_template = "{{ 'a' if shout else 'b' }}" + tokenizer.chat_template
            elif part == "two rewards":
                rewards.append(length_reward)
            elif part == "columns reward":
                rewards = [columns_reward]
            elif part == "model by name":
                model = str(save_model(folder / "model"))
            elif part == "experts":
                model = mixture_of_experts()
            elif part == "dropout":
                model = make_model()
                model.config.attention_dropout = 0.5
                for layer in model.model.layers:
                    layer.self_attn.attention_dropout = 0.5
                    layer.mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5))
            elif part == "short answers":
                model = ends_soon()
        self.trainer = cls(model, rewards, arguments, dataset, processing_class=tokenizer, **more)
        self.trainer.train()
        self.folder = folder

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [p.detach() for p in self.trainer.model.parameters()]

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was logged, without what differs between any two runs or is ours alone."""
        return [
            {
                name: "nan" if isinstance(value, float) and math.isnan(value) else value
                for name, value in row.items()
                if not name.startswith(_OURS) and not any(w in name for w in _OF_THE_MACHINE)
            }
            for row in self.trainer.state.log_history
        ]

    @property
    def files(self) -> set[str]:
        found = {str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file()}
        return {f for f in found if "dopr_" not in f and f != "metrics.jsonl"}

    @property
    def engine_settings(self) -> dict[str, Any]:
        """What the engine in vLLM's place was made with, as far as it can be compared."""
        engine = getattr(self.trainer, "vllm_generation", None)
        made_with = {} if engine is None else engine.settings
        return {k: v for k, v in made_with.items() if isinstance(v, (bool, int, float, str))}

    def tables(self) -> list[pd.DataFrame]:
        files = sorted(self.folder.glob("completions/*.parquet"))
        return [pd.read_parquet(f).drop(columns="prompt_id", errors="ignore") for f in files]


def save_model(folder: Path) -> Path:
    make_model().save_pretrained(folder)
    return folder


def ends_soon() -> Any:
    """A model that ends about half of its completions before they are cut."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[1] = model.lm_head.weight.mean(0)
        model.model.norm.weight.mul_(3.0)
    return model


NAMES = [
    pytest.param(name, marks=pytest.mark.slow if case.slow else ()) for name, case in CASES.items()
]


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    """Some fields change the whole process."""
    environment = dict(os.environ)
    verbosity = transformers.logging.get_verbosity()
    yield
    transformers.logging.set_verbosity(verbosity)
    os.environ.clear()
    os.environ.update(environment)
    torch.use_deterministic_algorithms(False)
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def known(case: Case) -> Case:
    """Without the fields that an older TRL does not have."""
    there = GRPOConfig.__dataclass_fields__
    fields, more = (
        {name: value for name, value in given.items() if name in there}
        for given in (case.fields, case.with_)
    )
    return Case(fields, more, case.setup, case.trains)


@pytest.fixture(scope="module")
def usual_parameters(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    return Run(GRPOTrainer, GRPOConfig, Case({}), tmp_path_factory.mktemp("usual")).parameters


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_uniform_does_what_plain_grpo_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    usual_parameters: list[torch.Tensor],
    name: str,
) -> None:
    case = known(CASES[name])
    if "vllm" in case.setup:
        use_fake_vllm(monkeypatch)
    plain = Run(GRPOTrainer, GRPOConfig, case, tmp_path / "plain")
    uniform = Run(DoPRTrainer, DoPRConfig, case, tmp_path / "uniform", strategy="uniform")
    assert all(map(torch.equal, plain.parameters, uniform.parameters))
    assert plain.history == uniform.history
    assert plain.files == uniform.files
    assert plain.engine_settings == uniform.engine_settings
    for ours, theirs in zip(uniform.tables(), plain.tables(), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    same = len(usual_parameters) == len(plain.parameters) and all(
        map(torch.equal, plain.parameters, usual_parameters)
    )
    assert same != case.trains or case.setup


# Nothing in these knows how prompts are chosen.
ALL_THE_SAME = ("optimiser", "optimiser with arguments", "schedule", "logging", "steps")
ALL_THE_SAME += ("logging by epoch", "recomputation", "recomputation by layers", "determinism")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] not in ALL_THE_SAME])
def test_dopr_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = known(CASES[name])
    if "vllm" in case.setup:
        use_fake_vllm(monkeypatch)
    run = Run(DoPRTrainer, DoPRConfig, case, tmp_path)
    state = run.trainer.state
    assert state.global_step == state.max_steps > 0
    assert run.trainer.driver.spent.rollouts > 0
    assert all(torch.isfinite(p).all() for p in run.parameters)


# -- the table -------------------------------------------------------------------------------

TABLE = {"field": FIELDS, "argument": ARGUMENTS}
TESTS = Path(__file__).parent


def of_trl() -> dict[str, set[str]]:
    arguments = set(inspect.signature(GRPOTrainer.__init__).parameters) - {"self"}
    return {"field": set(GRPOConfig.__dataclass_fields__), "argument": arguments}


@pytest.mark.parametrize("kind", TABLE)
def test_nothing_of_trl_is_undecided(kind: str) -> None:
    undecided = of_trl()[kind] - set(TABLE[kind])
    assert not undecided, f"say in tests/trl_fields.py what becomes of {sorted(undecided)}"


@pytest.mark.parametrize("kind", TABLE)
def test_nothing_is_decided_that_trl_does_not_have(kind: str) -> None:
    if trl.__version__.startswith(TRL_VERSION):
        assert set(TABLE[kind]) == of_trl()[kind]


def test_what_is_said_is_tested() -> None:
    """Each named test is there, with its case where it has several."""
    for support in [*FIELDS.values(), *ARGUMENTS.values()]:
        assert support.how in ("honoured", "refused")
        file, _, name = support.test.partition("::")
        name, _, case = name.rstrip("]").partition("[")
        source = (TESTS / file).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, support.test
        assert not case or case in CASES or f'"{case}"' in source, support.test


def test_a_case_changes_every_field_it_claims(tmp_path: Path) -> None:
    usual = GRPOConfig(**settings(tmp_path))
    for name, case in CASES.items():
        same = [f for f, value in known(case).fields.items() if getattr(usual, f) == value]
        assert set(same) <= set(UNCHANGED), f"{name}: {same}"


# What a CPU cannot have otherwise, or what a run needs as it is.
UNCHANGED = ("vllm_tensor_parallel_size", "local_rank", "dataloader_pin_memory")


def test_the_page_holds_the_table_as_it_is() -> None:
    if not trl.__version__.startswith(TRL_VERSION):
        pytest.skip(f"the page is about TRL {TRL_VERSION}")
    script = TESTS.parent / "docs" / "make_field_table.py"
    maker = runpy.run_path(str(script))
    page = maker["PAGE"].read_text(encoding="utf-8")
    assert page == maker["renewed"](page), "run python docs/make_field_table.py"

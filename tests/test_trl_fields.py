"""Every field of TRL's GRPOConfig and every argument of its GRPOTrainer is honoured or refused."""

import inspect
import os
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trl
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from fake_vllm import use_fake_vllm
from tiny import settings
from trl_cases import CASES, Case
from trl_fields import ARGUMENTS, FIELDS, TRL_VERSION
from trl_run import Run, differences, same_parameters, set_back_the_process

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if case.slow else ()) for name, case in CASES.items()
]


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    set_back_the_process()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def known(case: Case) -> Case:
    """Without the fields that an older TRL does not have."""
    there = GRPOConfig.__dataclass_fields__
    fields, more = (
        {name: value for name, value in given.items() if name in there}
        for given in (case.fields, case.with_)
    )
    return replace(case, fields=fields, with_=more)


@pytest.fixture(scope="module")
def usual_parameters(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    return Run(GRPOTrainer, GRPOConfig, Case({}), tmp_path_factory.mktemp("usual")).parameters


def uniform(case: Case, folder: Path) -> Run:
    return Run(DoPRTrainer, DoPRConfig, case, folder, strategy="uniform")


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
    ours = uniform(case, tmp_path / "uniform")
    assert differences(plain, ours) == set()
    assert same_parameters(plain.parameters, usual_parameters) != case.trains or case.setup


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_what_a_case_shows_of_its_fields_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A trainer that loses any one of the fields would be found out, but for those named unseen."""
    case = known(CASES[name])
    if "vllm" in case.setup:
        use_fake_vllm(monkeypatch)
    whole, unseen = uniform(case, tmp_path / "whole"), set()
    for lost in case.fields:
        fewer = {field: value for field, value in case.fields.items() if field != lost}
        try:
            without = uniform(replace(case, fields=fewer), tmp_path / lost)
        except (TypeError, ValueError):  # such as a batch that no longer fits
            continue
        if differences(whole, without) <= {"settings"}:
            unseen.add(lost)
    assert unseen == set(case.unseen) & set(case.fields)


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

"""Rollouts of an engine such as vLLM: their log-probabilities and importance ratios must stay with
their rows through unequal groups, several rounds and any cut into micro-batches."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType

from dopr import Group, Request, Strategy, UserError
from dopr.engines.trl import versions
from dopr.engines.trl.micro_batches import cut_micro_batches
from dopr.engines.trl.rounds import Round, Segment, pack_handle, unpack_handle
from dopr.engines.trl.versions import known_settings
from dopr.runs.settings import TrainSettings
from dopr.runs.train import train
from engine_tools import MODES, FakeEngine, Recorder, use_engine
from training import TwoRounds, make_trainer, parameters


@dataclass
class TwoGroups(Strategy):
    """Two groups of one size; backwards they no longer are a batch as TRL makes it."""

    name = "two-groups"
    summary, source, mark = "test", "test", "I"
    backwards: bool = False

    def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
        groups = yield [Request(0, 4), Request(1, 4)]
        return groups[::-1] if self.backwards else groups


def gradient(folder: Path, strategy: Strategy, **changes: Any) -> torch.Tensor:
    """What one step of plain descent on rollouts of a fake engine changes."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1} | changes
    trainer = use_engine(make_trainer(folder, strategy, **settings), FakeEngine())
    before = parameters(trainer)
    trainer.train()
    change = parameters(trainer) - before
    assert change.abs().max() > 0
    return change


@pytest.mark.parametrize("mode", MODES)
def test_gradient_does_not_depend_on_how_an_engines_rollouts_are_cut(
    tmp_path: Path, mode: str
) -> None:
    results = [
        gradient(
            tmp_path / str(rows),
            TwoRounds(),
            vllm_importance_sampling_mode=mode,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
        )
        for rows, accumulation in [(16, 1), (4, 4), (2, 8)]
    ]
    for other in results[1:]:
        assert torch.allclose(results[0], other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "mode"),
    [
        *[("dapo", mode) for mode in MODES],
        ("grpo", "sequence_mask"),
        ("bnpo", "token_truncate"),
        ("vespo", "token_mask"),
    ],
)
def test_own_cut_of_an_engines_rollouts_gives_the_gradient_of_trls_own_batch(
    tmp_path: Path, loss_type: str, mode: str
) -> None:
    changes = {"vllm_importance_sampling_mode": mode, "loss_type": loss_type}
    plain = gradient(tmp_path / "plain", TwoGroups(), **changes)
    own = gradient(tmp_path / "own", TwoGroups(backwards=True), **changes)
    assert torch.allclose(plain, own, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unknown", [0, 3])
def test_log_probabilities_and_ratios_stay_with_their_rows(
    tmp_path: Path, mode: str, unknown: int
) -> None:
    if unknown and versions.TRL < (1, 12):
        pytest.skip("TRL before 1.12 itself ends at a log-probability that the engine left out")
    engine = FakeEngine(unknown=unknown)
    trainer = make_trainer(
        tmp_path,
        TwoRounds(keep_every=1),
        vllm_importance_sampling_mode=mode,
        **known_settings({"vllm_importance_sampling_clip_max": 1e6}),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        max_steps=2,
    )
    use_engine(trainer, engine)
    recorder = Recorder(trainer)
    trainer.train()
    rows = recorder.rows()
    assert len(rows) == 2 * (5 + 3 + 4)
    for ids, row in rows:
        given = torch.tensor([float("nan") if v is None else v for v in engine.given[ids]])
        assert torch.equal(row["sampling_per_token_logps"].isnan(), given.isnan())
        assert torch.equal(row["sampling_per_token_logps"].nan_to_num(), given.nan_to_num())
        difference = (row["old_per_token_logps"] - given).nan_to_num()
        difference = difference.sum() if mode.startswith("sequence") else difference
        ratio = row["importance_sampling_ratio"].squeeze()
        assert torch.allclose(ratio, difference.exp(), rtol=1e-4)
    assert torch.isfinite(parameters(trainer)).all()


def test_engine_is_asked_for_whole_groups_and_given_weights_once_a_step(tmp_path: Path) -> None:
    regular, unequal = FakeEngine(), FakeEngine()
    use_engine(make_trainer(tmp_path / "a", TwoGroups(), max_steps=3), regular).train()
    assert regular.asked == [(8, 4)] * 3 and regular.synced == 3
    use_engine(make_trainer(tmp_path / "b", TwoRounds(), max_steps=3), unequal).train()
    assert unequal.asked == [(8, 1), (4, 4)] * 3 and unequal.synced == 3


def test_own_decoding_loop_stays_out_of_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("the engine generates")

    monkeypatch.setattr("dopr.engines.trl.trainer.faster_generation", refuse)
    engine = FakeEngine()
    trainer = use_engine(make_trainer(tmp_path, fast_decoding=True, max_steps=1), engine)
    trainer.train()
    assert engine.asked == [(8, 4)]


# -- rounds of different steps and widths ----------------------------------------------------


def fake_round(rows: int, width: int, per_token: bool, engine: bool = True) -> Round:
    """A round whose tensors say in every entry which row and column they come from."""
    code = torch.arange(rows).unsqueeze(1) * 100.0 + torch.arange(width) + 1000.0 * width
    batch = {
        "prompt_ids": torch.ones(rows, 2, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 2, dtype=torch.long),
        "completion_ids": code.long(),
        "completion_mask": torch.ones(rows, width, dtype=torch.long),
        "old_per_token_logps": code + 0.25,
        "advantages": torch.zeros(rows),
    }
    if engine:
        batch["sampling_per_token_logps"] = code + 0.5
        batch["importance_sampling_ratio"] = code if per_token else code[:, :1]
    return Round(batch, rows, np.zeros((rows, 1)), advantages_hold=False)


def cut(groups: list[Group], size: int = 4, steps: int = 4) -> list[dict[str, Any]]:
    accelerator = SimpleNamespace(
        num_processes=1,
        process_index=0,
        device=torch.device("cpu"),
        gather=lambda t: t,
        distributed_type=DistributedType.NO,
        scaler=None,
    )
    args = SimpleNamespace(
        steps_per_generation=steps,
        gradient_accumulation_steps=steps,
        per_device_train_batch_size=size,
        pad_to_multiple_of=None,
    )
    trained = [(g, np.arange(g.num_rollouts, dtype=np.float64)) for g in groups]
    pieces = cut_micro_batches(trained, args, accelerator, "dapo", pad_token_id=0)
    return [piece for piece in pieces if "dopr_skip" not in piece]


def group_of(done: Round, prompt: int, start: int, count: int) -> Group:
    return Group(
        prompt, np.arange(count) % 2, np.ones(count), 0, handle=(Segment(done, start, count),)
    )


@pytest.mark.parametrize("per_token", [True, False])
def test_rounds_of_different_widths_are_cut_together(per_token: bool) -> None:
    narrow, wide = fake_round(8, 3, per_token), fake_round(3, 5, per_token)
    packed = unpack_handle(pack_handle((Segment(wide, 0, 3),)), torch.device("cpu"))
    groups = [
        group_of(narrow, 0, 0, 5),
        group_of(wide, 1, 0, 3),
        group_of(narrow, 2, 5, 3).keep(np.array([0, 2])),
        Group(3, np.arange(3) % 2, np.ones(3), 0, handle=packed),
    ]
    seen = 0
    for piece in cut(groups):
        for i, mask in enumerate(piece["completion_mask"]):
            on = mask.bool()
            code = piece["completion_ids"][i][on].float()
            seen += bool(on.any())
            assert torch.equal(piece["sampling_per_token_logps"][i][on], code + 0.5)
            assert torch.equal(piece["old_per_token_logps"][i][on], code + 0.25)
            ratio = piece["importance_sampling_ratio"][i]
            if per_token:
                assert torch.equal(ratio[on], code)
                assert (ratio[~on] == 1).all() or not on.any()
            elif on.any():
                assert ratio.tolist() == code[:1].tolist()
    assert seen == 5 + 3 + 2 + 3


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("engine_first", [True, False])
def test_kept_rollouts_made_without_an_engine_need_no_correction(
    per_token: bool, engine_first: bool
) -> None:
    """A run that is resumed with vLLM may hold groups that transformers generated."""
    groups = [
        group_of(fake_round(2, 3, per_token), 0, 0, 2),
        group_of(fake_round(2, 4, per_token, engine=False), 1, 0, 2),
    ]
    (piece,) = cut(groups if engine_first else groups[::-1], size=8, steps=1)
    for i, prompt in enumerate(piece["dopr_prompt"].tolist()):
        on = piece["completion_mask"][i].bool()
        sampled, old = piece["sampling_per_token_logps"][i], piece["old_per_token_logps"][i]
        if prompt == 1:
            assert (piece["importance_sampling_ratio"][i] == 1).all()
            assert torch.equal(sampled[on], old[on])
        else:
            assert torch.equal(sampled[on], old[on] + 0.25)


# -- no engine -------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_asking_for_vllm_without_it_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"vLLM is not installed; install dopr with its extra `vllm`"
    ):
        make_trainer(tmp_path, use_vllm=True)
    settings = TrainSettings(dataset="gym:chain_sum", steps=1, output_dir=str(tmp_path / "run"))
    settings.use_vllm = True
    with pytest.raises(UserError, match="use_vllm is set but vLLM is not installed"):
        train(settings)
    assert not (tmp_path / "run").exists()

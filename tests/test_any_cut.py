"""Terms of the loss and advantages that must not depend on how a step's rollouts are cut."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dopr import DoPRConfig, DoPRTrainer, Request, Strategy, UserError
from dopr.core.strategy import Group
from dopr.engines.trl.multi_objective import normalize_then_sum
from dopr.engines.trl.rounds import Round, Segment
from dopr.strategies import Uniform
from tiny import (
    digits_reward,
    length_reward,
    make_dataset,
    make_model,
    make_tokenizer,
    mixture_of_experts,
    settings,
)


@dataclass
class TwoGroups(Strategy):
    """Two prompts, four rollouts each: TRL's own batch, or in reverse and so through our cut."""

    name = "two-groups"
    summary, source, mark = "test", "test", "I"
    backwards: bool = True

    def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
        groups = yield [Request(0, 4), Request(1, 4)]
        return groups[::-1] if self.backwards else groups


def update(folder: Path, backwards: bool, rows: int, accumulation: int, **changes: Any) -> Any:
    """The change of the parameters in one step of gradient descent."""
    model = changes.pop("model", make_model)()
    rewards = changes.pop("rewards", [digits_reward])
    arguments = DoPRConfig(
        **settings(
            folder,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            max_grad_norm=0.0,
            learning_rate=1.0,
            max_steps=1,
            **changes,
        )
    )
    trainer = DoPRTrainer(
        model,
        rewards,
        arguments,
        make_dataset(),
        processing_class=make_tokenizer(),
        strategy=TwoGroups(backwards=backwards),
    )
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before


def nothing(completions: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


# (rows of a micro-batch, micro-batches): exact fits, and windows of which most are left empty.
CUTS = [(4, 2), (1, 8), (8, 4)]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("more", [{}, {"top_entropy_quantile": 0.999}], ids=["all", "high entropy"])
def test_the_entropy_bonus_acts_alike_under_any_cut(
    tmp_path: Path, loss_type: str, more: dict[str, Any]
) -> None:
    """Rewards do not differ, so the bonus alone moves the parameters."""
    common = {"loss_type": loss_type, "entropy_coef": 1.0, "rewards": [nothing], **more}
    own = update(tmp_path / "trl", False, 8, 1, **common)
    assert own.abs().max() > 1e-4
    close = {"rtol": 1e-3, "atol": 1e-6} if not more else {"rtol": 0.2, "atol": 1e-3}
    for rows, accumulation in CUTS:
        found = update(tmp_path / f"{rows}-{accumulation}", True, rows, accumulation, **common)
        assert torch.allclose(found, own, **close), (rows, accumulation)


def test_the_balancing_loss_of_experts_keeps_its_weight_under_any_cut(tmp_path: Path) -> None:
    """It is no mean over tokens, so cuts agree nearly; without its weight they are a factor off."""
    common = {"model": mixture_of_experts, "router_aux_loss_coef": 1.0, "rewards": [nothing]}
    own = update(tmp_path / "trl", False, 8, 1, **common)
    assert own.abs().max() > 1e-5
    for rows, accumulation in CUTS:
        found = update(tmp_path / f"{rows}-{accumulation}", True, rows, accumulation, **common)
        cosine = torch.nn.functional.cosine_similarity(found, own, dim=0)
        assert cosine > 0.9 and 0.8 < found.norm() / own.norm() < 1.25, (rows, accumulation)


def test_an_adaptive_bonus_sees_the_whole_window(tmp_path: Path) -> None:
    """Its first step holds back, and it moves on once a step however the step is cut."""
    arguments = DoPRConfig(
        **settings(
            tmp_path,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=8,
            use_adaptive_entropy=True,
            entropy_target=10.0,
            entropy_coef_delta=0.25,
            max_steps=3,
        )
    )
    rows, tokenizer = make_dataset(), make_tokenizer()
    trainer = DoPRTrainer(
        make_model(), nothing, arguments, rows, processing_class=tokenizer, strategy=TwoGroups()
    )
    trainer.train()
    assert trainer.entropy_coef == pytest.approx(0.75)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_rewards_normalised_one_by_one_give_trls_gradient_under_any_cut(
    tmp_path: Path, cut: tuple[int, int]
) -> None:
    common = {
        "multi_objective_aggregation": "normalize_then_sum",
        "reward_weights": [1.0, 0.25],
        "rewards": [digits_reward, length_reward],
        "loss_type": "grpo",
    }
    own = update(tmp_path / "trl", False, 8, 1, **common)
    summed = common | {"multi_objective_aggregation": "sum_then_normalize"}
    assert not torch.allclose(own, update(tmp_path / "summed", False, 8, 1, **summed), rtol=1e-2)
    found = update(tmp_path / "ours", True, *cut, **common)
    assert torch.allclose(found, own, atol=1e-6, rtol=1e-3)


def group_of(rewards: list[list[float]], **changes: Any) -> Group:
    """A finished group with the given single rewards, one row a rollout."""
    array = np.array(rewards)
    made = Round({}, len(array), array, advantages_hold=False)
    total = np.where(np.isnan(array).all(axis=1), np.nan, np.nansum(array, axis=1))
    handle = (Segment(made, 0, len(array)),)
    return Group(0, total, np.ones(len(array), dtype=np.int64), handle=handle, **changes)


def test_rewards_normalised_one_by_one_by_hand() -> None:
    """A reward of range 100 counts no more than one of range 1."""
    group = group_of([[1, 0], [0, 100], [1, 100], [0, 0]])
    (found,) = normalize_then_sum([group], np.ones(2), Uniform())
    # Each reward alone is +-0.866 (deviation 0.577); their sums 0, 0, 1.732, -1.732 have
    # deviation 1.414.
    assert found == pytest.approx([0, 0, 1.2247, -1.2247], abs=1e-3)


def test_what_no_reward_could_score_has_no_advantage_and_sways_none() -> None:
    nan = float("nan")
    with_gap = group_of([[1, nan], [0, nan], [nan, nan]])
    (found,) = normalize_then_sum([with_gap], np.ones(2), Uniform())
    (without,) = normalize_then_sum([group_of([[1, nan], [0, nan]])], np.ones(2), Uniform())
    assert found[2] == 0 and found[:2] == pytest.approx(without)


def test_a_baseline_of_the_kept_rollouts_is_theirs_and_a_foreign_one_is_refused() -> None:
    kept = np.array([0, 1])
    rewards = [[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]
    group = group_of(rewards, kept=kept, baseline=1.5)
    (found,) = normalize_then_sum([group], np.ones(2), Uniform())
    deviations = np.array(rewards) - np.array([0.5, 1.0])
    summed = (deviations / (np.std(rewards, axis=0, ddof=1) + 1e-4)).sum(axis=1)
    assert found == pytest.approx((summed - summed.mean()) / (summed.std(ddof=1) + 1e-4))
    with pytest.raises(UserError, match="strategy 'uniform' sets a baseline"):
        normalize_then_sum([group_of(rewards, baseline=9.0)], np.ones(2), Uniform())


def test_micro_batches_stay_multiples_where_trl_pads_to_them(tmp_path: Path) -> None:
    widths = []

    class Noting(DoPRTrainer):
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            if "completion_ids" in inputs:
                widths.append((inputs["prompt_ids"].size(1), inputs["completion_ids"].size(1)))
            return super()._compute_loss(model, inputs)

    arguments = DoPRConfig(**settings(tmp_path, pad_to_multiple_of=4, max_completion_length=6))
    rows, tokenizer = make_dataset(), make_tokenizer()
    Noting(
        make_model(),
        digits_reward,
        arguments,
        rows,
        processing_class=tokenizer,
        strategy=TwoGroups(),
    ).train()
    assert widths and all(a % 4 == 0 and b % 4 == 0 for a, b in widths)

"""Presets fill TRL's settings, and the gradients are those of the papers' expressions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli_tools import rows_of, train, words
from dopr import DoPRConfig, DoPRTrainer, UserError, cli
from dopr.core.configuration import build
from dopr.engines.trl import versions
from dopr.engines.trl.objectives import (
    OBJECTIVES,
    departures,
    find_objective,
    ibro_term,
    ibro_weight,
)
from dopr.engines.trl.versions import known_settings
from dopr.runs.settings import TrainSettings
from dopr.runs.train import trainer_arguments
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings

with_gradients = pytest.mark.skipif(
    not versions.ENTROPIES_HAVE_GRADIENT, reason="this TRL's entropies carry no gradient"
)
GOOD = {"dataset": "gym:chain_sum", "steps": 3}


def checked(**mapping: Any) -> TrainSettings:
    made = build(TrainSettings, GOOD | mapping)
    made.check()
    return made


# -- presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_preset_reaches_trl_by_both_doors(name: str, tmp_path: Path) -> None:
    by_settings = trainer_arguments(checked(objective=name, bf16=False), tmp_path)
    by_config = DoPRConfig(**settings(tmp_path, objective=name))
    for key, value in OBJECTIVES[name].settings.items():
        assert getattr(by_settings, key) == value, key
        assert getattr(by_config, key) == value, key
    assert by_settings.ibro_coefficient == OBJECTIVES[name].ibro_coefficient
    assert by_config.ibro_coefficient == OBJECTIVES[name].ibro_coefficient


def test_without_an_objective_nothing_changes(tmp_path: Path) -> None:
    plain = checked()
    assert (plain.loss_type, plain.scale_rewards, plain.trl) == ("dapo", "group", {})
    assert trainer_arguments(plain, tmp_path).epsilon_high is None


def test_what_is_set_beside_the_name_wins_and_is_named() -> None:
    made = checked(objective="dapo", scale_rewards="none", trl={"epsilon_high": 0.3})
    assert (made.loss_type, made.scale_rewards, made.trl["epsilon_high"]) == ("dapo", "none", 0.3)
    assert made.objective_departures == [
        "objective 'dapo' has scale_rewards 'group'; the setting 'none' wins",
        "objective 'dapo' has epsilon_high 0.28; the setting 0.3 wins",
    ]
    assert departures("grpo", {"scale_rewards": True}) == []


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"objective": "minrl"}, "did you mean 'minirl'?"),
        ({"objective": "cispo", "loss_type": "dapo"}, "in another sense"),
        ({"objective": "dapo", "loss_type": "cispo"}, "in another sense"),
        ({"objective": "ibro", "ibro_coefficient": -1.0}, "must be at least 0"),
        ({"ibro_schedule": "linaer"}, "did you mean 'linear'?"),
        (
            {"objective": "ibro", "ibro_schedule": "linear", "steps": None, "max_tokens": 9},
            "needs to know the end",
        ),
        ({"trl": {"ibro_coefficient": 1.0}}, "use `ibro_coefficient`"),
    ],
)
def test_mistakes_are_named_with_the_mend(mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(**mapping)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_trainers_own_config_refuses_them_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in another sense"):
        DoPRConfig(**settings(tmp_path, objective="dapo", loss_type="cispo"))
    with pytest.raises(UserError, match="did you mean 'gspo'"):
        DoPRConfig(**settings(tmp_path, objective="gsp"))
    kept = DoPRConfig(**settings(tmp_path, objective="dapo", epsilon_high=0.5))
    assert (kept.loss_type, kept.epsilon_high) == ("dapo", 0.5)


def test_print_config_shows_what_the_objective_sets(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--print-config", "--dataset=gym:chain_sum", "--steps=3"]
    assert cli.main([*common, "--objective=minirl", "--scale_rewards=group"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# objective 'minirl' has scale_rewards 'none'; the setting 'group' w")
    (cap,) = known_settings({"vllm_importance_sampling_clip_max": 5.0})
    assert "loss_type: dr_grpo" in shown and f"{cap}: 5.0" in shown


# -- a small model and a batch made by hand --------------------------------------------------

PROMPT, LENGTH = 3, 5


def make_trainer(folder: Path, **changes: Any) -> DoPRTrainer:
    return DoPRTrainer(
        make_model(),
        digits_reward,
        DoPRConfig(**settings(folder, optim="sgd", max_grad_norm=0.0, **changes)),
        make_dataset(),
        processing_class=make_tokenizer(),
    )


def make_batch(rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(rows, LENGTH, dtype=torch.long)
    mask[1, 3:] = 0
    mask[2, 2:] = 0
    return {
        "prompt_ids": torch.randint(3, 50, (rows, PROMPT), generator=generator),
        "prompt_mask": torch.ones(rows, PROMPT, dtype=torch.long),
        "completion_ids": torch.randint(3, 50, (rows, LENGTH), generator=generator),
        "completion_mask": mask,
        "advantages": torch.tensor([0.75, -0.25, -0.25, -0.25])[:rows],
        "num_items_in_batch": mask.sum(),
    }


def policy(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the completion's tokens and the entropies there, both (B, T)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    logp = torch.log_softmax(model(input_ids=ids).logits[:, PROMPT - 1 : -1].float(), dim=-1)
    chosen = logp.gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    return chosen, -(logp.exp() * logp).sum(-1)


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs]
    )


def trl_loss(trainer: DoPRTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._compute_loss(trainer.model, dict(batch))


# -- MiniRL ----------------------------------------------------------------------------------


def test_minirl_is_the_papers_gradient_with_a_stale_policy_and_another_engine(
    tmp_path: Path,
) -> None:
    """sum_t M_t sg[(pi / mu_old) A] grad log pi, the weight pi_old / mu_old truncated at 5."""
    trainer = make_trainer(tmp_path, objective="minirl", max_completion_length=LENGTH)
    assert trainer.vllm_importance_sampling_mode == "token_truncate"
    (cap,) = known_settings({"vllm_importance_sampling_clip_max": 5.0})
    assert getattr(trainer, cap) == 5.0
    batch = make_batch()
    logp, _ = policy(trainer.model, batch)
    generator = torch.Generator().manual_seed(7)
    stale = logp.detach() + 0.4 * torch.randn(logp.shape, generator=generator)
    engine = stale + 1.2 * torch.randn(logp.shape, generator=generator)
    # What TRL makes of vLLM's log-probabilities; vLLM itself is not needed for the loss.
    trainer.use_vllm = True
    batch["old_per_token_logps"] = stale
    batch["importance_sampling_ratio"] = (stale - engine).exp().clamp(max=5.0)

    advantage, mask = batch["advantages"].unsqueeze(1), batch["completion_mask"]
    ratio = (logp.detach() - stale).exp()
    outside = ((advantage > 0) & (ratio > 1.27)) | ((advantage < 0) & (ratio < 0.8))
    weight = ratio * (stale - engine).exp().clamp(max=5.0) * advantage
    objective = (~outside * weight * logp * mask).sum()
    assert 0 < int((outside & mask.bool()).sum()) < int(mask.sum())
    assert float((stale - engine).exp()[mask.bool()].max()) > 5.0
    expected = gradient(trainer.model, -objective)
    actual = gradient(trainer.model, trl_loss(trainer, batch))
    # TRL's constant divisor: rows times the longest completion.
    torch.testing.assert_close(actual * 4 * LENGTH, expected, atol=1e-5, rtol=1e-3)


def test_minirl_on_policy_with_one_engine_is_plain_reinforce(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, objective="minirl", max_completion_length=LENGTH)
    batch = make_batch()
    logp, _ = policy(trainer.model, batch)
    reinforce = -(batch["advantages"].unsqueeze(1) * logp * batch["completion_mask"]).sum()
    expected = gradient(trainer.model, reinforce)
    actual = gradient(trainer.model, trl_loss(trainer, batch))
    torch.testing.assert_close(actual * 4 * LENGTH, expected, atol=1e-5, rtol=1e-3)


# -- IBRO ------------------------------------------------------------------------------------


def test_ibro_term_by_hand() -> None:
    entropies = torch.tensor([[1.0, 2.0, 9.0], [0.5, 0.25, 0.25]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    advantages = torch.tensor([2.0, -1.0], requires_grad=True)
    value = ibro_term(entropies, advantages, mask, 5)
    assert value.item() == pytest.approx((2 * 3 - 1 * 1) / 5)
    value.backward()
    assert entropies.grad is not None and advantages.grad is None
    expected = torch.tensor([[0.4, 0.4, 0.0], [-0.2, -0.2, -0.2]])
    torch.testing.assert_close(entropies.grad, expected)
    per_token = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0]])
    torch.testing.assert_close(ibro_term(entropies, per_token, mask, 5), value)


@given(st.floats(0, 1), st.floats(0, 2))
def test_the_weight_of_ibro_fades_linearly_or_not_at_all(coefficient: float, done: float) -> None:
    assert ibro_weight(coefficient, "constant", done) == coefficient
    linear = ibro_weight(coefficient, "linear", done)
    assert linear == pytest.approx(coefficient * max(0.0, 1 - done))


@with_gradients
@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "grpo"])
def test_ibro_adds_the_gradient_of_the_weighted_entropies(tmp_path: Path, loss_type: str) -> None:
    common = {"loss_type": loss_type, "max_completion_length": LENGTH}
    batch = make_batch()
    plain = make_trainer(tmp_path / "a", **common)
    with_term = make_trainer(tmp_path / "b", ibro_coefficient=0.5, **common)
    _, entropies = policy(plain.model, batch)
    weighted = batch["advantages"].unsqueeze(1) * entropies * batch["completion_mask"]
    term = gradient(plain.model, -0.5 * weighted.sum() / batch["completion_mask"].sum())
    without = gradient(plain.model, trl_loss(plain, batch))
    found = gradient(with_term.model, trl_loss(with_term, batch))
    assert term.abs().max() > 1e-4
    torch.testing.assert_close(found, without + term, atol=1e-6, rtol=1e-3)


@with_gradients
def test_ibro_leaves_evaluation_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, ibro_coefficient=0.5, max_completion_length=LENGTH)
    plain = make_trainer(tmp_path, max_completion_length=LENGTH)
    losses = []
    for one in (trainer, plain):
        one.model.eval()
        losses.append(one._compute_loss(one.model, make_batch()).item())
    assert losses[0] == losses[1]


@with_gradients
@pytest.mark.parametrize("strategy", ["uniform", "dapo"])
def test_ibro_does_not_depend_on_how_the_step_is_cut(tmp_path: Path, strategy: str) -> None:
    """`uniform` trains on TRL's batch, `dapo` on micro-batches of our own cut."""
    results = []
    for rows, accumulation in [(16, 1), (4, 4)]:
        trainer = make_trainer(
            tmp_path / str(rows),
            objective="ibro",
            ibro_coefficient=2.0,
            strategy=strategy,
            strategy_args={"prompts_per_step": 4},
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
        )
        trainer.train()
        results.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in make_model().parameters()])
    assert (results[0] - start).abs().max() > 1e-4
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)


@with_gradients
def test_a_fading_term_is_logged_and_a_run_trains(tmp_path: Path, tiny_model_dir: Path) -> None:
    own = {"objective": "ibro", "ibro_coefficient": 0.4, "ibro_schedule": "linear"}
    assert train(*words(tmp_path, tiny_model_dir, **own)) == 0
    logged = [row["ibro/coefficient"] for row in rows_of(tmp_path / "run" / "metrics.jsonl")]
    assert logged == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_entropies_that_this_trl_does_not_give_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "ENTROPIES_HAVE_GRADIENT", False)
    monkeypatch.setattr(versions, "LIGER_HIDES_ENTROPIES", True)
    with pytest.raises(UserError, match=r"install trl 1\.16"):
        make_trainer(tmp_path, objective="ibro")
    with pytest.raises(UserError, match=r"install trl 1\.14"):
        versions.check_entropies(None, "zvp", use_liger=True)
    versions.check_entropies(0.0, "zvp", use_liger=False)


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'ibro'"):
        find_objective("ibr")

"""DoPRTrainer on a real tiny model: groups of any size, any number of rounds, any micro-batches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from dopr import DoPRConfig, DoPRTrainer, Request, Strategy, UserError, make_strategy
from dopr.engines.trl.checkpoints import is_whole, latest_checkpoint
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings
from training import TwoRounds, make_trainer, metrics, parameters


@dataclass
class Nothing(Strategy):
    """Pays for a group and trains on nothing."""

    name = "nothing"
    summary, source, mark = "test", "test", "I"

    def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
        yield [Request(0, 4)]
        return []


@dataclass
class Endless(Strategy):
    """Asks for ever."""

    name = "endless"
    summary, source, mark = "test", "test", "I"

    def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
        while True:
            yield [Request(0, 2)]


LOSSES = ["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo"]


@pytest.mark.parametrize("loss_type", LOSSES)
def test_gradient_does_not_depend_on_how_kept_rollouts_are_cut(
    tmp_path: Path, loss_type: str
) -> None:
    results = []
    for rows, accumulation in [(16, 1), (4, 4), (1, 16), (2, 8)]:
        trainer = make_trainer(
            tmp_path / str(rows),
            TwoRounds(),
            loss_type=loss_type,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            max_grad_norm=0.0,
            max_steps=1,
        )
        before = parameters(trainer)
        trainer.train()
        results.append(parameters(trainer) - before)
    assert results[0].abs().max() > 0
    for other in results[1:]:
        assert torch.allclose(results[0], other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_own_cut_gives_the_gradient_of_trls_own_batch(tmp_path: Path, loss_type: str) -> None:
    """Two prompts x 4 through TRL's path; the same rollouts in reverse through ours."""

    @dataclass
    class Reversed(Strategy):
        name = "reversed"
        summary, source, mark = "test", "test", "I"
        backwards: bool = False

        def step(self, prompts, ledger):  # type: ignore[no-untyped-def]
            groups = yield [Request(0, 4), Request(1, 4)]
            return groups[::-1] if self.backwards else groups

    results = []
    for backwards in (False, True):
        trainer = make_trainer(
            tmp_path / str(backwards),
            Reversed(backwards=backwards),
            loss_type=loss_type,
            optim="sgd",
            max_grad_norm=0.0,
            max_steps=1,
        )
        before = parameters(trainer)
        trainer.train()
        results.append(parameters(trainer) - before)
    assert results[0].abs().max() > 0
    assert torch.allclose(results[0], results[1], atol=1e-6, rtol=1e-4)


def test_every_rollout_is_counted_kept_or_not(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, TwoRounds(), max_steps=3)
    trainer.train()
    spent = trainer.driver.spent
    assert spent.rollouts == 3 * (5 + 3 + 4)
    assert spent.kept == 3 * (3 + 2 + 2)
    rows = metrics(tmp_path)
    assert [row["rollout/rollouts_total"] for row in rows] == [12, 24, 36]
    assert rows[-1]["rollout/generated_tokens_total"] == spent.generated_tokens
    assert int(trainer.driver.ledger.tokens.sum()) == spent.generated_tokens
    assert int(trainer.driver.ledger.rollouts.sum()) == spent.rollouts
    assert len(rows[0]["select/prompt_ids"]) == 3


def test_step_with_nothing_to_train_on_changes_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Nothing(), weight_decay=0.1, gradient_accumulation_steps=2)
    before = parameters(trainer)
    trainer.train()
    assert torch.equal(before, parameters(trainer))
    assert trainer.driver.spent.empty_steps == 4
    assert trainer.driver.spent.rollouts == 16


def test_run_without_any_reward_variance_ends_and_is_counted(tmp_path: Path) -> None:
    def always_right(completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    trainer = make_trainer(
        tmp_path, None, always_right, empty_update="skip", advantage_estimator="group"
    )
    before = parameters(trainer)
    trainer.train()
    assert trainer.driver.spent.empty_steps == 4
    assert torch.equal(before, parameters(trainer))
    assert metrics(tmp_path)[-1]["select/signal_rate"] == 0.0


def test_strategy_that_never_stops_asking_is_stopped(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, Endless(), max_rounds=3, max_steps=2)
    trainer.train()
    assert trainer.driver.spent.abandoned_steps == 2
    assert trainer.driver.spent.rollouts == 12


def test_unscorable_rewards_neither_stop_nor_poison_the_run(tmp_path: Path) -> None:
    def sometimes_none(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if i % 3 == 0 else float(i % 2) for i in range(len(completions))]

    trainer = make_trainer(tmp_path, TwoRounds(), sometimes_none)
    trainer.train()
    assert torch.isfinite(parameters(trainer)).all()
    assert np.isfinite(trainer.driver.ledger.mean).all()


def test_an_infinite_reward_is_refused(tmp_path: Path) -> None:
    def boundless(completions: list[str], **columns: Any) -> list[float]:
        return [float("inf"), *[0.0] * (len(completions) - 1)]

    with pytest.raises(UserError, match="a reward is infinite; give a finite number"):
        make_trainer(tmp_path, None, boundless).train()


def test_continuous_and_negative_rewards_train(tmp_path: Path) -> None:
    def length_reward(completions: list[str], **columns: Any) -> list[float]:
        return [-0.1 * len(completion) for completion in completions]

    trainer = make_trainer(tmp_path, None, length_reward, strategy_args={"candidates": 4})
    before = parameters(trainer)
    trainer.train()
    assert not torch.equal(before, parameters(trainer))
    assert trainer.driver.ledger.volatility("total").max() <= 4.0


def test_plain_grpo_config_gives_dopr_with_defaults(tmp_path: Path) -> None:
    trainer = DoPRTrainer(
        model=make_model(),
        reward_funcs=digits_reward,
        args=GRPOConfig(**settings(tmp_path)),
        train_dataset=make_dataset(),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    assert trainer.driver.strategy.name == "dopr"
    assert trainer.driver.spent.rollouts == 4 * 8  # two prompts of 4 fill the batch of 8


def test_chat_dataset_trains(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, dataset=make_dataset(chat=True))
    trainer.train()
    assert trainer.driver.spent.rollouts == 32


def test_choice_is_explained_in_the_metrics(tmp_path: Path) -> None:
    options = {"candidates": 8, "prompts_per_step": 1, "prior": "pool"}
    make_trainer(tmp_path, strategy_args=options).train()
    rows = metrics(tmp_path)
    assert rows[0]["select/volatility"] == 1.0  # nothing seen yet: a fair coin is assumed
    for row in rows:
        total = row["select/volatility"] + row["select/bonus"]
        assert row["select/score"] == pytest.approx(total, abs=1e-6)
        assert len(row["select/prompt_ids"]) == 1
    assert rows[-1]["select/coverage"] > 0


def test_entropies_of_the_training_pass_reach_the_ledger(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer._entropy_totals.flush(trainer.driver.ledger)
    ledger = trainer.driver.ledger
    visited = ledger.visits > 0
    assert np.isfinite(ledger.entropy[visited]).all() and np.isnan(ledger.entropy[~visited]).all()
    assert 0 < ledger.policy_entropy < np.log(60)


def test_lora_trains_only_the_adapter(tmp_path: Path) -> None:
    from peft import LoraConfig

    trainer = make_trainer(
        tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), max_steps=3
    )
    base = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(base[n], p)]
    assert changed and all("lora" in name for name in changed)


def test_completions_table_names_prompts_and_advantages(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        TwoRounds(),
        log_completions=True,
        num_completions_to_print=0,
        max_steps=1,
        per_device_train_batch_size=12,
    )
    trainer.train()
    table = pd.read_parquet(next((tmp_path / "completions").glob("*.parquet")))
    assert len(table) == 12
    assert set(table["prompt_id"]) <= set(trainer.prompt_names)
    assert (table["advantage"] == 0).sum() >= 5  # rollouts that were not kept


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    saving = {
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 6,
        "strategy_args": {"candidates": 5},
    }
    whole = make_trainer(tmp_path / "whole", **saving)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", **saving)
    folder = tmp_path / "whole" / "checkpoint-2"
    resumed.train(resume_from_checkpoint=str(folder))
    assert torch.equal(parameters(whole), parameters(resumed))
    times = ("step_time", "wall_s")
    later = [
        {k: v for k, v in r.items() if k not in times} for r in metrics(tmp_path / "whole")[2:]
    ]
    again = [{k: v for k, v in r.items() if k not in times} for r in metrics(tmp_path / "resumed")]
    assert later == again


def test_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    newest = tmp_path / "checkpoint-4"
    assert is_whole(newest) and latest_checkpoint(tmp_path) == newest
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert not is_whole(newest)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_checkpoint_of_another_strategy_or_pool_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=2).train()
    other = make_trainer(tmp_path / "b", strategy="uniform-1")
    with pytest.raises(UserError, match="made by strategy 'dopr'"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    prompts = [f"{i}-{i}=?" for i in range(10)]
    others = make_trainer(tmp_path / "c", dataset=Dataset.from_dict({"prompt": prompts}))
    with pytest.raises(UserError, match="none of the 10 prompts is among the 24"):
        others.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_checkpoint_of_more_prompts_is_gone_on_from_with_those_that_are_left(
    tmp_path: Path,
) -> None:
    first = make_trainer(tmp_path, save_strategy="steps", save_steps=2)
    first.train()
    left = [*range(20, 4, -2)]
    fewer = make_trainer(tmp_path / "b", max_steps=5, dataset=make_dataset().select(left))
    fewer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert fewer.state.global_step == 5 and len(fewer.driver.ledger.visits) == 8
    gained = fewer.driver.ledger.visits - first.driver.ledger.visits[left]
    assert gained.min() >= 0 and gained.sum() >= 1


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=1).train()
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert is_whole(tmp_path / "checkpoint-4")


def test_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        DoPRTrainer(
            make_model(),
            digits_reward,
            DoPRConfig(**settings(tmp_path)),
            Dataset.from_dict({"prompt": []}),
            processing_class=make_tokenizer(),
        )


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'dopr'"):
        make_trainer(tmp_path, strategy="dorp")
    with pytest.raises(UserError, match="did you mean 'candidates'"):
        make_trainer(tmp_path, strategy_args={"candidate": 3})
    with pytest.raises(UserError, match="candidates is 0"):
        make_trainer(tmp_path, strategy_args={"candidates": 0})
    with pytest.raises(UserError, match="did you mean 'leave_one_out'"):
        DoPRConfig(**settings(tmp_path), advantage_estimator="leave_one")


def test_own_strategy_is_loaded_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from dopr import Request, Strategy\n"
        "@dataclass\n"
        "class Mine(Strategy):\n"
        "    name, summary, source, mark = 'mine', 'first prompt', 'test', 'I'\n"
        "    def step(self, prompts, ledger):\n"
        "        return (yield [Request(0, self.num_generations)])\n"
    )
    own = make_strategy(f"{file}:Mine", num_generations=4)
    trainer = make_trainer(tmp_path / "run", own)
    trainer.train()
    assert trainer.driver.ledger.visits[0] == 4

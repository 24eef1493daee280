"""Datasets as users leave them: with a format, a transform, or replaced between two trainings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRTrainer, UserError
from dopr.engines.prompt_pool import as_shown, prompt_names
from tiny import digits_reward, make_dataset, make_model, make_tokenizer, settings
from training import make_trainer, metrics, parameters


def more(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"prompt": ["so " + prompt for prompt in batch["prompt"]]}


def with_more() -> Dataset:
    dataset: Dataset = make_dataset().add_column("id", [f"row {i}" for i in range(24)])
    return dataset.with_transform(more)


KEPT = {"answer", "id", "n"}
SHAPES = {
    "columns hidden": lambda: make_dataset().with_format(None, columns=["prompt"]),
    "transform": with_more,
    "pandas": lambda: make_dataset().with_format("pandas"),
    "torch": lambda: make_dataset().add_column("n", list(range(24))).with_format("torch"),
}


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rewards_get_what_trl_gives_them(tmp_path: Path, shape: str, strategy: str) -> None:
    seen: dict[str, dict[str, Any]] = {"dopr": {}, "trl": {}}

    def reward(into: str) -> Any:
        def score(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            rows = {k: v for k, v in columns.items() if isinstance(v, list) and k in KEPT}
            for i, prompt in enumerate(prompts):
                seen[into][prompt] = {k: (type(v[i]), str(v[i])) for k, v in rows.items()}
            return digits_reward(completions)

        return score

    made = make_trainer(
        tmp_path, reward=reward("dopr"), dataset=SHAPES[shape](), strategy=strategy, max_steps=8
    )
    made.train()
    assert made.driver.spent.rollouts == 64 and made.driver.spent.empty_steps < 8
    plain = GRPOTrainer(
        make_model(),
        reward("trl"),
        GRPOConfig(**settings(tmp_path / "trl", max_steps=12)),
        SHAPES[shape](),
        processing_class=make_tokenizer(),
    )
    plain.train()
    both = set(seen["dopr"]) & set(seen["trl"])
    assert both
    assert all(seen["dopr"][prompt] == seen["trl"][prompt] for prompt in both)


def test_a_transform_trains_as_in_trl_where_its_order_is_kept(tmp_path: Path) -> None:
    made = make_trainer(tmp_path / "a", strategy="uniform", dataset=with_more())
    made.train()
    plain = GRPOTrainer(
        make_model(),
        digits_reward,
        GRPOConfig(**settings(tmp_path / "b")),
        with_more(),
        processing_class=make_tokenizer(),
    )
    plain.train()
    assert torch.equal(
        parameters(made), torch.cat([p.detach().flatten() for p in plain.model.parameters()])
    )


def test_names_are_of_what_rows_show() -> None:
    raw = make_dataset(3).add_column("id", ["a", "b", "c"])
    hidden = raw.with_format(None, columns=["prompt", "answer"])
    assert prompt_names(as_shown(raw)) == ["a", "b", "c"]
    assert prompt_names(as_shown(hidden)) == prompt_names(make_dataset(3))
    made = raw.with_transform(more)
    assert as_shown(made)["prompt"][0] == "so " + raw["prompt"][0]
    assert as_shown(raw) is raw  # nothing is copied


def test_pictures_that_a_transform_makes_are_not_held() -> None:
    def drawn(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"prompt": batch["prompt"], "image": [object() for _ in batch["prompt"]]}

    assert as_shown(make_dataset(3).with_transform(drawn)).column_names == ["prompt"]


def test_a_loader_that_drops_the_numbers_of_rows_is_refused(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, strategy="uniform")
    made.data_collator = lambda rows: [{"prompt": row["prompt"]} for row in rows]
    with pytest.raises(UserError, match="numbers them"):
        made.train()


def test_rows_that_were_numbered_before_are_numbered_anew(tmp_path: Path) -> None:
    made = make_trainer(
        tmp_path, strategy="uniform", dataset=make_dataset().add_column("dopr_row", [0] * 24)
    )
    made.train()
    assert made.driver.ledger.coverage > 0.2


def chosen(folder: Path, steps: int) -> list[str]:
    return [name for row in metrics(folder)[-steps:] for name in row.get("select/prompt_ids", [])]


@pytest.mark.parametrize("strategy", ["dopr", "uniform"])
def test_a_replaced_dataset_is_chosen_from(tmp_path: Path, strategy: str) -> None:
    made = make_trainer(tmp_path, strategy=strategy, max_steps=3)
    made.train()
    before = made.driver.spent.rollouts
    made.train_dataset = Dataset.from_dict({"prompt": [f"{i}*{i}=?" for i in range(40)]})
    made.train()
    known = set(prompt_names(made.train_dataset))
    assert set(chosen(tmp_path, 3)) <= known
    assert made.driver.ledger.size == 40 and made.driver.spent.rollouts == 2 * before


def test_what_is_known_of_a_prompt_goes_with_it_into_another_dataset(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, max_steps=3)
    made.train()
    names, visits = list(made.prompt_names), made.driver.ledger.visits.copy()
    made.train_dataset = made.train_dataset.select(range(23, 3, -1))
    made.get_train_dataloader()
    moved = [names.index(name) for name in made.prompt_names]
    assert moved == list(range(23, 3, -1))
    assert made.driver.ledger.visits.tolist() == visits[moved].tolist()


def test_a_replaced_dataset_without_answers_is_refused_where_they_are_read(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, strategy_args={"answers": True})
    made.train_dataset = Dataset.from_dict({"prompt": ["1+1=?", "2+2=?"]})
    with pytest.raises(UserError, match="column 'answer'"):
        made.train()


def test_a_budget_is_of_each_training(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, max_steps=3, rollout_budget=24)
    made.train()
    made.train()
    rates = [row["learning_rate"] for row in made.state.log_history if "loss" in row]
    assert rates[0] == pytest.approx(1e-2) and rates == sorted(rates, reverse=True) and rates[1] > 0
    assert made.training_rollouts == 24 and made.driver.spent.rollouts == 48


def test_a_second_training_with_a_budget_is_resumed_where_it_stood(tmp_path: Path) -> None:
    def run(resume: bool) -> DoPRTrainer:
        made = make_trainer(tmp_path, max_steps=4, rollout_budget=32)
        if resume:
            made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
            return made
        made.train()
        made.args.save_strategy, made.args.save_steps = "steps", 2
        made.train()
        return made

    whole, resumed = parameters(run(False)), run(True)
    assert torch.equal(whole, parameters(resumed)) and resumed.training_rollouts == 32


def test_what_an_interrupted_round_named_is_forgotten(tmp_path: Path) -> None:
    calls: list[int] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return digits_reward(completions)

    made = make_trainer(
        tmp_path,
        reward=reward,
        log_completions=True,
        per_device_eval_batch_size=4,
        num_generations_eval=2,
    )
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made.evaluate(make_dataset(2))


def test_one_round_is_enough_for_a_strategy_that_measures_first(tmp_path: Path) -> None:
    made = make_trainer(tmp_path, max_rounds=1)
    made.train()
    spent = made.driver.spent
    assert spent.abandoned_steps == 0 and spent.rollouts == 32 and spent.measured_tokens > 0


def test_tensors_in_logs_are_written_as_numbers(tmp_path: Path) -> None:
    made = make_trainer(tmp_path)
    made.model.train()
    made.log({"loss": 1.0, "own": torch.tensor(0.5), "several": torch.tensor([1.0, float("nan")])})
    assert metrics(tmp_path)[-1]["own"] == 0.5
    assert metrics(tmp_path)[-1]["several"] == [1.0, None]

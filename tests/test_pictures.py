"""Prompts with pictures: each rollout keeps its own, however rounds are mixed and cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from dopr import DoPRConfig, DoPRTrainer
from dopr.core.strategy import Request, Strategy
from dopr.engines.trl import pictures, rollout_tensors
from dopr.engines.trl.rollout_tensors import Rows
from tiny import digits_reward, settings, untouched
from tiny_vlm import make_gemma, make_llava, make_pictures

Make = Callable[[], tuple[Any, Any]]
MODELS = [make_llava, make_gemma]


class Recording(DoPRTrainer):
    """Keeps every micro-batch that goes into the loss."""

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if not hasattr(self, "seen"):
            self.seen: list[dict[str, Any]] = []
        self.seen.append(inputs)
        return super()._compute_loss(model, inputs)


def train(
    make: Make, folder: Path, cls: Any = Recording, column: str = "image", **changes: Any
) -> Any:
    model, processor = make()
    trainer = cls(
        model,
        digits_reward,
        (GRPOConfig if cls is GRPOTrainer else DoPRConfig)(**settings(folder, **changes)),
        make_pictures(column=column),
        processing_class=processor,
    )
    trainer.train()
    return trainer


def shades(inputs: dict[str, Any]) -> list[float]:
    """The brightness of each picture of a micro-batch, 0 to 255, by the processors' own scale."""
    values = inputs["pixel_values"].flatten(1).mean(1)
    return [round(float(value), 3) for value in values]


def shade_of_row(make: Make) -> dict[int, float]:
    """What `shades` must give for each row of the pool."""
    _, processor = make()
    found = {}
    for i, image in enumerate(make_pictures()["image"]):
        values = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        found[i] = round(float(values.mean()), 3)
    return found


@pytest.mark.parametrize("make", MODELS)
def test_uniform_with_pictures_equals_plain_grpo(make: Make, tmp_path: Path) -> None:
    plain = train(make, tmp_path / "plain", GRPOTrainer)
    ours = train(make, tmp_path / "ours", strategy="uniform")
    pairs = zip(plain.model.parameters(), ours.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("strategy", ["dopr", "uniform", "ar3po"])
@pytest.mark.parametrize("make", MODELS)
def test_pictures_train_with_trl_defaults(make: Make, strategy: str, tmp_path: Path) -> None:
    trainer = train(make, tmp_path, strategy=strategy, max_steps=2, **untouched())
    assert trainer.args.bf16 and trainer.args.gradient_checkpointing
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert trainer.state.global_step == 2


# dapo mixes rounds and cuts rows off, ar3po trains on rollouts of earlier steps, pods keeps some.
@pytest.mark.parametrize("strategy", ["dopr", "dapo", "pods", "ar3po"])
@pytest.mark.parametrize("make", MODELS)
def test_every_rollout_is_trained_with_its_own_picture(
    make: Make, strategy: str, tmp_path: Path
) -> None:
    trainer = train(
        make,
        tmp_path,
        strategy=strategy,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    expected = shade_of_row(make)
    trained = [inputs for inputs in trainer.seen if "dopr_prompt" in inputs]
    assert trained
    for inputs in trained:
        rows = [int(i) for i in inputs["dopr_prompt"]]
        own = [(row, shade) for row, shade in zip(rows, shades(inputs), strict=True) if row >= 0]
        assert own == [(row, expected[row]) for row, _ in own]


class UnequalGroups(Strategy):
    """A group of three, then one of two of another prompt, in one round or two."""

    name, summary, source, mark = "unequal", "unequal groups", "test", "I"

    def step(self, prompts: Any, ledger: Any) -> Any:
        first, second = prompts.draw(2)
        groups = yield [Request(int(first), 3), Request(int(second), 2)]
        more = yield [Request(int(second), 3)]
        return [*groups, *more]


@pytest.mark.parametrize("make", MODELS)
def test_prompts_with_one_and_two_pictures_mix_in_unequal_groups(
    make: Make, tmp_path: Path
) -> None:
    model, processor = make()
    trainer = Recording(
        model,
        digits_reward,
        GRPOConfig(**settings(tmp_path, per_device_train_batch_size=4, max_steps=3)),
        make_pictures(column="images"),
        processing_class=processor,
        strategy=UnequalGroups(),
    )
    trainer.train()
    expected = shade_of_row(make)
    counts = set()
    for inputs in trainer.seen:
        if "dopr_prompt" not in inputs:
            continue
        rows = [int(i) for i in inputs["dopr_prompt"]]
        of_row = inputs["num_images"]
        assert [n for n, row in zip(of_row, rows, strict=True) if row >= 0] == [
            1 + row % 2 for row in rows if row >= 0
        ]
        shown = shades(inputs)
        owners = [row for row, n in zip(rows, of_row, strict=True) for _ in range(n)]
        pairs = [(row, shade) for row, shade in zip(owners, shown, strict=True) if row >= 0]
        assert pairs == [(row, expected[row]) for row, _ in pairs]
        counts |= set(of_row)
    assert counts == {1, 2}


def batch_of(prompt: int, completion: int, images: list[int], size: int) -> dict[str, Any]:
    """A round of one row for each of `images`, pictures of `size` numbers that name their row."""
    rows = len(images)
    batch: dict[str, Any] = {
        "prompt_ids": torch.full((rows, prompt), 5),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": torch.full((rows, completion), 7),
        "completion_mask": torch.ones(rows, completion, dtype=torch.long),
        "advantages": torch.zeros(rows),
        "num_items_in_batch": torch.tensor(rows * completion),
    }
    if any(images):
        kinds = torch.tensor([1] * prompt + [2] * completion)
        batch["token_type_ids"] = kinds.repeat(rows, 1)
        batch["pixel_values"] = [torch.full((n, size), float(n)) for n in images]
        batch["num_images"] = images
    return batch


def test_rounds_with_and_without_pictures_become_one_batch() -> None:
    small, large, none = batch_of(2, 3, [1, 2], 4), batch_of(1, 5, [1], 6), batch_of(3, 1, [0], 0)
    parts = [
        Rows(batch, torch.tensor(rows), torch.ones(len(rows)), prompt, blank=False)
        for prompt, (batch, rows) in enumerate([(none, [0]), (small, [1]), (large, [0])])
    ]
    joined = rollout_tensors.concatenate(parts, pad_token_id=0)
    assert joined["num_images"] == [0, 2, 1]
    assert [tuple(value.shape) for value in joined["pixel_values"]] == [(0, 6), (2, 6), (1, 6)]
    assert joined["pixel_values"][1].sum() == 2 * 4 * 2  # two pictures of four twos, then zeros
    # Three columns of prompt, five of completion: each row's own kinds, zeros around them.
    assert joined["token_type_ids"].tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 2, 2, 2, 0, 0],
        [0, 0, 1, 2, 2, 2, 2, 2],
    ]
    pieces = rollout_tensors.cut(joined, 3)
    assert [sorted(set(piece) & set(pictures.FIELDS)) for piece in pieces] == [
        [],  # nothing to see: the model must not be given an empty picture
        ["num_images", "pixel_values"],
        ["num_images", "pixel_values"],
    ]
    assert pieces[1]["token_type_ids"].tolist() == [[1, 1, 2, 2, 2]]


def test_pictures_survive_a_checkpoint() -> None:
    batch = batch_of(2, 3, [1, 2], 4)
    packed = rollout_tensors.pack(batch, slice(1, 2))
    restored = rollout_tensors.unpack(packed, torch.device("cpu"))
    assert restored["num_images"] == [2]
    assert torch.equal(restored["pixel_values"][0], torch.full((2, 4), 2.0))
    assert torch.equal(restored["token_type_ids"], batch["token_type_ids"][1:])


def test_a_completion_that_does_not_count_keeps_the_columns_of_its_pictures() -> None:
    batch = batch_of(2, 5, [1, 1], 4)
    batch["completion_mask"][0] = 0  # cut off by its length, and masked
    batch["completion_mask"][1, 2:] = 0
    assert rollout_tensors.trim(batch)["completion_ids"].size(1) == 5
    del batch["num_images"]
    assert rollout_tensors.trim(batch)["completion_ids"].size(1) == 2

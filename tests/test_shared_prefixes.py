"""The update with each prompt read once gives the losses and gradients of plain rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl import GRPOConfig

from dopr import DoPRConfig
from dopr.engines.trl import versions
from dopr.policy import shared_prefixes
from tiny import ALPHABET, SHAPE, make_model
from training import make_trainer, metrics, parameters

TOLERANCE = 1e-4
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
}
OTHERS: dict[str, Any] = {
    "sliding windows": MistralConfig(**SHAPE, sliding_window=8),
    "eager attention": LlamaConfig(**SHAPE, attn_implementation="eager"),
    "dropout": LlamaConfig(**SHAPE, attention_dropout=0.1),
    "another family": GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=32, n_layer=2, n_head=4, pad_token_id=0
    ),
}
# As (prompt, tokens of each of its completions): unequal ones, an empty one, a prompt of its own.
GROUPS = [(7, [6, 3, 1, 6]), (11, [5, 2, 0]), (4, [6])]


def build(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def rows(groups: list[tuple[int, list[int]]] = GROUPS, seed: int = 0) -> dict[str, torch.Tensor]:
    """A micro-batch as the loss is given it, its rows shuffled; ratios are far from 1."""
    random = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> torch.Tensor:
        return torch.randint(3, len(ALPHABET), (count,), generator=random)

    prompts, completions = [], []
    for length, kept in groups:
        prompt = tokens(length)
        prompts += [prompt] * len(kept)
        completions += [tokens(n) for n in kept]
    count = len(prompts)
    width, longest = max(map(len, completions)), max(map(len, prompts))
    inputs = {
        "prompt_ids": torch.zeros(count, longest, dtype=torch.long),
        "completion_ids": torch.zeros(count, width, dtype=torch.long),
    }
    inputs |= {name.replace("ids", "mask"): torch.zeros_like(x) for name, x in inputs.items()}
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        inputs["prompt_ids"][i, longest - len(prompt) :] = prompt
        inputs["prompt_mask"][i, longest - len(prompt) :] = 1
        inputs["completion_ids"][i, : len(completion)] = completion
        inputs["completion_mask"][i, : len(completion)] = 1
    noise = torch.randn(3, count, width, generator=random)
    inputs["advantages"] = torch.randn(count, generator=random)
    inputs["old_per_token_logps"] = -4 + 0.3 * noise[0]
    inputs["ref_per_token_logps"] = -4 + 0.3 * noise[1]
    inputs["importance_sampling_ratio"] = noise[0].exp().clamp(max=2)
    inputs["tool_mask"] = (noise[2] > -1).long()
    order = torch.randperm(count, generator=random)
    shuffled = {name: value[order] for name, value in inputs.items()}
    return shuffled | {"num_items_in_batch": inputs["completion_mask"].sum()}


@contextmanager
def counting() -> Iterator[list[bool]]:
    """Whether each try at packing gave a packed row."""
    usual, packed = shared_prefixes.pack, []

    def pack(*args: Any) -> Any:
        row = usual(*args)
        packed.append(row is not None)
        return row

    with patch.object(shared_prefixes, "pack", pack):
        yield packed


def loss_and_gradients(trainer: Any, inputs: dict[str, Any], share: bool) -> tuple[Any, Any]:
    trainer._settings.share_prefixes = share
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    with counting() as packed, trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, dict(inputs))
    assert packed == ([True] if share else [])
    trainer.accelerator.backward(loss)
    grads = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    return loss.detach(), grads


def make_ready(folder: Path, **changes: Any) -> Any:
    """A trainer whose adapters, if any, are no longer at zero."""
    trainer = make_trainer(folder, **changes)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return trainer


def assert_equal_to_rows(trainer: Any, tolerance: float = TOLERANCE) -> None:
    inputs = rows()
    loss, gradients = loss_and_gradients(trainer, inputs, share=True)
    expected, those_of_rows = loss_and_gradients(trainer, inputs, share=False)
    assert torch.allclose(loss, expected, rtol=tolerance, atol=tolerance)
    largest = max(float(g.abs().max()) for g in those_of_rows)
    assert largest > 1e-3 and len(gradients) == len(those_of_rows)
    for mine, theirs in zip(gradients, those_of_rows, strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=tolerance * max(largest, 1))


def known(*names: str) -> list[str]:
    """Of these losses, those that the installed TRL has."""
    text = str(GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    return [name for name in names if name in text]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(
    "loss", known("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo")
)
def test_every_loss_at_every_level(tmp_path: Path, loss: str, level: str) -> None:
    if loss == "luspo" and versions.LUSPO_COUNTS_PADDING:
        pytest.skip("rows count their padding in this TRL, and are kept")
    assert_equal_to_rows(make_ready(tmp_path, loss_type=loss, importance_sampling_level=level))


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.1},
        {"temperature": 0.7},
        {"top_entropy_quantile": 0.5},
        {"delta": 2.0},
        {"ibro_coefficient": 0.1},
        {"advantage_estimator": "zvp"},
        {"gradient_checkpointing": True},
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
        {"cast_lm_head_to_fp32": True},
        {"off_policy_mask_threshold": 0.5},
        {"entropy_coef": 0.1},
        {"use_bias_correction_kl": True, "beta": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_settings_of_the_update(
    tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any], adapters: bool
) -> None:
    if not set(changes) <= set(DoPRConfig.__dataclass_fields__):
        pytest.skip("not in this TRL")
    if "ibro_coefficient" in changes and not versions.ENTROPIES_HAVE_GRADIENT:
        pytest.skip("this TRL's entropies carry no gradient")
    peft = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=4)} if adapters else {}
    assert_equal_to_rows(make_ready(tmp_path, model=str(tiny_model_dir), **changes, **peft))


@pytest.mark.parametrize("loss", known("dapo", "vespo"))
def test_ratios_to_an_engine(tmp_path: Path, loss: str) -> None:
    trainer = make_ready(tmp_path, loss_type=loss)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    assert_equal_to_rows(trainer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["keeping", "checkpointing"])
def test_every_family(tmp_path: Path, family: str, checkpointing: bool) -> None:
    model = build(FAMILIES[family])
    assert_equal_to_rows(make_ready(tmp_path, model=model, gradient_checkpointing=checkpointing))


@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_under_autocast_the_difference_is_that_of_bfloat16(tmp_path: Path, adapters: bool) -> None:
    peft = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=4)} if adapters else {}
    trainer = make_ready(tmp_path, bf16=True, gradient_checkpointing=True, **peft)
    exact = make_ready(tmp_path, **peft)
    exact.model.load_state_dict(trainer.model.state_dict())
    inputs = rows()
    _, reference = loss_and_gradients(exact, inputs, share=False)
    errors = []
    for share in (True, False):
        _, found = loss_and_gradients(trainer, inputs, share)
        pairs = zip(found, reference, strict=True)
        errors.append(max(float((a - b).abs().max()) for a, b in pairs))
    assert 0 < errors[0] < 2 * errors[1]


@settings(deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 10),
)
def test_any_rows_that_are_packed_have_their_log_probabilities(
    groups: list[tuple[int, list[int]]], seed: int
) -> None:
    if not any(n for _, kept in groups for n in kept):
        groups = [*groups, (3, [2])]
    batch = rows(groups, seed)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].shape[1]
    row = shared_prefixes.pack(ids, mask, width)
    if row is None:  # only where there is little to save
        assert ids.shape[0] * ids.shape[1] * 0.9 < sum(n for n, _ in groups) + sum(
            max(n - 1, 0) for _, kept in groups for n in kept
        ) or len({tuple(p) for p in batch["prompt_ids"].tolist()}) == len(ids)
        return
    model = make_model()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        with shared_prefixes.reading(model, row):
            packed = model(input_ids=row.labels).logits
    expected = logits[:, -width - 1 : -1].log_softmax(-1)
    expected = expected.gather(2, batch["completion_ids"][..., None])[..., 0]
    found = packed[:, :-1].log_softmax(-1).gather(2, row.labels[:, 1:, None])[..., 0]
    counts = batch["completion_mask"]
    assert torch.allclose(row.as_rows(found), expected * counts, atol=1e-5)


def test_a_packed_row_holds_each_prompt_once_and_no_padding() -> None:
    batch = rows([(5, [4, 2, 3]), (3, [1, 4])])
    row = shared_prefixes.pack(
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        4,
    )
    assert row is not None
    # Prompts of 5 and 3 tokens; of each completion all but the last token are read.
    assert row.ids.shape == (1, 5 + 3 + 3 + 1 + 2 + 0 + 3)
    assert row.labels.shape == (1, 1 + 4 + 2 + 3 + 1 + 4)
    assert sorted(row.positions[0, :8].tolist()) == [0, 0, 1, 1, 2, 2, 3, 4]


def whole(width: int = 4, left: int = 6, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(3, 3 + left + width).repeat(count, 1)
    return ids, torch.ones_like(ids)


def test_what_would_not_pay_or_is_not_plain_stays_rows() -> None:
    ids, mask = whole()
    assert shared_prefixes.pack(ids, mask, 4) is not None
    different = ids.clone()
    different[:, 0] = torch.arange(4)
    assert shared_prefixes.pack(different, mask, 4) is None
    hole = mask.clone()
    hole[0, 8] = 0
    assert shared_prefixes.pack(ids, hole, 4) is None
    gap = mask.clone()
    gap[0, 2] = 0
    assert shared_prefixes.pack(ids, gap, 4) is None
    assert shared_prefixes.pack(ids, mask, ids.shape[1]) is None  # no prompt
    nothing = mask.clone()
    nothing[:, 6:] = 0
    assert shared_prefixes.pack(ids, nothing, 4) is None
    short_prompt, its_mask = whole(width=20, left=1)
    assert shared_prefixes.pack(short_prompt, its_mask, 20) is None


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_trained_by_rows(tmp_path: Path, name: str) -> None:
    with counting() as packed:
        trainer = make_trainer(tmp_path, model=build(OTHERS[name]), max_steps=1)
        trainer.train()
    assert packed == [] and trainer.state.global_step == 1


def test_adapters_with_dropout_are_trained_by_rows(tmp_path: Path) -> None:
    peft = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1)
    with counting() as packed:
        make_trainer(tmp_path, peft_config=peft, max_steps=1).train()
    assert packed == []


@pytest.mark.parametrize(
    ("strategy", "changes", "expected"),
    [
        ("dopr", {}, True),
        ("uniform-1", {}, True),
        ("uniform", {}, False),  # the loader's order promises TRL's own result
        ("dopr", {"share_prefixes": False}, False),
    ],
)
def test_who_shares_prompts(
    tmp_path: Path, strategy: str, changes: dict[str, Any], expected: bool
) -> None:
    with counting() as packed:
        make_trainer(tmp_path, strategy, max_steps=2, **changes).train()
    assert any(packed) == expected and bool(packed) == expected


def test_evaluation_reads_rows(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "dopr")
    trainer.model.eval()
    with counting() as packed:
        trainer.compute_loss(trainer.model, rows())
    assert packed == []


def test_a_run_learns_the_same_with_and_without(tmp_path: Path, tiny_model_dir: Path) -> None:
    def run(share: bool) -> Any:
        folder = tmp_path / str(share)
        settings = {"beta": 0.1, "num_iterations": 2, "max_steps": 4, "learning_rate": 1e-3}
        trainer = make_trainer(
            folder, "dopr", model=str(tiny_model_dir), share_prefixes=share, **settings
        )
        trainer.train()
        return parameters(trainer), metrics(folder)

    (mine, told), (theirs, expected) = run(True), run(False)
    assert not torch.equal(mine, parameters(make_trainer(tmp_path / "start")))
    assert torch.allclose(mine, theirs, atol=TOLERANCE)
    for a, b in zip(told, expected, strict=True):
        for name in ("kl", "entropy", "loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], abs=1e-3), name


def test_other_models_attend_as_before_once_a_packed_row_was_read(tmp_path: Path) -> None:
    model, ids = make_model(), torch.randint(3, 40, (2, 9))
    before = model(ids).logits
    make_trainer(tmp_path, "dopr", max_steps=1).train()
    assert torch.equal(before, model(ids).logits)


def test_gradients_are_the_same_every_time_on_several_threads(tmp_path: Path) -> None:
    trainer = make_ready(tmp_path)
    inputs = rows([(60, [40] * 24)])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, first = loss_and_gradients(trainer, inputs, share=True)
        for _ in range(20):
            _, again = loss_and_gradients(trainer, inputs, share=True)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_gpu_shares_prompts_where_that_saves_more_than_its_launches_take():
    def saved(hidden: int, intermediate: int, device: str) -> int:
        sizes = SimpleNamespace(hidden_size=hidden, intermediate_size=intermediate)
        return shared_prefixes.fewest_saved(
            SimpleNamespace(config=sizes, device=torch.device(device))
        )

    # 2 ms at 2e14 operations a second, 6 a parameter and token; 3,407,872 parameters a layer.
    assert saved(512, 1536, "cuda") == int(4e11 / (6 * 3_407_872)) == 19_562
    assert saved(4096, 11008, "cuda") < 400
    assert saved(512, 1536, "cpu") == 1


def test_rows_are_packed_only_where_enough_tokens_are_left_out():
    ids = torch.tensor([[5, 6, 7, 8, 9, 1], [5, 6, 7, 8, 2, 3]])
    mask = torch.ones_like(ids)
    assert shared_prefixes.pack(ids, mask, 2) is not None  # 4 + 2 tokens of 12
    assert shared_prefixes.pack(ids, mask, 2, fewest_saved=6) is not None
    assert shared_prefixes.pack(ids, mask, 2, fewest_saved=7) is None
    assert shared_prefixes.pack(ids[:, 3:], mask[:, 3:], 2) is not None  # 3 of 6

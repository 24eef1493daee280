"""Scores from all logits at once are those of TRL's tiles, and taken only where logits are few."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.trainer import utils

from dopr.engines.trl import versions
from dopr.policy import token_scores

tiles = pytest.mark.skipif(versions.TRL < (1, 16), reason="this TRL's loss has no such tiles")


def case() -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 6, generator=random), torch.randn(9, 6, generator=random)
    given = [hidden, weight, torch.randn(9, generator=random)]
    for tensor in given:
        tensor.requires_grad_()
    return (*given, torch.randint(9, (7,), generator=random))


def score(
    head: Any,
    given: tuple[Tensor, ...],
    outputs: Any = ("log_probs", "entropy"),
    softcap: float | None = None,
) -> Any:
    """As the loss calls it, at temperature 0.7 with logits scaled by 1.5."""
    hidden, weight, bias, targets = given
    return head.apply(hidden, weight, bias, targets, 0.7, 32768, softcap, 1.5, outputs)


def test_equal_logits_have_the_entropy_of_a_fair_die() -> None:
    hidden, weight = torch.randn(2, 5), torch.zeros(6, 5)
    scores, entropies = token_scores.token_scores(hidden, weight, None, torch.tensor([0, 5]), 1.0)
    assert torch.allclose(scores, torch.full((2,), -math.log(6)))
    assert torch.allclose(entropies, torch.full((2,), math.log(6)))


@tiles
def test_scores_and_gradients_are_those_of_the_tiles() -> None:
    found = []
    weights = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    for whole in (True, False):
        given = case()
        head = getattr(utils, versions._TILED_HEAD)
        with versions.whole_logits():
            used = getattr(utils, versions._TILED_HEAD)
            logps, entropies, *rest = score(used if whole else head, given)
        assert (used is not head) and rest == [None] * 3
        (weights[0] @ logps + weights[1] @ entropies).backward()
        found.append([logps, entropies, *(x.grad for x in given[:3])])
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@tiles
def test_the_tiles_are_put_back_after_an_error() -> None:
    usual = getattr(utils, versions._TILED_HEAD)
    with pytest.raises(ValueError), versions.whole_logits():
        assert getattr(utils, versions._TILED_HEAD) is not usual
        raise ValueError
    assert getattr(utils, versions._TILED_HEAD) is usual


@pytest.mark.parametrize(
    "reason", ["many", "half precision", "autocast", "other outputs", "softcap"]
)
def test_other_heads_are_left_to_the_tiles(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    calls: list[tuple[Any, ...]] = []

    class Tiles:
        @staticmethod
        def apply(*args: Any) -> str:
            calls.append(args)
            return "tiles"

    given, outputs = case(), ("log_probs", "entropy")
    if reason == "many":
        monkeypatch.setattr(token_scores, "_MOST_LOGITS", 7 * 9 - 1)
    elif reason == "half precision":
        given = (*(x.bfloat16() for x in given[:3]), given[3])
    elif reason == "other outputs":
        outputs = ("log_probs", "is_top1")
    softcap = 30.0 if reason == "softcap" else None
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert score(versions._Head(Tiles), given, outputs, softcap) == "tiles"
    assert len(calls) == 1


@tiles
def test_the_tiles_take_the_arguments_that_are_known_here() -> None:
    given = list(inspect.signature(getattr(utils, versions._TILED_HEAD).forward).parameters)
    assert given[1:] == [
        *("hidden", "weight", "bias", "targets", "temperature", "chunk_size"),
        *("final_logit_softcapping", "logit_scale", "outputs"),
    ]
    assert len(given) - 1 == versions._HEAD_ARGUMENTS

"""A saved reward model as a reward function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.rewards.extract import completion_text
from dopr.rewards.learned.model import RewardModel

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """What makes vectors."""

    def embed(self, prompts: Sequence[Any], responses: Sequence[str]) -> Vectors:
        """One vector a pair, shape (n, width).

        Args:
            prompts: n texts or chats.
            responses: n texts.
        """
        ...


def read_head(folder: str | Path) -> RewardModel:
    """The head that `dopr rewards fit` wrote into a folder.

    Raises:
        UserError: the folder holds no head, a damaged one, or a predictor of prompts.
    """
    head = RewardModel.load(Path(folder).expanduser())
    if head.reads != "response":
        raise UserError(
            f"the head in {str(folder)!r} reads prompts, not responses; fit a reward without "
            "--reads prompt"
        )
    return head


class EmbeddingReward:
    """A reward in [0, 1] from a frozen embedder and a fitted head, in TRL's signature.

    For `classify` and `boost` the chance that the response is good, for `bt` the chance that it
    beats the median response of the training pairs. It needs no reference, and it can be wrong: a
    policy that is trained on it will find where.

    Args:
        head: from `read_head`.
        embedder: what makes the vectors; the one that is named in the head.
    """

    def __init__(self, head: RewardModel, embedder: Embedder) -> None:
        self.__name__ = "embedding_reward"  # TRL names its metrics after this
        self._model, self._embedder = head, embedder

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion; never None."""
        texts = [completion_text(completion) for completion in completions]
        if not texts:
            return []
        vectors = self._embedder.embed(prompts, texts)
        return [float(value) for value in self._model.probability(vectors)]

"""A saved reward model as a reward function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dopr.embedding_rewards.embedder import Embedder, load_embedder
from dopr.embedding_rewards.model import RewardModel
from dopr.errors import UserError
from dopr.rewards.extract import completion_text


class EmbeddingReward:
    """A reward in [0, 1] from a frozen embedder and a fitted head, in TRL's signature.

    For `classify` and `boost` the chance that the response is good, for `bt` the chance that it
    beats the median response of the training pairs. It needs no reference, and it can be wrong: a
    policy that is trained on it will find where.

    Args:
        folder: what `dopr rewards fit` wrote.
        embedder: what makes the vectors; None loads the one named in head.json.

    Raises:
        UserError: the folder holds no head, a damaged one, or a predictor of prompts; the embedder
            cannot be loaded.
    """

    def __init__(self, folder: str | Path, embedder: Embedder | None = None) -> None:
        self.__name__ = "embedding_reward"  # TRL names its metrics after this
        self._model = RewardModel.load(Path(folder).expanduser())
        if self._model.reads != "response":
            raise UserError(
                f"the head in {str(folder)!r} reads prompts, not responses; fit a reward without "
                "--reads prompt"
            )
        self._embedder = embedder or load_embedder(self._model.embedder, dtype=self._model.dtype)

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

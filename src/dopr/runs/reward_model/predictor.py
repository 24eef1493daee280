"""Success rates of prompts before their first rollout, from their embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.policy.embedder import SENTENCE_PREFIX
from dopr.policy.measuring import read_prompts
from dopr.policy.models import best_device, load_model
from dopr.rewards.learned.heads import Array
from dopr.rewards.learned.model import RewardModel
from dopr.runs.reward_model.data import prompt_key


class SuccessPredictor:
    """A head fitted with `--reads prompt`, for strategies that know a prompt's embedding.

    It reads what a strategy gets for `Measure(ids, "embedding")` when the policy is the model it
    was fitted with; as the policy moves away from that model the vectors do too.

    Args:
        folder: what `dopr rewards fit` wrote.

    Raises:
        UserError: the folder holds no head, a damaged one, or one that reads responses.
    """

    def __init__(self, folder: str | Path) -> None:
        self._model = RewardModel.load(Path(folder).expanduser())
        if self._model.reads != "prompt":
            raise UserError(
                f"the head in {str(folder)!r} reads responses; fit one with --reads prompt"
            )

    def rates(self, embeddings: NDArray[Any]) -> Array:
        """Predicted success rates in [0, 1] of prompts, shape (k, width) to (k,).

        Raises:
            UserError: the embeddings have another width.
        """
        return self._model.probability(embeddings)


def embed_prompts(
    name: str,
    prompts: Sequence[Any],
    batch_size: int = 32,
    trust_remote_code: bool = False,
    dtype: str = "float32",
) -> NDArray[np.float64]:
    """Embeddings of prompts as a strategy gets them, shape (n, width); equal ones are read once.

    Args:
        name: of a causal language model.
        prompts: texts or chats.
        batch_size: prompts in a forward pass.
        trust_remote_code: run code that comes with the model.
        dtype: of its weights.

    Raises:
        UserError: the name is of another kind, or the model cannot be loaded.
    """
    if name.startswith(SENTENCE_PREFIX):
        raise UserError(
            f"embedder {name!r} cannot predict success, since strategies read the policy's own "
            "embeddings; name a causal language model"
        )
    model, tokenizer = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code)
    keys = [prompt_key(prompt) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    values, _ = read_prompts(
        model.to(best_device()), tokenizer, list(distinct.values()), "embedding", batch_size
    )
    place = {key: i for i, key in enumerate(distinct)}
    return values[[place[key] for key in keys]]

"""A reward model as it is saved: one head or several, and what they read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from dopr.core.errors import UserError
from dopr.core.files import write_atomically
from dopr.rewards.learned.heads import Array, Head, Perceptron
from dopr.rewards.learned.trees import Trees

HEAD_FILE = "head.safetensors"
FACTS_FILE = "head.json"
AGGREGATES = ("mean", "lowest")
READS = ("response", "prompt")
_FORMAT = 1


@dataclass(frozen=True)
class RewardModel:
    """Heads on the vectors of one embedder.

    Attributes:
        kind: `bt`, `classify` or `boost`.
        embedder: name of the model that makes the vectors.
        width: of a vector.
        members: one head, or those of an ensemble.
        aggregate: how an ensemble agrees: by the `mean` or the `lowest` of its members.
        reads: `response`, or `prompt` for a predictor of success.
        dtype: of the embedder's weights.
    """

    kind: str
    embedder: str
    width: int
    members: tuple[Head, ...]
    aggregate: str = "mean"
    reads: str = "response"
    dtype: str = "float32"

    def probability(self, vectors: NDArray[Any]) -> Array:
        """Rewards in [0, 1], shape (n, width) to (n,).

        For `classify` and `boost` the chance that the label is 1, for `bt` the chance to beat the
        median response of the training pairs.

        Raises:
            UserError: the vectors have another width.
        """
        self._check(vectors)
        return self._agreed([expit(head.logits(vectors)) for head in self.members])

    def pair_probability(self, first: NDArray[Any], second: NDArray[Any]) -> Array:
        """Chance that the first response of each pair is the better, (n, width) each to (n,).

        An ensemble's is the mean of its members', whatever `aggregate` says of rewards.
        """
        self._check(first)
        self._check(second)
        margins = [head.logits(first) - head.logits(second) for head in self.members]
        return np.asarray(np.mean([expit(margin) for margin in margins], axis=0))

    def _agreed(self, values: list[Array]) -> Array:
        reduce = np.mean if self.aggregate == "mean" else np.min
        return np.asarray(reduce(values, axis=0))

    def _check(self, vectors: NDArray[Any]) -> None:
        if vectors.shape[1] != self.width:
            raise UserError(
                f"the head reads embeddings of width {self.width} (of {self.embedder!r}), but "
                f"these have width {vectors.shape[1]}; use the embedder it was fitted with"
            )

    # -- on disk --------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write head.safetensors and head.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{number}.{name}": np.ascontiguousarray(value)
            for number, head in enumerate(self.members)
            for name, value in head.tensors().items()
        }
        save_file(tensors, folder / HEAD_FILE)
        facts = {
            "format": _FORMAT,
            "kind": self.kind,
            "embedder": self.embedder,
            "dtype": self.dtype,
            "width": self.width,
            "members": len(self.members),
            "aggregate": self.aggregate,
            "reads": self.reads,
        }
        write_atomically(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "RewardModel":
        """Read what `save` wrote.

        Raises:
            UserError: the folder holds no head, or a damaged one.
        """
        if not (folder / FACTS_FILE).is_file():
            raise UserError(
                f"{str(folder)!r} holds no {FACTS_FILE}; make it with `dopr rewards fit`"
            )
        try:
            facts = json.loads((folder / FACTS_FILE).read_text())
            stored = load_file(folder / HEAD_FILE)
            known = {name: facts[name] for name in ("kind", "embedder", "width", "dtype")}
            members = []
            for number in range(facts["members"]):
                own = {
                    name.partition(".")[2]: value
                    for name, value in stored.items()
                    if name.startswith(f"{number}.")
                }
                members.append(Trees.of(own) if facts["kind"] == "boost" else Perceptron.of(own))
            return cls(
                **known,
                members=tuple(members),
                aggregate=facts["aggregate"],
                reads=facts["reads"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            raise UserError(
                f"the head in {str(folder)!r} is damaged; fit it again with `dopr rewards fit`"
            ) from None

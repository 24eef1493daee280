"""Gradient-boosted trees: fitted by scikit-learn where it is installed, stored as plain arrays.

scikit-learn's own files are pickles, which run code when they are read; arrays do not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.rewards.learned.heads import Array, Tensors


@dataclass(frozen=True)
class Trees:
    """A sum of regression trees, whose nodes lie one after another in flat arrays.

    Attributes:
        roots: shape (trees,), the node each tree begins at.
        feature: shape (nodes,), the feature a node looks at; -1 marks a leaf.
        threshold: shape (nodes,); a value at or below it goes left.
        left, right: shape (nodes,), the next node.
        value: shape (nodes,), what a leaf adds to the score.
    """

    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Array
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Array

    def logits(self, vectors: NDArray[Any]) -> Array:
        """Scores of vectors, shape (n, width) to (n,)."""
        # The trees were grown on single precision, and compare in it.
        values = np.asarray(vectors, dtype=np.float32)
        rows = np.arange(len(values))
        total = np.zeros(len(values))
        for root in self.roots:
            node = np.full(len(values), root)
            while (inner := self.feature[node] >= 0).any():
                low = values[rows, np.maximum(self.feature[node], 0)] <= self.threshold[node]
                node = np.where(inner, np.where(low, self.left[node], self.right[node]), node)
            total += self.value[node]
        return total

    def tensors(self) -> Tensors:
        """What is stored."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of(cls, tensors: Tensors) -> "Trees":
        """From what is stored."""
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})


def fit_trees(vectors: NDArray[Any], labels: Array, seed: int = 0, trees: int = 100) -> Trees:
    """Gradient-boosted trees whose score is the log-odds of the label 1.

    Args:
        vectors: shape (n, width).
        labels: shape (n,), 0 or 1.
        seed: of the features that are looked at.
        trees: how many.

    Raises:
        UserError: scikit-learn is not installed, or the labels are all equal.

    Source: Reusing Embeddings [2502.04357, S], which names the method; the settings are
    scikit-learn's, with a random share of the features at each node.
    """
    try:
        from sklearn.ensemble import GradientBoostingClassifier
    except ImportError:
        raise UserError(
            "--head boost needs the package scikit-learn; install dopr[embeddings]"
        ) from None
    if labels.min() == labels.max():
        raise UserError("all labels are equal, so there is nothing to learn; add other rows")
    model = GradientBoostingClassifier(
        n_estimators=trees, max_features="sqrt", init="zero", random_state=seed
    )
    model.fit(np.asarray(vectors, dtype=np.float32), labels.astype(int))
    return _flatten([each.tree_ for each in model.estimators_[:, 0]], model.learning_rate)


def _flatten(grown: list[Any], rate: float) -> Trees:
    """scikit-learn's trees one after another, their children numbered over all of them."""
    starts = np.cumsum([0, *(tree.node_count for tree in grown[:-1])])
    leaf = np.concatenate([tree.children_left < 0 for tree in grown])
    left = [tree.children_left + start for tree, start in zip(grown, starts, strict=True)]
    right = [tree.children_right + start for tree, start in zip(grown, starts, strict=True)]
    return Trees(
        roots=starts.astype(np.int64),
        feature=np.where(leaf, -1, np.concatenate([tree.feature for tree in grown])),
        threshold=np.concatenate([tree.threshold for tree in grown]),
        left=np.where(leaf, 0, np.concatenate(left)),
        right=np.where(leaf, 0, np.concatenate(right)),
        value=rate * np.concatenate([tree.value[:, 0, 0] for tree in grown]),
    )

"""Small models on vectors: linear ones and multilayer perceptrons, for pairs or for labels.

They are trained in torch on the CPU and read in NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

Array = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]

SMALLEST_STD = 1e-6
_ADAM_STEPS = 400
_ADAM_RATE = 1e-2


class Head(Protocol):
    """What a saved reward model is made of."""

    def logits(self, vectors: NDArray[Any]) -> Array:
        """Log-odds, shape (n, width) to (n,)."""
        ...

    def tensors(self) -> Tensors:
        """What is stored."""
        ...


@dataclass(frozen=True)
class Optimisation:
    """How a head is trained.

    Args:
        hidden: width of the hidden layer; 0 makes the head linear.
        l2: weight of half the squared norm of the weights beside the mean loss.
        seed: of the first weights.
    """

    hidden: int = 0
    l2: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Perceptron:
    """Standardised vectors through one linear layer, or two with a ReLU between them.

    Attributes:
        mean, scale: shape (width,); a vector is read as (vector - mean) / scale.
        weights: a matrix a layer, of shape (out, in).
        biases: a vector a layer, of shape (out,).
    """

    mean: Array
    scale: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def logits(self, vectors: NDArray[Any]) -> Array:
        """Scores of vectors, shape (n, width) to (n,)."""
        values = (np.asarray(vectors, dtype=np.float64) - self.mean) / self.scale
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = (np.maximum(values, 0) if number else values) @ weight.T + bias
        found: Array = values[:, 0]
        return found

    def shifted(self, by: float) -> "Perceptron":
        """The same head with `by` added to every score."""
        return Perceptron(
            self.mean, self.scale, self.weights, (*self.biases[:-1], self.biases[-1] + by)
        )

    def tensors(self) -> Tensors:
        """What is stored."""
        layers = {f"weight{i}": value for i, value in enumerate(self.weights)}
        layers |= {f"bias{i}": value for i, value in enumerate(self.biases)}
        return {"mean": self.mean, "scale": self.scale} | layers

    @classmethod
    def of(cls, tensors: Tensors) -> "Perceptron":
        """From what is stored."""
        layers = range(sum(name.startswith("weight") for name in tensors))
        return cls(
            tensors["mean"],
            tensors["scale"],
            tuple(tensors[f"weight{i}"] for i in layers),
            tuple(tensors[f"bias{i}"] for i in layers),
        )


def fit_bradley_terry(better: NDArray[Any], worse: NDArray[Any], how: Optimisation) -> Perceptron:
    """A head under which the better response of a pair wins.

    The chance that a beats b is sigmoid(s_a - s_b); the mean negative log-likelihood of the pairs
    is minimised. Only differences count, so the scores are shifted to a median of 0: the logistic
    function of a score is then the chance against the median response of the training pairs.

    Args:
        better, worse: shape (pairs, width).
        how: see `Optimisation`.

    Source: Bradley and Terry 1952; heads on embeddings as in Reusing Embeddings [2502.04357, S].
    The shift is ours.
    """
    both = np.concatenate([better, worse])
    mean, scale = _standard(both)
    pairs = len(better)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return softplus(scores[pairs:] - scores[:pairs]).mean()

    head = _optimise(both, mean, scale, loss, how)
    return head.shifted(-float(np.median(head.logits(both))))


def fit_classifier(
    vectors: NDArray[Any], labels: Array, how: Optimisation, weights: Array | None = None
) -> Perceptron:
    """A head whose score is the log-odds of the label 1 (logistic regression where it is linear).

    Args:
        vectors: shape (n, width).
        labels: shape (n,), in [0, 1]; a share counts as that much of either label.
        how: see `Optimisation`.
        weights: shape (n,), how much each row counts; equal ones where not given.

    Source: classification heads as in Reusing Embeddings [2502.04357, S].
    """
    mean, scale = _standard(vectors)
    target = torch.tensor(labels, dtype=torch.float64)
    share = np.ones(len(labels)) if weights is None else weights
    factors = torch.tensor(share / share.mean(), dtype=torch.float64)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(scores, target, weight=factors)

    return _optimise(vectors, mean, scale, loss, how)


def _standard(vectors: NDArray[Any]) -> tuple[Array, Array]:
    """Mean and scale that give standardised vectors a squared norm of about 1 at any width."""
    values = np.asarray(vectors, dtype=np.float64)
    std = np.maximum(values.std(axis=0), SMALLEST_STD)
    return values.mean(axis=0), std * np.sqrt(values.shape[1])


def _optimise(
    vectors: NDArray[Any],
    mean: Array,
    scale: Array,
    loss: Callable[[torch.Tensor], torch.Tensor],
    how: Optimisation,
) -> Perceptron:
    inputs = torch.tensor((np.asarray(vectors, dtype=np.float64) - mean) / scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        network = _network(inputs.shape[1], how.hidden)
    layers = [module for module in network if isinstance(module, nn.Linear)]

    def objective() -> torch.Tensor:
        penalty = sum((layer.weight**2).sum() for layer in layers)
        value = loss(network(inputs).squeeze(-1)) + how.l2 / 2 * penalty
        network.zero_grad()
        value.backward()
        return value

    if how.hidden:
        adam = torch.optim.Adam(network.parameters(), lr=_ADAM_RATE)
        for _ in range(_ADAM_STEPS):
            objective()
            adam.step()
    else:
        newton = torch.optim.LBFGS(
            network.parameters(), max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
        )
        newton.step(objective)
    weights = tuple(layer.weight.detach().numpy() for layer in layers)
    return Perceptron(mean, scale, weights, tuple(layer.bias.detach().numpy() for layer in layers))


def _network(width: int, hidden: int) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Linear(width, 1, dtype=torch.float64))
    return nn.Sequential(
        nn.Linear(width, hidden, dtype=torch.float64),
        nn.ReLU(),
        nn.Linear(hidden, 1, dtype=torch.float64),
    )

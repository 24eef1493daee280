"""Success rates of prompts on a graph of likeness: groups that share a Beta posterior."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.strategies.parts.gaussian_process import squared_distances
from dopr.strategies.parts.one_thread import on_one_thread

Array = NDArray[np.float64]


@dataclass
class GraphRates:
    """Soft groups of prompts (q), held together by a graph, each with a Beta posterior (a, b).

    Any rule that wants success rates can use it: `observe` a step's outcomes, then ask `rates`.

    Source: graph estimator [2608.17941, V]: the text of its first version; no code. Not stated
    there and ours: `epsilon`, and when to stop iterating.

    Attributes:
        log_prior: log of the prior of each prompt's group, shape (size, groups).
        weights: of the graph, (size, size), an array or a sparse matrix.
        q: probabilities of the groups, shape (size, groups).
        a, b: of the groups' posteriors, shape (groups,).
        successes, trials: of each prompt in its whole history, shape (size,).
    """

    log_prior: Array
    weights: Any
    q: Array
    a: Array
    b: Array
    successes: Array
    trials: Array

    @on_one_thread
    def observe(
        self,
        successes: Array,
        trials: Array,
        coupling: float = 2.0,
        iterations: int = 50,
        tolerance: float = 1e-4,
    ) -> None:
        """Take in a step's outcomes: mean-field updates of q, then of a and b, from the last ones.

        Args:
            successes, trials: of this step, shape (size,), 0 where a prompt was not rolled out.
            coupling: beta, how strongly neighbours share a group.
            iterations: at most.
            tolerance: stop once no probability moves by more.
        """
        before_a, before_b = self.a, self.b
        failures = trials - successes
        seen = trials > 0
        for _ in range(iterations):
            both = digamma(self.a + self.b)
            logits = self.log_prior + coupling * (self.weights @ self.q)
            logits[seen] += np.outer(successes[seen], digamma(self.a) - both)
            logits[seen] += np.outer(failures[seen], digamma(self.b) - both)
            q = np.exp(logits - logits.max(axis=1, keepdims=True))
            q /= q.sum(axis=1, keepdims=True)
            moved = float(np.abs(q - self.q).max())
            self.q = q
            self.a = before_a + successes @ q
            self.b = before_b + failures @ q
            if moved < tolerance:
                break
        self.successes = self.successes + successes
        self.trials = self.trials + trials

    def model_rates(self) -> Array:
        """Success rates by the groups alone, shape (size,)."""
        return np.asarray(self.q @ (self.a / (self.a + self.b)))

    def rates(self) -> Array:
        """Half the groups', half the prompt's own history where there is one, shape (size,)."""
        model = self.model_rates()
        own = self.successes / np.maximum(self.trials, 1)
        return np.where(self.trials > 0, (model + own) / 2, model)

    def state(self) -> dict[str, Array]:
        """What the outcomes changed; graph and prior follow from the embeddings."""
        names = ("q", "a", "b", "successes", "trials")
        return {name: getattr(self, name) for name in names}


def start_rates(weights: Any, groups: NDArray[np.int64], epsilon: float = 0.1) -> GraphRates:
    """The estimator before the first outcome.

    Args:
        weights: of the graph, (size, size).
        groups: of each prompt by the graph alone, shape (size,), numbered from 0.
        epsilon: prior probability that a prompt belongs to another group than this.
    """
    size, number = len(groups), int(groups.max()) + 1
    prior = np.full((size, number), epsilon / max(number - 1, 1))
    prior[np.arange(size), groups] = 1 - epsilon if number > 1 else 1.0
    ones, zeros = np.ones(number), np.zeros(size)
    return GraphRates(np.log(prior), weights, prior, ones, ones, zeros, zeros)


@on_one_thread
def likeness_graph(unit: NDArray[np.float32], neighbours: int) -> Any:
    """Cosines above 0 between prompts that are each among the other's nearest, (size, size).

    A sparse matrix where SciPy is installed, else an array.

    Args:
        unit: embeddings of length 1, shape (size, width).
        neighbours: nearest ones of each prompt that count.
    """
    size = len(unit)
    count = min(neighbours, size - 1)
    if count < 1:
        return np.zeros((size, size))
    rows, columns, values = [], [], []
    for start in range(0, size, 1024):
        block = unit[start : start + 1024].astype(np.float64)
        cosines = block @ unit.T.astype(np.float64)
        cosines[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        near = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        rows.append(np.repeat(start + np.arange(len(block)), count))
        columns.append(near.ravel())
        values.append(np.take_along_axis(cosines, near, axis=1).ravel())
    found = np.maximum(np.concatenate(values), 0)
    places = (np.concatenate(rows), np.concatenate(columns))
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        dense = np.zeros((size, size))
        dense[places] = found
        return np.minimum(dense, dense.T)
    graph = csr_matrix((found, places), (size, size))
    return graph.minimum(graph.T).tocsr()


@on_one_thread
def spectral_groups(graph: Any, number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Groups of like prompts, shape (size,), by the graph's normalised Laplacian and k-means.

    Args:
        graph: symmetric weights, (size, size), an array or a sparse matrix.
        number: groups at most; none is empty, so there may be fewer.
        rng: places the first centres.
    """
    size = graph.shape[0]
    number = min(number, size)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = 1 / np.sqrt(np.maximum(degrees, 1e-12))
    vectors = _leading_vectors(graph, scale, number)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    places = vectors / np.where(lengths > 0, lengths, 1)
    centres = _spread_out(places, number, rng)
    labels = np.zeros(size, dtype=np.int64)
    for _ in range(20):
        labels = squared_distances(places, centres).argmin(axis=1)
        sums, sizes = np.zeros_like(centres), np.bincount(labels, minlength=number)
        np.add.at(sums, labels, places)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    return np.unique(labels, return_inverse=True)[1].reshape(size).astype(np.int64)


def _leading_vectors(graph: Any, scale: Array, number: int) -> Array:
    """Eigenvectors of the largest eigenvalues of scale * graph * scale, shape (size, number)."""
    size = len(scale)
    if not isinstance(graph, np.ndarray):
        if number < size // 3:
            from scipy.sparse import diags
            from scipy.sparse.linalg import eigsh

            smooth = diags(scale) @ graph @ diags(scale)
            vectors = eigsh(smooth, k=number, v0=np.ones(size), tol=1e-6)[1]
            return np.asarray(vectors, dtype=np.float64)
        graph = graph.toarray()
    return np.linalg.eigh(graph * scale[:, None] * scale)[1][:, -number:]


def digamma(values: Array) -> Array:
    """Derivative of the logarithm of the gamma function for values above 0, to about 1e-12."""
    x, shift = np.asarray(values, dtype=np.float64), np.zeros(np.shape(values))
    for _ in range(8):  # psi(x) = psi(x + 1) - 1 / x
        shift, x = shift - 1 / x, x + 1
    inverse = 1 / np.square(x)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))
    return np.asarray(shift + np.log(x) - 1 / (2 * x) - series)


def _spread_out(places: Array, number: int, rng: np.random.Generator) -> Array:
    """First centres of k-means, each far from the former ones with high probability (k-means++)."""
    chosen = [int(rng.integers(len(places)))]
    nearest = squared_distances(places, places[chosen]).ravel()
    while len(chosen) < number:
        total = nearest.sum()
        share = nearest / total if total > 0 else np.full(len(places), 1 / len(places))
        chosen.append(int(rng.choice(len(places), p=share)))
        nearest = np.minimum(nearest, squared_distances(places, places[chosen[-1:]]).ravel())
    return places[chosen]

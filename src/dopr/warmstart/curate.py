"""Which solutions to warm-start on: correct ones that cover the ways of reasoning.

Tailor [2511.12429, S] warm-starts on diverse reasoning primitives before reinforcement learning.
How it curates them was not available; this is a reconstruction: describe each correct solution's
pattern, cluster, and choose evenly over clusters, far apart inside each.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import pdist

from dopr.core.configuration import at_least, check_seeds
from dopr.core.errors import UserError, unknown_name
from dopr.core.strategy import RIGHT
from dopr.policy.embedder import embedding_reward
from dopr.rewards.extract import completion_text
from dopr.tasks.columns import PROMPTS
from dopr.tasks.sources import read_source
from dopr.warmstart.patterns import pattern_features, scaled

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

KEEPS = ("diverse", "narrow", "random")
METHODS = ("agglomerative", "kmeans")
_RESPONSES = ("response", "completion", "solution")
_VERDICTS = ("correct", "reward")
_RESTARTS = 5
_MOST_FOR_TREE = 8000  # agglomeration holds every pair of solutions in memory
_FOR_SPREAD = 500


@dataclass
class CurateSettings:
    """Which solutions to keep.

    Args:
        data: `.jsonl` or `.parquet` file with prompt, response, and `correct` or `reward`.
        size: solutions to keep.
        keep: `diverse` covers all clusters, `narrow` takes one, `random` looks at none.
        clusters: ways of reasoning to tell apart, at most.
        method: `kmeans` or `agglomerative` (Ward's).
        cluster: the one that `narrow` takes, 0 being the largest.
        reward: scores the responses where the file has no verdicts; 1 counts as correct.
        embedder: describe solutions by this model's embeddings instead of by their patterns.
        seed: of clusters and draws.
    """

    data: str
    size: int = 256
    keep: str = "diverse"
    clusters: int = 8
    method: str = "kmeans"
    cluster: int = 0
    reward: str | None = None
    embedder: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: naming the setting and the mend.
        """
        for name, known in (("keep", KEEPS), ("method", METHODS)):
            if getattr(self, name) not in known:
                raise unknown_name(f"curate.{name}", getattr(self, name), known)
        at_least(self, 1, "size", "clusters", where="curate.")
        at_least(self, 0, "cluster", where="curate.")
        check_seeds({"curate.seed": self.seed})


@dataclass(frozen=True)
class Solutions:
    """Correct solutions, each once.

    Attributes:
        prompts, responses: texts (prompts may be chats).
        total: how many there were before the wrong and the repeated ones were left out.
    """

    prompts: list[Any]
    responses: list[str]
    total: int


@dataclass(frozen=True)
class Curation:
    """What was chosen.

    Attributes:
        rows: `prompt` and `completion`, ready for supervised finetuning.
        figures: `solutions` read, `correct` ones, `clusters` (sizes, the largest first),
            `chosen` (of each cluster), `coverage` (share of clusters with a chosen solution),
            `spread` (mean distance between chosen ones over that between all), `prompts` (distinct
            ones).
    """

    rows: list[dict[str, Any]]
    figures: dict[str, Any]


def curate(config: CurateSettings) -> Curation:
    """Read, describe, cluster and choose.

    Raises:
        UserError: the file cannot be used, or holds too few correct solutions.
    """
    solutions = read_solutions(config.data, config.reward)
    if len(solutions.responses) < config.size:
        raise UserError(
            f"{config.data!r} holds {len(solutions.responses)} different correct solutions, fewer "
            f"than curate.size {config.size}; lower it or add solutions"
        )
    features = _describe(solutions, config.embedder)
    labels = find_clusters(features, config.clusters, config.method, config.seed)
    chosen = choose(features, labels, solutions.prompts, config)
    rows = [_row(solutions.prompts[i], solutions.responses[i]) for i in chosen]
    sizes, taken = np.bincount(labels), np.bincount(labels[chosen], minlength=labels.max() + 1)
    figures = {
        "solutions": solutions.total,
        "correct": len(labels),
        "clusters": sizes.tolist(),
        "chosen": taken.tolist(),
        "coverage": float((taken > 0).mean()),
        "spread": _spread(features[chosen], features, config.seed),
        "prompts": len({str(row["prompt"]) for row in rows}),
    }
    return Curation(rows, figures)


def _row(prompt: Any, response: str) -> dict[str, Any]:
    """For supervised finetuning, where a chat is answered by a message."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": response}
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": response}]}


# -- reading -----------------------------------------------------------------------------------


def read_solutions(source: str, reward: str | None = None) -> Solutions:
    """The correct solutions of a file, each once.

    Args:
        source: rows of prompt, response (or completion, or solution), and `correct` or `reward`;
            1 counts as correct.
        reward: name of a reward that scores them instead; it gets the other columns.

    Raises:
        UserError: a missing column, or no correct solution.
    """
    rows, _ = read_source(source, "train")
    names = list(dict.fromkeys(name for row in rows for name in row))
    prompt = _column(PROMPTS, names, source)
    response = _column(_RESPONSES, names, source)
    for number, row in enumerate(rows):
        if row.get(prompt) is None or row.get(response) is None:
            raise UserError(f"{source!r}, row {number + 1} lacks prompt or response; remove it")
    if reward is None:
        verdict = _column(_VERDICTS, names, source, " or name a reward with --curate.reward")
        values = [row.get(verdict) for row in rows]
    else:
        values = _score(rows, names, prompt, response, reward)
    found: dict[str, tuple[Any, str]] = {}
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        if not isinstance(value, int | float | None):
            raise UserError(f"{source!r}, row {number + 1}: verdict {value!r} is no number")
        if value is not None and value >= RIGHT:
            text = completion_text(row[response])
            found.setdefault(f"{row[prompt]}\0{text}", (row[prompt], text))
    if not found:
        raise UserError(f"{source!r} holds no correct solution; check its verdicts")
    prompts, responses = zip(*found.values(), strict=True)
    return Solutions(list(prompts), list(responses), len(rows))


def _column(wanted: Sequence[str], names: Sequence[str], source: str, mend: str = "") -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise UserError(
            f"{source!r} has no column {' or '.join(wanted)} (it has: {', '.join(names)}); "
            f"rename one{mend}"
        )
    return found


def _score(rows: Any, names: Any, prompt: str, response: str, reward: str) -> list[float | None]:
    from dopr.rewards import load_reward

    columns = {
        name: [row.get(name) for row in rows] for name in names if name not in (prompt, response)
    }
    score: Callable[..., list[float | None]] = load_reward(reward, embedding=embedding_reward)
    return score(
        prompts=[row[prompt] for row in rows],
        completions=[row[response] for row in rows],
        **columns,
    )


def _describe(solutions: Solutions, embedder: str | None) -> Array:
    if embedder is None:
        return pattern_features(solutions.responses)
    from dopr.policy.embedder import load_embedder

    found = load_embedder(embedder).embed(solutions.prompts, solutions.responses)
    return scaled(np.asarray(found, dtype=np.float64))


# -- clusters ------------------------------------------------------------------------------------


def find_clusters(features: Array, clusters: int, method: str = "kmeans", seed: int = 0) -> Ids:
    """Number of each row's cluster, shape (n,); 0 is the largest, and none is empty.

    Args:
        features: shape (n, width).
        clusters: at most so many; fewer where fewer rows differ.
        method: `kmeans` (the best of several starts) or `agglomerative` (Ward's).
        seed: of the starts.

    Raises:
        UserError: too many rows for `agglomerative`.
    """
    distinct = len(np.unique(features.round(9), axis=0))
    count = min(clusters, distinct)
    if count < 2:
        return np.zeros(len(features), dtype=np.int64)
    if method == "agglomerative":
        if len(features) > _MOST_FOR_TREE:
            raise UserError(
                f"agglomerative clustering of {len(features)} solutions needs too much memory; "
                "use --curate.method kmeans"
            )
        labels = fcluster(linkage(features, "ward"), count, criterion="maxclust") - 1
    else:
        labels = _kmeans(features, count, seed)
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[labels]


def _kmeans(features: Array, count: int, seed: int) -> Ids:
    best, least = np.zeros(len(features), dtype=np.int64), np.inf
    for start in range(_RESTARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster is dropped later
            centres, labels = kmeans2(features, count, minit="++", rng=seed * _RESTARTS + start)
        inertia = float(((features - centres[labels]) ** 2).sum())
        if inertia < least:
            best, least = labels.astype(np.int64), inertia
    return best


# -- choosing ------------------------------------------------------------------------------------


def choose(features: Array, labels: Ids, prompts: Sequence[Any], config: CurateSettings) -> Ids:
    """Row numbers of the solutions to keep, sorted, shape (size,).

    Args:
        features: shape (n, width).
        labels: shape (n,), each row's cluster.
        prompts: of length n.
        config: says how many and which.

    Raises:
        UserError: the one cluster of `narrow` does not exist or is too small.
    """
    keys = [str(prompt) for prompt in prompts]
    if config.keep == "random":
        rng = np.random.default_rng(config.seed)
        return np.sort(rng.choice(len(labels), config.size, replace=False))
    sizes = np.bincount(labels)
    if config.keep == "narrow":
        if config.cluster >= len(sizes) or sizes[config.cluster] < config.size:
            raise UserError(
                f"cluster {config.cluster} cannot give curate.size {config.size} solutions (sizes: "
                f"{', '.join(map(str, sizes))}); lower curate.size or curate.clusters"
            )
        quotas = np.zeros_like(sizes)
        quotas[config.cluster] = config.size
    else:
        quotas = equal_quotas(sizes, config.size)
    used: set[str] = set()
    chosen = []
    # Small clusters first: large ones can still find other prompts afterwards.
    for cluster in np.argsort(sizes, kind="stable"):
        rows = np.flatnonzero(labels == cluster)
        picks = farthest_points(features[rows], [keys[i] for i in rows], quotas[cluster], used)
        chosen.append(rows[picks])
    return np.sort(np.concatenate(chosen))


def equal_quotas(sizes: Ids, total: int) -> Ids:
    """Split `total` as evenly as the sizes allow; a cluster gives at most what it has.

    Args:
        sizes: shape (clusters,).
        total: at most their sum.
    """
    quotas = np.zeros_like(sizes)
    while (left := total - quotas.sum()) > 0:
        able = np.flatnonzero(quotas < sizes)
        if left < len(able):
            quotas[able[:left]] += 1
            break
        quotas[able] = np.minimum(sizes[able], quotas[able] + left // len(able))
    return quotas


def farthest_points(features: Array, prompts: Sequence[str], count: int, used: set[str]) -> Ids:
    """Rows that lie far from each other: first the one nearest the centre, then the farthest.

    A prompt that has a solution already comes after those that have none.

    Args:
        features: shape (n, width).
        prompts: of length n.
        count: how many to take, at most n.
        used: prompts taken so far; those taken here are added.
    """
    distance = -np.linalg.norm(features - features.mean(axis=0), axis=1)
    taken = np.zeros(len(features), dtype=bool)
    _, codes = np.unique(np.array(prompts), return_inverse=True)
    fresh = np.array([prompt not in used for prompt in prompts])
    chosen: list[int] = []
    for _ in range(count):
        able = np.flatnonzero(fresh if fresh.any() else ~taken)
        best = int(able[np.argmax(distance[able])])
        away = np.linalg.norm(features - features[best], axis=1)
        distance = np.minimum(distance, away) if chosen else away
        taken[best] = True
        used.add(prompts[best])
        fresh &= codes != codes[best]
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def _spread(chosen: Array, everything: Array, seed: int) -> float:
    """Mean distance between chosen rows over that between all, each from a sample."""
    rng = np.random.default_rng(seed)

    def mean(rows: Array) -> float:
        if len(rows) > _FOR_SPREAD:
            rows = rows[rng.choice(len(rows), _FOR_SPREAD, replace=False)]
        return float(pdist(rows).mean()) if len(rows) > 1 else 0.0

    whole = mean(everything)
    return mean(chosen) / whole if whole > 0 else 0.0

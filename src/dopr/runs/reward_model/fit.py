"""`dopr rewards fit`: embed once, fit small heads, measure them on held-out prompts, save one."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.configuration import at_least, check_seeds, to_mapping
from dopr.core.errors import UserError, unknown_name
from dopr.core.files import write_atomically
from dopr.policy.embedder import Embedder, load_embedder
from dopr.policy.models import DTYPES
from dopr.rewards.learned.heads import (
    Head,
    Optimisation,
    fit_bradley_terry,
    fit_classifier,
)
from dopr.rewards.learned.model import AGGREGATES, READS, RewardModel
from dopr.rewards.learned.trees import fit_trees
from dopr.runs.reward_model.data import prompt_key, read_data
from dopr.runs.reward_model.embedding_cache import embed_cached
from dopr.runs.reward_model.material import (
    Material,
    flip_labels,
    flip_pairs,
    make_material,
    split_prompts,
)
from dopr.runs.reward_model.measure import measure_prompts, measure_responses
from dopr.runs.reward_model.predictor import embed_prompts

KINDS = ("bt", "classify", "boost")
HEADS = (*KINDS, "ensemble")
REPORT_FILE = "report.json"


@dataclass
class FitSettings:
    """What `dopr rewards fit` knows.

    Args:
        data: `.jsonl`, `.json` or `.parquet` files, or run directories.
        output: folder for the head and the report.
        embedder: local folder, Hub id or `tiny-reasoner` of a causal language model, or
            `sentence-transformers:NAME`.
        head: `bt` (Bradley-Terry on pairs), `classify` (logistic on labels), `boost`
            (gradient-boosted trees on labels; needs scikit-learn) or `ensemble`.
        member: what an ensemble is made of.
        members: heads of an ensemble, each fitted to its own resample with its own seed.
        aggregate: an ensemble's reward: the `mean` or the `lowest` of its members'.
        reads: `response` makes a reward, `prompt` a predictor of prompts' success rates.
        noise: shares of training labels to flip, for the study in the report. The head that is
            saved is fitted to the labels as they are.
        reward_column: where the reward stands; null finds it.
        hidden: width of a head's hidden layer; 0 makes it linear.
        l2: weight of the squared norm of a head's weights.
        pairs_per_prompt: at most so many pairs of each prompt are made from rewards.
        held_out: share of the prompts that the figures are measured on.
        seed: of the split, the pairs, the noise and the first weights.
        cache: folder of the embeddings; null takes `embeddings` in `output`.
        batch_size: sequences in a forward pass of the embedder.
        dtype: of the embedder's weights.
        trust_remote_code: run code that comes with the embedder.
    """

    data: list[str]
    output: str
    embedder: str = "tiny-reasoner"
    head: str = "bt"
    member: str = "bt"
    members: int = 5
    aggregate: str = "mean"
    reads: str = "response"
    noise: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4])
    reward_column: str | None = None
    hidden: int = 0
    l2: float = 1e-3
    pairs_per_prompt: int = 10
    held_out: float = 0.25
    seed: int = 0
    cache: str | None = None
    batch_size: int = 32
    dtype: str = "float32"
    trust_remote_code: bool = False

    @property
    def kind(self) -> str:
        """What each head is: `bt`, `classify` or `boost`."""
        return self.member if self.head == "ensemble" else self.head

    def check(self) -> None:
        """Refuse what cannot be done, before anything is read.

        Raises:
            UserError: naming the setting and the mend.
        """
        choices = (
            ("head", HEADS),
            ("member", KINDS),
            ("aggregate", AGGREGATES),
            ("reads", READS),
            ("dtype", DTYPES),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        at_least(self, 1, "members", "pairs_per_prompt", "batch_size")
        at_least(self, 0, "hidden", "l2")
        check_seeds({"seed": self.seed})
        wrong = [share for share in self.noise if not 0 <= share < 0.5]
        if wrong:
            raise UserError(
                f"noise is {wrong[0]:g}; it must lie in [0, 0.5), since beyond one half the labels "
                "say the opposite"
            )
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out:g}; it must lie between 0 and 1")
        if self.reads == "prompt" and self.kind != "classify":
            raise UserError("reads is prompt; a predictor of success needs --head classify")


def fit_rewards(settings: FitSettings) -> dict[str, Any]:
    """Embed, fit, measure and save.

    Args:
        settings: see `FitSettings`.

    Returns:
        The report, which also stands in report.json: sizes, seconds, and for each share of `noise`
        the figures of `dopr.runs.reward_model.measure` on the held-out prompts.

    Raises:
        UserError: a wrong setting, or data that cannot be used.
    """
    settings.check()
    began = time.perf_counter()
    material, embedded = _material(settings)
    train_prompts, test_prompts = split_prompts(material.groups, settings.held_out, settings.seed)
    train, test = material.of_prompts(train_prompts), material.of_prompts(test_prompts)
    _check_training(train, settings)
    after_embedding = time.perf_counter()
    members = fit_members(train, settings, 0.0)
    fit_seconds = time.perf_counter() - after_embedding
    model = RewardModel(
        settings.kind,
        _lasting_name(settings.embedder),
        int(material.vectors.shape[1]),
        members,
        settings.aggregate,
        settings.reads,
        settings.dtype,
    )
    measure = measure_prompts if settings.reads == "prompt" else measure_responses
    figures = []
    for share in settings.noise:
        heads = members if share == 0 else fit_members(train, settings, share)
        figures.append({"noise": share} | measure(replace(model, members=heads), test))
    report = {
        "settings": to_mapping(settings),
        "width": model.width,
        "train": _sizes(train),
        "held_out": _sizes(test),
        "embedded": embedded,
        "seconds": {
            "embed": round(after_embedding - began, 3),
            "fit": round(fit_seconds, 3),
        },
        "noise": figures,
    }
    folder = Path(settings.output)
    model.save(folder)
    write_atomically(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    return report


def fit_members(train: Material, settings: FitSettings, noise: float) -> tuple[Head, ...]:
    """The head, or the heads of an ensemble, fitted to labels of which a share is flipped.

    Args:
        train: what to fit to.
        settings: see `FitSettings`.
        noise: the share, in [0, 0.5); the same flips for every head, as an annotator errs once.

    Source: ensembles as in Reusing Embeddings [2502.04357, S]; the resampling is ours, as linear
    heads would not differ by their seeds. The paper's code [V] draws noisy pairs from a
    Bradley-Terry model of the rewards' difference; the flat share here is ours.
    """
    if settings.head != "ensemble":
        return (_fit_one(train, settings, noise, None),)
    return tuple(_fit_one(train, settings, noise, number) for number in range(settings.members))


def _fit_one(train: Material, settings: FitSettings, noise: float, number: int | None) -> Head:
    rng = np.random.default_rng([settings.seed, 0 if number is None else number])
    how = Optimisation(settings.hidden, settings.l2, settings.seed + (number or 0))

    def drawn(rows: int) -> Any:
        return np.arange(rows) if number is None else rng.integers(0, rows, rows)

    if settings.kind == "bt":
        pairs = flip_pairs(train.pairs, noise, settings.seed)
        pairs = pairs[drawn(len(pairs))]
        return fit_bradley_terry(train.vectors[pairs[:, 0]], train.vectors[pairs[:, 1]], how)
    labels = flip_labels(train.labels, noise, settings.seed)
    if settings.reads == "prompt":
        shares, counts, vectors = replace(train, labels=labels).by_prompt()
        rows = drawn(len(shares))
        return fit_classifier(vectors[rows], shares[rows], how, counts[rows])
    rows = drawn(len(labels))
    if settings.kind == "boost":
        return fit_trees(train.vectors[rows], labels[rows], how.seed)
    return fit_classifier(train.vectors[rows], labels[rows], how)


def _material(settings: FitSettings) -> tuple[Material, int]:
    """The embedded data and how many vectors had to be computed."""
    data = read_data(settings.data, settings.reward_column)
    computed = 0

    def load() -> Embedder:
        return load_embedder(
            settings.embedder, settings.batch_size, settings.trust_remote_code, settings.dtype
        )

    def embed(prompts: Sequence[Any], responses: Sequence[str]) -> NDArray[Any]:
        nonlocal computed
        if settings.reads == "prompt":
            computed = len({prompt_key(prompt) for prompt in prompts})
            return embed_prompts(
                settings.embedder,
                prompts,
                settings.batch_size,
                settings.trust_remote_code,
                settings.dtype,
            )
        cache = Path(settings.cache or Path(settings.output) / "embeddings")
        vectors, computed = embed_cached(
            cache, settings.embedder, settings.dtype, load, prompts, responses
        )
        return vectors

    return make_material(data, embed, settings.pairs_per_prompt, settings.seed), computed


def _lasting_name(embedder: str) -> str:
    """A local folder as a whole path, so that the head can be used from anywhere."""
    folder = Path(embedder).expanduser()
    return str(folder.resolve()) if folder.is_dir() else embedder


def _check_training(train: Material, settings: FitSettings) -> None:
    if settings.kind == "bt" and not len(train.pairs):
        raise UserError(
            "no prompt to train on has responses of different rewards, so there are no pairs; use "
            "--head classify or add responses"
        )
    if settings.kind != "bt" and train.labels.min() == train.labels.max():
        raise UserError(
            "all labels of the prompts to train on are equal, so there is nothing to learn; add "
            "prompts or change --seed"
        )


def _sizes(part: Material) -> dict[str, int]:
    return {
        "prompts": len(np.unique(part.groups)),
        "responses": len(part.groups),
        "pairs": len(part.pairs),
    }

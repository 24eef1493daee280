"""LIMR: train on the prompts whose learning curves follow the mean curve of the pool."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopr.core.strategy import require
from dopr.strategies.parts.learning_curves import alignment_scores
from dopr.strategies.parts.prerun import PreRun


@dataclass
class LIMR(PreRun):
    """Learning impact measurement: keep the prompts with an alignment score above a threshold.

    The score is 1 for a prompt that learns exactly as the pool does on average. Where no prompt
    passes, the best one is kept; where none has a score, all are.

    Args:
        threshold: 0.6 in the source.
        history, history_group_size, prerun_epochs, prompts_per_step: see `PreRun`. The source's
            pre-run has 21 epochs.

    Source: LIMR [2502.11886; code GAIR-NLP/LIMR, V]; the pre-run inside the run and its 4 epochs I.
    """

    name = "limr"
    summary = "after a pre-run, the prompts whose learning curves follow the mean curve"
    source = "LIMR, arXiv 2502.11886"
    mark = "V"

    threshold: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.threshold < 1, f"threshold is {self.threshold}; no score lies above 1")
        self.read_history()

    def select(self, accuracies: NDArray[np.float64]) -> NDArray[np.int64]:
        scores = alignment_scores(accuracies)
        if np.isnan(scores).all():
            return np.arange(len(scores))
        passing = np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) > self.threshold)
        return passing if passing.size else np.array([int(np.nanargmax(scores))])

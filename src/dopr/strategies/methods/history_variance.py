"""History variance: train on the prompts whose accuracy varied most over a pre-run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopr.core.strategy import require
from dopr.strategies.parts.learning_curves import deviations, rank
from dopr.strategies.parts.prerun import PreRun


@dataclass
class HistoryVariance(PreRun):
    """Few-shot RLVR with the selection inside the run: the prompts of highest historical variance.

    Prompts are ranked by the standard deviation of their per-epoch mean accuracy. With `keep` 1 the
    rest of the run is 1-shot RLVR on the best one, repeated to fill each step.

    Args:
        keep: prompts trained on after the pre-run.
        history, history_group_size, prerun_epochs, prompts_per_step: see `PreRun`. The source's
            pre-run is 500 steps of 128 prompts over a pool of 1,209, some 53 epochs.

    Source: 1-shot RLVR [2504.20571, V]; the pre-run inside the run and its 4 epochs I.
    """

    name = "history-variance"
    summary = "after a pre-run, the prompts whose accuracy varied most between epochs"
    source = "1-shot RLVR, arXiv 2504.20571"
    mark = "V"

    keep: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.keep >= 1, f"keep is {self.keep}; it must be at least 1")
        require(
            self.history is not None or self.prerun_epochs >= 2,
            f"prerun_epochs is {self.prerun_epochs}; a variance between epochs needs at least 2",
        )
        self.read_history()

    def select(self, accuracies: NDArray[np.float64]) -> NDArray[np.int64]:
        return rank(deviations(accuracies))[: self.keep]

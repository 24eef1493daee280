"""PREPO: prompts from low to high perplexity, rollouts weighted by their entropy."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import unknown_name
from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, Measure, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import at_least_one, requests_for

REFERENCES = ("group", "batch")


@dataclass
class PREPO(Strategy):
    """A curriculum by prompt perplexity, with exploratory rollouts weighted up.

    Each step measures the perplexity of a batch of candidates under the policy, which costs a
    forward pass over the prompts and no rollout, sorts them, and takes K = `prompts_per_step`
    neighbours from place floor(rho (candidates - K)) on, rho the share of the run that is done:
    the lowest at the start, the highest at the end. The advantages of a rollout with mean token
    entropy H_i are multiplied by H_i over the batch's mean. The source divides no rollout's loss by
    its length: set `loss_type: dr_grpo`. Where the engine gives no entropies the weights stay 1.

    Args:
        candidates: prompts measured each step. 40 makes 8 of them the share, 20%, to which the
            source cuts its random baseline; its own batch is not known to us.
        prompts_per_step: how many of them are rolled out.
        schedule_steps: steps until the highest perplexities are reached; set it to the length of
            the run, which a strategy does not know.
        relative_to: mean(H) of the whole `batch` as in the source, or of the rollout's own `group`
            (ours: no prompt gains weight over another).

    Source: PREPO [2511.00794, T]: a third party's note on the full paper; no official code.
    """

    name = "prepo"
    summary = "prompts from low to high perplexity, rollouts weighted by their entropy"
    source = "PREPO, arXiv 2511.00794"
    mark = "T"
    measures = frozenset({"perplexity"})
    reads_entropies = True

    candidates: int = 40
    prompts_per_step: int = 8
    schedule_steps: int = 200
    relative_to: Literal["group", "batch"] = "batch"

    def __post_init__(self) -> None:
        require(
            1 <= self.prompts_per_step <= self.candidates,
            f"prompts_per_step is {self.prompts_per_step}; it must lie between 1 and candidates "
            f"({self.candidates})",
        )
        at_least_one(schedule_steps=self.schedule_steps)
        if self.relative_to not in REFERENCES:
            raise unknown_name("reference of the weights", str(self.relative_to), REFERENCES)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        candidates = prompts.draw(min(self.candidates, prompts.size))
        measured = yield Measure(tuple(candidates.tolist()), "perplexity")
        perplexities = np.asarray(measured, dtype=np.float64)
        chosen = self.choose(perplexities, ledger.step)
        self._explain(perplexities[chosen], ledger.step)
        groups = yield requests_for(candidates[chosen], self.num_generations)
        return weigh_by_entropy(groups, self.relative_to)

    def choose(self, perplexities: NDArray[np.float64], step: int) -> NDArray[np.int64]:
        """Positions of the neighbours in perplexity that are due, lowest first.

        Args:
            perplexities: of the candidates, shape (k,); those that are NaN count as highest.
            step: steps done so far.
        """
        order = np.argsort(perplexities, kind="stable")
        wanted = min(self.prompts_per_step, len(order))
        progress = min(step / self.schedule_steps, 1.0)
        start = int(progress * (len(order) - wanted) + 1e-9)
        return order[start : start + wanted]

    def _explain(self, perplexities: NDArray[np.float64], step: int) -> None:
        self._last = {"select/schedule": min(step / self.schedule_steps, 1.0)}
        known = perplexities[np.isfinite(perplexities)]
        if known.size:
            self._last["select/perplexity"] = float(known.mean())


def weigh_by_entropy(groups: list[Group], relative_to: str = "batch") -> list[Group]:
    """The groups with weights H_i / mean(H); groups without entropies stay as they are.

    A rollout whose entropy is unknown (NaN) has weight 1, and so have all where the mean is 0.

    Args:
        relative_to: the mean over the `group` or over the `batch`.
    """
    known = [g.entropies[~np.isnan(g.entropies)] for g in groups if g.entropies is not None]
    batch = np.concatenate(known) if known else np.empty(0)
    weighted = []
    for group in groups:
        if group.entropies is None:
            weighted.append(group)
            continue
        entropies = group.entropies
        reference = batch if relative_to == "batch" else entropies[~np.isnan(entropies)]
        mean = float(reference.mean()) if reference.size else 0.0
        relative = entropies / mean if mean > 0 else np.ones_like(entropies)
        weighted.append(replace(group, weights=np.nan_to_num(relative, nan=1.0)))
    return weighted

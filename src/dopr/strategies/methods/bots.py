"""BOTS: a Beta posterior per prompt from own and interpolated evidence, and Thompson draws."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopr.core.errors import UserError
from dopr.core.ledger import Ledger
from dopr.core.moves import per_prompt
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.strategies.parts.candidates import (
    at_least_one,
    in_unit_interval,
    nearest,
    requests_for,
    withheld_ids,
)
from dopr.strategies.parts.posterior import sized, success_rate

Array = NDArray[np.float64]


@dataclass
class BOTS(Strategy):
    """Of the whole pool the prompts whose drawn success rate is nearest to the target.

    Every prompt has the pass rates of a weak and of a strong reference model, made beforehand. From
    a step's groups follows where between the two the policy stands,

        c_step = (mean rate - mean weak) / (mean strong - mean weak + 1e-6)
        c <- 0.9 c + 0.1 c_step

    and so a rate for every prompt, weak + c (strong - weak), clipped to [0, 1]; that of a prompt
    just rolled out is the rate observed. After each step all posteriors move, with m rollouts a
    prompt and s successes (none of either where it was not rolled out):

        alpha <- (1 - fade) alpha + fade + (1 - share) s + share m rate

    and beta likewise. With share 0 this has the form of MoPPS.

    Args:
        prompts_per_step: B.
        references: JSON file, row -> [weak, strong] pass rates, for every row. None takes 0 and 1
            for all (ours: no reference models are needed): the interpolated rate is then the same
            for all prompts, the running mean of the steps.
        fade: lambda in [0, 1], how far a posterior falls back to Beta(1, 1) at each step.
        share: rho in [0, 1], weight of the interpolated evidence.
        target: success rate to be near to.
        tau: 0 takes the nearest; above 0 draws by softmax(-|p - target| / tau).
        thompson: draw p from the posterior; else take its mean.

    Source: BOTS [2510.26374; Trinity-RFT, difficulty_estimator.py, V], the values of its paper and
    of examples/bots. Left out: its option that halves rho where interpolation errs much.
    """

    name = "bots"
    summary = "posteriors from own and interpolated evidence, Thompson draws nearest to one half"
    source = "BOTS, arXiv 2510.26374"
    mark = "V"

    prompts_per_step: int = 8
    references: str | None = None
    fade: float = 0.1
    share: float = 0.1
    target: float = 0.5
    tau: float = 0.0
    thompson: bool = True
    _counts: Array = field(
        default_factory=lambda: np.empty((0, 2)), init=False, repr=False, metadata=per_prompt(1)
    )
    # Where the policy stands between the references; NaN before the first step.
    _place: float = field(default=float("nan"), init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step)
        in_unit_interval(fade=self.fade, share=self.share, target=self.target)
        require(self.tau >= 0, f"tau is {self.tau}; it must not be negative")
        self._read = None if self.references is None else read_references(self.references)

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        self._counts = sized(self._counts, prompts.size, 1.0)
        alpha, beta = self._counts.T
        rates = prompts.rng.beta(alpha, beta) if self.thompson else alpha / (alpha + beta)
        rates[withheld_ids(prompts, self.prompts_per_step)] = np.inf
        chosen = nearest(rates, self.target, self.prompts_per_step, prompts.rng, self.tau)
        self._last = {"select/expected_success": float((alpha / (alpha + beta))[chosen].mean())}
        groups = yield requests_for(chosen, self.num_generations)
        self._note(groups, ledger)
        return groups

    def _note(self, groups: list[Group], ledger: Ledger) -> None:
        scored = [group for group in groups if group.scored.size]
        if scored:
            ids = np.array([group.prompt_id for group in scored])
            self.update(ids, np.array([success_rate(group, ledger) for group in scored]))
            self._last["select/place"] = self._place

    def update(self, ids: NDArray[np.int64], observed: Array) -> None:
        """Move all posteriors by a step's success rates.

        Args:
            ids: prompts rolled out, shape (k,), each once.
            observed: their rates in [0, 1], shape (k,).
        """
        weak, strong = self._references(len(self._counts)).T
        gap = strong[ids].mean() - weak[ids].mean() + 1e-6
        place = float((observed.mean() - weak[ids].mean()) / gap)
        self._place = place if np.isnan(self._place) else 0.9 * self._place + 0.1 * place
        rates = np.clip(weak + (strong - weak) * self._place, 0, 1)
        rates[ids] = observed
        m = self.num_generations
        found = np.zeros_like(self._counts)
        found[ids] = m * np.column_stack([observed, 1 - observed])
        between = m * np.column_stack([rates, 1 - rates])
        faded = (1 - self.fade) * self._counts + self.fade
        self._counts = faded + (1 - self.share) * found + self.share * between

    def _references(self, size: int) -> Array:
        if self._read is None:
            return np.tile([0.0, 1.0], (size, 1))
        if len(self._read) != size:
            raise UserError(
                f"references holds {len(self._read)} rows and the pool {size}; give each row its "
                "two pass rates"
            )
        return self._read


def read_references(name: str) -> Array:
    """Weak and strong pass rates of all rows, shape (size, 2).

    Raises:
        UserError: no such file, or not a pair of rates for each of the rows 0, 1, 2, ...
    """
    path = Path(name).expanduser()
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        rows = [found[str(i)] for i in range(len(found))] if isinstance(found, dict) else found
        values = np.array(rows, dtype=np.float64).reshape(len(rows), 2)
    except OSError:
        raise UserError(f"cannot read the references {name!r}; give a JSON file") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"references {name!r} must hold [weak, strong] for each of the rows 0, 1, 2, ..."
        ) from None
    require(
        bool(((values >= 0) & (values <= 1)).all()),
        f"references {name!r} holds a rate outside [0, 1]",
    )
    return values

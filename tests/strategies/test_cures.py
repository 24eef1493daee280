"""CurES, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr.core.stream import PromptStream
from dopr.strategies import CurES
from pools import ledger_of


def test_cures_weighs_prompts_and_divides_rollouts_by_gradient_spread() -> None:
    # Beta(1, 1) posteriors after 8 rollouts: 5/10 and 1/10; spreads 0.5 and 0.3.
    ledger = ledger_of([0, 1] * 4, [0] * 8, discount=0.5)
    strategy = CurES(tau=0.1, prompts_per_step=2)
    plan = strategy.step(PromptStream(2), ledger)
    requests = {r.prompt_id: r.num_rollouts for r in next(plan)}
    assert requests == {0: 10, 1: 6}
    alone = CurES(tau=0.1, prompts_per_step=1)
    stream = PromptStream(2)
    firsts = [next(alone.step(stream, ledger))[0].prompt_id for _ in range(2000)]
    assert np.mean(firsts) == pytest.approx(1 / (1 + np.exp(2)), abs=0.03)

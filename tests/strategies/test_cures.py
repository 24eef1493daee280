"""CurES, against numbers worked out by hand."""

import numpy as np
import pytest

from dopr import Request
from dopr.core.driver import Driver
from dopr.core.stream import PromptStream
from dopr.strategies import CurES, Group
from pools import group


@pytest.mark.parametrize(
    ("right", "counts"),
    [
        ([0, 0, 1, 1, 2, 2, 3, 4], [0, 0, 12, 12, 14, 14, 12, 0]),
        ([0, 0, 1, 2, 3, 3, 1, 4], [0, 0, 12, 14, 12, 12, 12, 0]),
        ([0, 0, 1, 2, 3, 3, 2, 4], [0, 0, 12, 14, 12, 12, 14, 0]),
        ([0, 0, 1, 2, 2, 2, 2, 4], [0, 0, 11, 13, 13, 13, 13, 0]),
        ([0, 0, 0.5, 1, 2, 2.5, 3.5, 4], [0, 0, 10, 13, 15, 15, 10, 0]),
    ],
)
def test_cures_sizes_groups_as_the_official_rule(right: list[float], counts: list[int]) -> None:
    p = np.array(right) / 4
    assert CurES(keep_total=False).allocate(np.sqrt(p * (1 - p))).tolist() == counts
    # To spend the budget exactly, a size moves by one at most.
    repaired = CurES().allocate(np.sqrt(p * (1 - p)))
    assert repaired.sum() == 64 and np.abs(repaired - counts).max() <= 1


def test_cures_weights_of_the_official_sampler() -> None:
    counts = np.array([[k, 4] for k in range(5)], float)
    expected = [1.003734, 1.002360, 1.001668, 1.001179, 1.000746]
    assert np.exp(CurES().log_weights(counts)) == pytest.approx(expected, abs=1e-6)
    sharp = CurES(tau=0.1).log_weights(np.array([[4.0, 8.0], [0.0, 8.0]]))
    assert sharp == pytest.approx([5, 3])  # posteriors 1/2 and 1/10


def test_cures_pays_for_pilots_and_leaves_out_what_they_show_to_be_settled() -> None:
    strategy = CurES(prompts_per_step=3, num_generations=4, iteration_steps=2, min_rollouts=1)
    driver = Driver(strategy, PromptStream(6, 0))
    success = np.array([0, 0.5, 1, 0, 0.5, 1])
    first = driver.step(lambda asked: [even_split(r, success) for r in asked])
    pilots, trained = first.generated[:6], first.generated[6:]
    assert sorted(g.prompt_id for g in pilots) == list(range(6))
    assert {g.num_rollouts for g in pilots} == {4}
    second = driver.step(lambda asked: [even_split(r, success) for r in asked])
    trained += second.generated
    assert first.kept == first.generated[6:] and second.kept == second.generated
    assert {g.prompt_id for g in trained if success[g.prompt_id] == 0.5} == {1, 4}
    assert sum(g.num_rollouts for g in trained) == 2 * 3 * 4
    # The prompts are used up: the next step begins with pilots again.
    third = driver.step(lambda asked: [even_split(r, success) for r in asked])
    assert len(third.generated) > 6


def even_split(request: Request, success: np.ndarray) -> Group:
    n = request.num_rollouts
    right = round(n * success[request.prompt_id])
    return group(request.prompt_id, [1] * right + [0] * (n - right))

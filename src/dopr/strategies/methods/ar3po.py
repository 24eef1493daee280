"""Roll out until a right answer appears; where none does, reuse an earlier right answer."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dopr.core.ledger import Ledger
from dopr.core.strategy import Group, StepPlan, Strategy, require
from dopr.core.stream import PromptStream
from dopr.core.success_rates import to_unit
from dopr.strategies.parts.candidates import at_least_one, requests_for


@dataclass
class AR3PO(Strategy):
    """Stages of rollouts, further ones only for prompts without a right answer so far.

    Where a prompt has none after the last stage, a random right answer of the last step in which it
    had one takes the place of a random wrong one. In the paper's option II, reported best and the
    default, that answer gets no gradient: it only shapes the advantages of the others. In its
    option I (`train_reused`) it is trained on.

    Args:
        prompts_per_step: B.
        round_size: rollouts of a prompt in a stage. None takes half of num_generations.
        max_rounds: stages; with the defaults a prompt gets num_generations rollouts at most, and at
            least one in each stage.
        right_from: reward in [0, 1] from which an answer is right.
        memory: prompts whose right answers are remembered; 0 reuses nothing.
        train_reused: option I. The source computes the answer's log-probabilities anew under the
            present policy, so that its ratio starts at 1; here the driver supplies those under
            which it was sampled, so that ratio and clipping say how far the policy has moved.

    Source: AR3PO [2509.25808, T]: a third party's note. The sizes of its stages and of its memory
    are not known to us: these defaults agree with the 4 to 8 rollouts a prompt (5.7 at the end)
    that it reports.
    """

    name = "ar3po"
    summary = "rollouts until a right answer appears, else an earlier right answer is reused"
    source = "AR3PO, arXiv 2509.25808"
    mark = "T"
    pays = "post"
    replays = True

    prompts_per_step: int = 8
    round_size: int | None = None
    max_rounds: int = 2
    right_from: float = 0.5
    memory: int = 512
    train_reused: bool = False
    _right: dict[str, Group] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(prompts_per_step=self.prompts_per_step, max_rounds=self.max_rounds)
        if self.round_size is not None:
            at_least_one(round_size=self.round_size)
        require(0 < self.right_from <= 1, f"right_from is {self.right_from}; it must lie in (0, 1]")
        require(self.memory >= 0, f"memory is {self.memory}; it must not be negative")

    def step(self, prompts: PromptStream, ledger: Ledger) -> StepPlan:
        chosen = prompts.draw(min(self.prompts_per_step, prompts.size)).tolist()
        size = self.round_size or max(1, self.num_generations // 2)
        pooled: dict[int, Group] = {}
        active = chosen
        for _ in range(self.max_rounds):
            for group in (yield requests_for(active, size)):
                i = group.prompt_id
                pooled[i] = pooled[i].join(group) if i in pooled else group
            active = [i for i in active if not len(self._right_ones(pooled[i], ledger))]
            if not active:
                break
        reused = 0
        for i in active:
            earlier = self._right.get(str(i))
            if earlier is None or not pooled[i].scored.size:
                continue
            right = self._right_ones(earlier, ledger)
            if len(right):
                answer = int(prompts.rng.choice(right))
                wrong = int(prompts.rng.choice(np.flatnonzero(~np.isnan(pooled[i].rewards))))
                pooled[i] = reuse(pooled[i], wrong, earlier, answer, self.train_reused)
                reused += 1
        self._remember([pooled[i] for i in chosen if i not in active])
        self._last = {
            "select/solved_share": 1 - len(active) / len(chosen),
            "select/reused_answers": float(reused),
        }
        return [pooled[i] for i in chosen]

    def _right_ones(self, group: Group, ledger: Ledger) -> NDArray[np.int64]:
        return np.flatnonzero(to_unit(group.rewards, ledger) >= self.right_from)

    def _remember(self, solved: list[Group]) -> None:
        for group in solved:
            # Taken out first, so that the oldest memory is always at the front.
            self._right.pop(str(group.prompt_id), None)
            self._right[str(group.prompt_id)] = group
        while len(self._right) > self.memory:
            del self._right[next(iter(self._right))]


def reuse(group: Group, wrong: int, earlier: Group, answer: int, train: bool) -> Group:
    """The group with one of its rollouts replaced by one of an earlier group of the same prompt.

    Mean and standard deviation of the advantages are those of the rollouts after the exchange.

    Args:
        group: this step's rollouts.
        wrong: the rollout that is replaced.
        earlier: holds the answer that replaces it.
        answer: which of its rollouts.
        train: train on the answer too; else on the others alone.
    """
    others = np.delete(np.arange(group.num_rollouts), wrong)
    rewards = np.append(earlier.rewards[answer], group.rewards[others])
    rewards = rewards[~np.isnan(rewards)]
    std = float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
    if not train:
        return replace(group.keep(others), baseline=float(rewards.mean()), std=std)
    # Joined whole, since they are stored together; only one of the earlier ones is kept.
    joined = earlier.join(group)
    kept = np.append(answer, earlier.num_rollouts + others)
    return replace(joined.keep(kept), baseline=float(rewards.mean()), std=std)

"""What comes of a step, and what a run has spent."""

from dataclasses import dataclass, field

from dopr.core.strategy import Group

SURPRISE = 0.25  # of the expected standard deviation: an eighth of the way from wrong to right


@dataclass
class Spent:
    """Totals since the start of the run; every generated rollout counts, kept or not."""

    rollouts: int = 0  # those of a pre-run that the strategy rests on included
    generated_tokens: int = 0
    kept: int = 0
    measured_tokens: int = 0  # tokens read to answer a `Measure`
    groups: int = 0
    informative_groups: int = 0
    empty_steps: int = 0  # steps whose kept groups had no reward variance at all
    abandoned_steps: int = 0  # steps in which the strategy had to be stopped
    asked_again: int = 0  # rollouts that were lost on their way and asked for once more
    lost_rollouts: int = 0  # asked for, never come, and given up; no other number counts them
    surplus_rollouts: int = 0  # of `rollouts`, those that came when nobody waited for them any more
    plain_steps: int = 0  # steps in flight that the strategy could not go on with after a restart
    dropped_steps: int = 0  # steps in flight that were given up as a whole

    @property
    def tokens(self) -> int:
        """Generated, and read to choose by."""
        return self.generated_tokens + self.measured_tokens


@dataclass
class StepOutcome:
    """One step as it went: the groups to train on and all that was generated for them.

    Attributes:
        kept: to train on.
        generated: every group that was generated.
        step: number of the step, from 0, in the order in which steps were begun.
        metrics: what the strategy said of this step's choice; None where it is still the last one
            that it made, and says so itself.
    """

    kept: list[Group]
    generated: list[Group] = field(default_factory=list)
    step: int = 0
    metrics: dict[str, float] | None = None

    @property
    def signal_rate(self) -> float:
        """Share of the generated groups that carry a signal; NaN if none was generated.

        That is reward variance, and for a single rollout of whose prompt something was expected, a
        surprise.
        """
        if not self.generated:
            return float("nan")
        surprising = {group.prompt_id for group in self.kept if _surprises(group)}
        carry = sum(g.informative or g.prompt_id in surprising for g in self.generated)
        return carry / len(self.generated)


def _surprises(group: Group) -> bool:
    """Whether a single rollout's reward is far from what was expected."""
    if len(group.scored) != 1 or group.expected_mean is None or group.expected_std is None:
        return False
    return abs(group.mean - group.expected_mean) > SURPRISE * group.expected_std

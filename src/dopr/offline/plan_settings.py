"""What a plan is made for."""

from dataclasses import dataclass

from dopr.core.configuration import above_zero, at_least, check_seeds
from dopr.core.errors import UserError
from dopr.offline.bounds import check_rate
from dopr.offline.pool_rates import PoolRates


@dataclass
class PlanSettings:
    """Options of a plan.

    Args:
        target: mean success rate to reach; None: halfway from the pool's rate to 1.
        group_size: G, rollouts in a group.
        groups_per_update: B, informative groups that make a full update.
        pool_size: prompts; None: those of the history or task, or 512 where only a rate is given.
        price: of 1000 rollouts, in any currency; None leaves prices out.
        delta: chance of failing that the bounds may take.
        kl: divergence of a full update from the policy before it, in nats a prompt.
        beta: weight of a KL penalty, for the bound on improvement.
        margin: gamma of the base-model barrier.
        discount: lambda of the discounted estimator.
        max_tokens: tokens a completion may have; None leaves the relative budget out.
        solution_tokens: expected tokens to the first right solution; None: as measured.
        coverability: of the decision process; None leaves the outcome-based bound out.
        horizon: decisions in a trajectory; as above.
        simulations: pools that the costs are simulated on.
        seed: of the draws.
    """

    target: float | None = None
    group_size: int = 8
    groups_per_update: int = 8
    pool_size: int | None = None
    price: float | None = None
    delta: float = 0.1
    kl: float = 0.02
    beta: float = 0.04
    margin: float = 1.0
    discount: float = 0.5
    max_tokens: int | None = None
    solution_tokens: float | None = None
    coverability: float | None = None
    horizon: float | None = None
    simulations: int = 32
    seed: int = 0

    def check(self) -> None:
        """Refuse what no plan can be made for.

        Raises:
            UserError: naming the setting and its limit.
        """
        at_least(self, 2, "group_size")
        at_least(self, 1, "groups_per_update", "pool_size", "simulations", "max_tokens")
        check_rate("delta", self.delta)
        if self.target is not None:
            check_rate("target", self.target)
        above_zero(self, "kl", "beta", "margin", "solution_tokens", "coverability", "horizon")
        at_least(self, 0, "price")
        check_seeds({"seed": self.seed})
        if not 0 <= self.discount <= 1:
            raise UserError(f"discount is {self.discount:g}; it must lie between 0 and 1")

    def resolved_target(self, pool: PoolRates) -> float:
        """The target, checked against the pool.

        Raises:
            UserError: the pool is there already.
        """
        target = (1 + pool.mean) / 2 if self.target is None else self.target
        if target <= pool.mean:
            raise UserError(
                f"the target {target:g} is not above the pass rate {pool.mean:.3g}; aim higher"
            )
        return target

    def resolved_size(self, pool: PoolRates) -> int:
        """Prompts in the pool.

        Raises:
            UserError: fewer than an update holds.
        """
        measured = 512 if pool.known is not None else pool.population or pool.size
        size = self.pool_size or measured
        if size < self.groups_per_update:
            raise UserError(
                f"a pool of {size} prompts cannot fill updates of {self.groups_per_update} groups; "
                "give a larger --pool-size or fewer --groups-per-update"
            )
        return size

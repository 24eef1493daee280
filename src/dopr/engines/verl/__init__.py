"""verl's v1 trainers with a strategy choosing what to roll out.

    VERL_USE_EXTERNAL_MODULES=dopr.engines.verl \\
        python -m verl.trainer.main_ppo ... +dopr.strategy=dopr +dopr.strategy_args.candidates=64

Importing this package puts its trainers in the place of verl's own in verl's registry. Nothing else
in `dopr` touches verl's private methods: they are wrapped by `super()`, none is copied, and
tests/with_verl/test_contract.py fails when one of them moves.
"""

try:
    import transfer_queue  # noqa: F401  (what lacks is to be told here)
    import verl
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
except ImportError as error:
    raise ImportError(
        f"dopr.engines.verl needs verl 0.9 with its v1 trainer ({error}); "
        "pip install verl==0.9.1 TransferQueue cachetools uvicorn fastapi"
    ) from error

from dopr.engines.verl.asynchronous import DoPRTrainerColocateAsync, DoPRTrainerSeparateAsync
from dopr.engines.verl.choosing import check_config
from dopr.engines.verl.synchronous import ChosenRollouts, DoPRTrainerSync
from dopr.engines.verl.waiting_groups import StrategyBuffer

__all__ = [
    "ChosenRollouts",
    "DoPRTrainerColocateAsync",
    "DoPRTrainerSeparateAsync",
    "DoPRTrainerSync",
    "StrategyBuffer",
    "check_config",
]

TRAINERS = {
    "sync": DoPRTrainerSync,
    "colocate_async": DoPRTrainerColocateAsync,
    "separate_async": DoPRTrainerSeparateAsync,
}


def register() -> None:
    """Take the place of verl's trainers.

    Raises:
        ImportError: this is another verl than the one this package was written for.
    """
    if not verl.__version__.startswith("0.9."):
        raise ImportError(
            f"dopr.engines.verl was written for verl 0.9, not {verl.__version__}; "
            "pip install verl==0.9.1"
        )
    # verl's own decorator refuses a name that is taken.
    TRAINER_REGISTRY.update(TRAINERS)


register()

"""Reward models on frozen embeddings, fitted on a CPU in seconds, and predictors of success.

`data` reads what was scored, `embedding_cache` makes each (prompt, response) a vector once, `fit`
trains the heads of `dopr.rewards.learned`, measures and saves them, `predictor` makes a saved one a
guess of a prompt's success rate.

Source: Reusing Embeddings [2502.04357, S].
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dopr.runs.reward_model.fit import FitSettings, fit_rewards
    from dopr.runs.reward_model.predictor import SuccessPredictor

__all__ = ["FitSettings", "SuccessPredictor", "fit_rewards"]

_HOMES = {
    "FitSettings": "fit",
    "SuccessPredictor": "predictor",
    "fit_rewards": "fit",
}


def __getattr__(name: str) -> Any:
    # Fitting pulls in torch, which reading data can do without.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"dopr.runs.reward_model.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dopr.runs.reward_model' has no attribute {name!r}")

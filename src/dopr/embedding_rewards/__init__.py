"""Reward models on frozen embeddings, fitted on a CPU in seconds, and predictors of success.

`data` reads what was scored, `embedder` and `cache` make each (prompt, response) a vector once,
`heads` and `trees` are small models on the vectors, `fit` trains, measures and saves them, `reward`
makes a saved one a reward function, `predictor` a guess of a prompt's success rate.

Source: Reusing Embeddings [2502.04357, S].
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dopr.embedding_rewards.fit import FitSettings, fit_rewards
    from dopr.embedding_rewards.predictor import SuccessPredictor
    from dopr.embedding_rewards.reward import EmbeddingReward

__all__ = ["EmbeddingReward", "FitSettings", "SuccessPredictor", "fit_rewards"]

_HOMES = {
    "EmbeddingReward": "reward",
    "FitSettings": "fit",
    "SuccessPredictor": "predictor",
    "fit_rewards": "fit",
}


def __getattr__(name: str) -> Any:
    # Fitting pulls in torch, which reading data can do without.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"dopr.embedding_rewards.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dopr.embedding_rewards' has no attribute {name!r}")

"""Reward models on frozen embeddings: small heads on vectors, stored as plain arrays.

`heads` and `trees` are the small models, `model` saves and reads them, `metrics` says how good one
is, `reward` makes one a reward function. They are fitted in `dopr.runs.reward_model`.

Source: Reusing Embeddings [2502.04357, S].
"""

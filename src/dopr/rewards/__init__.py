"""Reward functions in TRL's signature, with the reference in the column `answer`.

`f(prompts, completions, completion_ids=None, **columns) -> list[float | None]`; completions are
strings or chat lists, and None means that the completion could not be scored.
"""

from dopr.rewards.code import code_reward, make_code_reward
from dopr.rewards.continuation import make_rlpt_reward, rlpt_reward
from dopr.rewards.gym import gym_reward, make_gym_reward
from dopr.rewards.length import make_length_penalty
from dopr.rewards.mathematics import make_math_reward, math_reward
from dopr.rewards.plain import exact_match_reward, format_reward
from dopr.rewards.similarity import srl_reward
from dopr.rewards.stats import checker_stats
from dopr.rewards.user import REWARDS, IsolatedReward, load_reward

__all__ = [
    "REWARDS",
    "IsolatedReward",
    "checker_stats",
    "code_reward",
    "exact_match_reward",
    "format_reward",
    "gym_reward",
    "load_reward",
    "make_code_reward",
    "make_gym_reward",
    "make_length_penalty",
    "make_math_reward",
    "make_rlpt_reward",
    "math_reward",
    "rlpt_reward",
    "srl_reward",
]

"""reasoning-gym's own scores, in child processes: some scorers evaluate what the model wrote."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.rewards import extract
from dopr.rewards.mathematics import RewardFunction, require_answers
from dopr.rewards.sandbox import Workers
from dopr.rewards.stats import LogMetric, record

CONFIG_KEY = "gym_config"
_FULL_CREDIT = 1.0 - 1e-6


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """The names of reasoning-gym's families that can be made from options."""
    from reasoning_gym.factory import DATASETS

    return tuple(sorted(name for name in DATASETS if name != "composite"))


def make_gym_reward(
    full_credit_only: bool = False,
    time_limit_s: float = 5.0,
    memory_mb: int = 2048,
    workers: int | None = None,
) -> RewardFunction:
    """A reward by reasoning-gym's own `score_answer`, with partial credit passed through.

    The answer is the last `<answer>` tag; without one the reward is 0.0. The family comes from the
    column `data_source` ("gym:NAME") or from the metadata's `source_dataset`; the metadata from
    the column `extra_info` (or `metadata`), a JSON string or a dict. Rows that name no family get
    None, so that the reward can stand beside others on a mixed dataset. A timeout, a dead checking
    process and an entry that the scorer cannot read give None and are counted (`checker_stats`).

    Args:
        full_credit_only: give 1.0 for a full score and 0.0 for anything less.
        time_limit_s: seconds for one check.
        memory_mb: address space of a checking process, mebibytes.
        workers: most checking processes at a time; by default the number of cores, at most 4.
    """
    checkers = Workers(
        "gym_handler.py", time_limit_s=time_limit_s, memory_mb=memory_mb, workers=workers
    )

    def gym_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        answer: Sequence[Any] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """reasoning-gym's score of each completion's `<answer>`, 0.0 to 1.0.

        See `make_gym_reward` for the columns it reads and for what gives None.
        """
        number = len(completions)
        references = require_answers("gym_reward", answer, number)
        sources = columns.get("data_source") or [None] * number
        infos = columns.get("extra_info") or columns.get("metadata") or [None] * number
        rewards: list[float | None] = [None] * number
        requests: dict[int, dict[str, Any]] = {}
        for i, completion in enumerate(completions):
            metadata = read_metadata(infos[i])
            family = family_of(sources[i], metadata)
            if family is None:
                continue
            prediction = extract.answer_tag(extract.completion_text(completion))
            if prediction is None:
                rewards[i] = 0.0
                continue
            config = metadata.pop(CONFIG_KEY, {})
            entry = {
                "question": extract.completion_text(prompts[i]),
                "answer": "" if references[i] is None else str(references[i]),
                "metadata": metadata,
            }
            requests[i] = {
                "family": family,
                "config": json.dumps(config, sort_keys=True),
                "prediction": prediction,
                "entry": entry,
            }
        outcomes = checkers.map(list(requests.values()))
        record("gym_reward", outcomes, log_metric)
        for i, outcome in zip(requests, outcomes, strict=True):
            score = outcome.value
            if full_credit_only and score is not None:
                score = float(score >= _FULL_CREDIT)
            rewards[i] = score
        return rewards

    return gym_reward


def read_metadata(info: Any) -> dict[str, Any]:
    """A row's metadata as a new dict, from a JSON string, a dict or nothing.

    Raises:
        UserError: a string that is not a JSON object.
    """
    if not info:
        return {}
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except json.JSONDecodeError as error:
            raise UserError(f"extra_info is not JSON ({error}); load rows with load_task") from None
    if not isinstance(info, dict):
        raise UserError("extra_info must be a JSON object; load rows with load_task")
    return dict(info)


def family_of(data_source: Any, metadata: dict[str, Any]) -> str | None:
    """The reasoning-gym family a row belongs to; None for rows of other tasks.

    Raises:
        UserError: `data_source` is "gym:" with an unknown name.
    """
    if isinstance(data_source, str) and data_source.startswith("gym:"):
        named = data_source.removeprefix("gym:").partition("?")[0]
        if named not in families():
            raise unknown_name("reasoning-gym family", named, families())
        return named
    name = metadata.get("source_dataset")
    return name if name in families() else None


gym_reward = make_gym_reward()

"""Mathematical equivalence, checked by sympy and our own comparison in child processes."""

from collections.abc import Callable, Sequence
from typing import Any

from dopr.core.errors import UserError
from dopr.rewards import extract
from dopr.rewards.sandbox import Workers
from dopr.rewards.stats import LogMetric, record

RewardFunction = Callable[..., list[float | None]]

_RULES = (extract.boxed, extract.answer_tag, extract.hashes)


def require_answers(reward: str, answer: Sequence[Any] | None, number: int) -> Sequence[Any]:
    """The reference column, one a completion.

    Raises:
        UserError: there is no column `answer`, or its length differs from the completions'.
    """
    if answer is None:
        raise UserError(
            f"{reward} needs the reference in a column named 'answer'; "
            "rename the dataset's column or map it with columns={'answer': ...}"
        )
    if len(answer) != number:
        raise UserError(f"{reward} got {len(answer)} answers for {number} completions")
    return answer


def make_math_reward(
    time_limit_s: float = 5.0, memory_mb: int = 2048, workers: int | None = None
) -> RewardFunction:
    r"""A reward of 1.0 where the completion's answer equals the reference mathematically, else 0.0.

    The answer is the last `\boxed{}`, else the last `<answer>` tag, else what follows the last
    `####`, looked for after `</think>` first; without any of them, the completion's last formula or
    number. A calculation is no answer where the reference is a result, nor is a formula that the
    prompt has as it stands. A reference that is a list is several answers, any of which is right.
    None (unscorable) where the reference is missing, where the check took longer than its limit,
    and where the checking process died; the last two are counted (`checker_stats`), logged, and
    passed to TRL as `checker/timeouts` and `checker/crashes`.

    Args:
        time_limit_s: seconds for one check.
        memory_mb: address space of a checking process, mebibytes.
        workers: most checking processes at a time; by default the number of cores, at most 4.
    """
    checkers = Workers(
        "math_check", time_limit_s=time_limit_s, memory_mb=memory_mb, workers=workers
    )

    def math_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        answer: Sequence[Any] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 where a completion's answer equals the reference `answer` mathematically, else 0.0.

        See `make_math_reward` for the rules and for what gives None.
        """
        references = require_answers("math_reward", answer, len(completions))
        rewards: list[float | None] = [None] * len(completions)
        scorable = [
            i for i, reference in enumerate(references) if not extract.is_missing(reference)
        ]
        questions = list(map(extract.question_text, prompts))
        requests = [_request(completions[i], references[i], questions[i]) for i in scorable]
        outcomes = checkers.map(requests)
        record("math_reward", outcomes, log_metric)
        for i, outcome in zip(scorable, outcomes, strict=True):
            rewards[i] = outcome.value
        return rewards

    return math_reward


def _request(completion: Any, reference: Any, question: str) -> dict[str, Any]:
    text = extract.completion_text(completion)
    marked = extract.extract(text, _RULES)
    return {
        "golds": extract.reference_texts(reference),
        "prediction": text if marked is None else marked,
        "whole": marked is None,
        "question": question,
    }


math_reward = make_math_reward()

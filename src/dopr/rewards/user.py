"""Rewards by name: the package's own, fitted ones, and a user's from `path/to/file.py:name`."""

import json
import logging
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

from dopr.core.errors import UserError, unknown_name
from dopr.core.user_objects import is_file_spec, load_object, split_file_spec
from dopr.rewards.code import code_reward, make_code_reward
from dopr.rewards.continuation import make_rlpt_reward, rlpt_reward
from dopr.rewards.gym import gym_reward, make_gym_reward
from dopr.rewards.length import make_length_penalty
from dopr.rewards.mathematics import RewardFunction, make_math_reward, math_reward
from dopr.rewards.plain import exact_match_reward, format_reward
from dopr.rewards.sandbox import Outcome, Workers, WorkerStartError
from dopr.rewards.similarity import srl_reward
from dopr.rewards.stats import count, record

logger = logging.getLogger(__name__)

REWARDS: dict[str, RewardFunction] = {
    "math": math_reward,
    "exact_match": exact_match_reward,
    "format": format_reward,
    "gym": gym_reward,
    "srl": srl_reward,
    "rlpt": rlpt_reward,
    "code": code_reward,
}
# Those that take options, `NAME?key=value&...`; the last has no default.
MAKERS: dict[str, Callable[..., RewardFunction]] = {
    "math": make_math_reward,
    "gym": make_gym_reward,
    "code": make_code_reward,
    "length_penalty": make_length_penalty,
}
EMBEDDING_PREFIX = "embedding:"
_LOGGERS = ("log_metric", "log_extra")
_MOST_TIMEOUTS = 3


class IsolatedReward:
    """A user's reward function in a child process that can be killed.

    A hang costs its time limit and gives None for that batch. Columns that are not JSON (TRL's
    `trainer_state` among them) are left out; `log_metric` and `log_extra` work.

    Args:
        path_and_name: `path/to/file.py:name`, a function in TRL's reward signature.
        timeout_s: seconds for one call, that is one batch.

    Raises:
        UserError: at construction for a wrong form, a missing file or name, a file that does not
            load, or something that is not callable; at a call when the function raises, returns the
            wrong number of rewards or something that is not a number, or is stopped three times in
            a row.
    """

    def __init__(self, path_and_name: str, timeout_s: float = 60.0) -> None:
        path, name = split_file_spec(path_and_name, "reward")
        self.__name__ = name  # TRL names its metrics after this
        self.timeouts = 0
        self._spec = path_and_name
        self._timeout_s = timeout_s
        self._consecutive_timeouts = 0
        self._reported: set[str] = set()
        self._workers = Workers(
            "user_handler.py",
            {"path": str(path), "name": name},
            time_limit_s=timeout_s,
            memory_mb=None,  # user code may load a model
            workers=1,
            quiet=False,
        )
        self._checked(self._workers.start)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion; None where the function gave None, NaN or infinity, or hung."""
        arguments = {
            "prompts": prompts,
            "completions": completions,
            "completion_ids": completion_ids,
            **columns,
        }
        loggers = {key: columns[key] for key in _LOGGERS if callable(columns.get(key))}
        request = {"arguments": self._serialisable(arguments), "loggers": list(loggers)}
        [outcome] = self._checked(lambda: self._workers.map([request]))
        record(self.__name__, [outcome], loggers.get("log_metric"))
        if outcome.status == "timeout":
            self._note_timeout()
            return [None] * len(completions)
        self._consecutive_timeouts = 0
        if outcome.status == "error":
            raise UserError(f"reward {self._spec!r} raised {outcome.error}")
        if outcome.status == "crash":
            logger.warning("reward %r: %s; its batch is unscored", self._spec, outcome.error)
            return [None] * len(completions)
        self._replay(outcome, loggers)
        return self._validated(outcome.value["rewards"], len(completions))

    def _checked(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except WorkerStartError as error:
            raise UserError(f"reward {self._spec!r} failed to load: {error}") from None

    def _serialisable(self, arguments: dict[str, Any]) -> dict[str, Any]:
        kept = {}
        for key, value in arguments.items():
            if key in _LOGGERS:
                continue
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                if key not in self._reported and key != "trainer_state":
                    self._reported.add(key)
                    logger.warning("reward %r: column %r is not JSON, left out", self._spec, key)
                continue
            kept[key] = value
        return kept

    def _note_timeout(self) -> None:
        self.timeouts += 1
        self._consecutive_timeouts += 1
        if self._consecutive_timeouts >= _MOST_TIMEOUTS:
            raise UserError(
                f"reward {self._spec!r} was stopped at its limit of {self._timeout_s:g} s "
                f"{_MOST_TIMEOUTS} times in a row; make it faster or raise reward_timeout_s"
            )

    def _replay(self, outcome: Outcome, loggers: dict[str, Any]) -> None:
        for key, calls in (("log_metric", "metrics"), ("log_extra", "extras")):
            for name, value in outcome.value[calls]:
                loggers[key](name, value)

    def _validated(self, values: list[Any] | dict[str, str], expected: int) -> list[float | None]:
        if isinstance(values, dict):
            raise UserError(
                f"reward {self._spec!r} returned a {values['bad']} where a list of numbers "
                "belongs, one a completion"
            )
        if len(values) != expected:
            raise UserError(
                f"reward {self._spec!r} returned {len(values)} numbers for {expected} completions; "
                "return one for each"
            )
        bad = [value["bad"] for value in values if isinstance(value, dict)]
        if bad:
            raise UserError(
                f"reward {self._spec!r} returned a {bad[0]} where a number or None belongs"
            )
        not_finite = values.count("nan")
        if not_finite:
            count("not_finite", not_finite)
            logger.warning("reward %r gave NaN or infinity %d times", self._spec, not_finite)
        return [None if value == "nan" else value for value in values]


def load_reward(
    name: str,
    *,
    isolate: bool = True,
    timeout_s: float = 60.0,
    judge: str | None = None,
    embedding: Callable[[str], RewardFunction] | None = None,
    max_completion_length: int | None = None,
) -> RewardFunction:
    """A reward function by name.

    Args:
        name: "math", "exact_match", "format", "gym", "srl", "rlpt", "code", "length_penalty" (also
            with "_reward" at the end), `path/to/file.py:name`, or `embedding:DIR`, a reward model
            made by `dopr rewards fit`. "math", "gym", "code" and "length_penalty" take options:
            `code?partial=true&test_limit_s=5`.
        isolate: run a reward from a file in a child process that can be killed; False calls it
            here, without a time limit.
        timeout_s: seconds for one call of an isolated reward.
        judge: `path/to/file.py:name`, what scores the predictions of "rlpt" instead of the match
            of words; of no effect on other rewards.
        embedding: what makes a reward of the folder in `embedding:DIR`, such as
            `dopr.policy.embedder.embedding_reward`.
        max_completion_length: tokens, for "length_penalty" where it is given no `max_length`.

    Raises:
        UserError: unknown name or option; missing file or name; not callable.
    """
    # A file without a name is refused there with the form.
    if is_file_spec(name) or name.rstrip(":").endswith(".py"):
        if isolate:
            return IsolatedReward(name, timeout_s)
        function: RewardFunction = load_object(name, "reward")
        if not callable(function):
            raise UserError(f"reward {name!r} is not callable; name a function")
        return function
    if name.startswith(EMBEDDING_PREFIX):
        if embedding is None:
            raise UserError(f"reward {name!r} reads a model; give load_reward `embedding`")
        return embedding(name.removeprefix(EMBEDDING_PREFIX))
    written, _, query = name.partition("?")
    short = written.removesuffix("_reward")
    if short not in REWARDS and short not in MAKERS:
        known = [*REWARDS, "length_penalty", "embedding:DIR", "path/to/file.py:name"]
        raise unknown_name("reward", written, known)
    if query or short not in REWARDS:
        return _made(short, query, max_completion_length)
    if short == "rlpt" and judge is not None:
        if not is_file_spec(judge):
            raise UserError(f"judge {judge!r} is not of the form path/to/file.py:name")
        return make_rlpt_reward(load_reward(judge, isolate=isolate, timeout_s=timeout_s))
    return REWARDS[short]


def _made(name: str, query: str, max_completion_length: int | None) -> RewardFunction:
    """A reward with options.

    Raises:
        UserError: the reward takes none, or not these.
    """
    if name not in MAKERS:
        raise UserError(f"the reward {name!r} takes no options; write {name}")
    maker = MAKERS[name]
    options: dict[str, Any] = {}
    if name == "length_penalty" and max_completion_length is not None:
        options["max_length"] = max_completion_length
    hints = typing.get_type_hints(maker)
    del hints["return"]
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        if key not in hints:
            raise unknown_name(f"option of the reward {name}", key, hints)
        if not equals:
            raise UserError(
                f"the option {key!r} of the reward {name} has no value; write {key}=..."
            )
        options[key] = _option(name, key, text, hints[key])
    return maker(**options)


def _option(reward: str, key: str, text: str, hint: Any) -> Any:
    wanted = [kind for kind in (bool, int, float) if kind in (hint, *typing.get_args(hint))]
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if bool in wanted and isinstance(value, bool):
        return value
    if not isinstance(value, bool):
        if int in wanted and isinstance(value, int):
            return value
        if float in wanted and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    raise UserError(
        f"the option {key!r} of the reward {reward} is {text!r}; it must be {kinds[wanted[0]]}"
    )

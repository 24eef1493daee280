"""Whether a predicted sentence begins as the text's own does: the reward of RL on plain text."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from dopr.rewards import extract
from dopr.rewards.mathematics import RewardFunction, require_answers
from dopr.rewards.sentences import first_sentence
from dopr.rewards.similarity import other_tasks, row_info

_RULES = (extract.answer_tag, extract.boxed)
# A minus sign belongs to its number, a hyphen between two words or numbers to neither.
_WORD = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*|[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words and numbers of a text, without case, punctuation and typographic variants."""
    plain = unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-").casefold()
    return _WORD.findall(plain)


def prefix_match(prediction: str, reference: str, min_words: int = 1, following: str = "") -> bool:
    """Whether the prediction's words are the first words of the reference and what follows it.

    Args:
        prediction: what the model wrote.
        reference: the text's own sentence.
        min_words: words that the prediction must have; all of a shorter reference.
        following: the text's sentences after it; a prediction may run on into them.
    """
    found, wanted = words(prediction), words(reference)
    enough = max(1, min(min_words, len(wanted)))
    wanted += words(following)
    return len(found) >= enough and found == wanted[: len(found)]


def prediction_of(completion: Any) -> str:
    """The sentence that a completion predicts.

    The last `<answer>` or `boxed`; without either the first sentence after the thought, since
    a model that only continues a text does not stop by itself.
    """
    text = extract.completion_text(completion)
    marked = extract.extract(text, _RULES)
    return first_sentence(extract.after_thinking(text)) if marked is None else marked


def make_rlpt_reward(judge: RewardFunction | None = None) -> RewardFunction:
    """A reward for `rlpt:` tasks.

    Args:
        judge: scores the predictions in place of the prefix match: a function in TRL's signature
            that is given the predicted sentences as `completions` (texts), the text's own as
            `answer` and, in `extra_info`, the sentences after it as `following`, such as one that
            asks a language model whether one is a beginning of the other in meaning.
    """

    def rlpt_reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        answer: Sequence[Any] | None = None,
        extra_info: Sequence[Any] | None = None,
        data_source: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """1.0 where the prediction's words are the text's own next words, else 0.0.

        The column `extra_info` of an `rlpt:` task says how many words a prediction must have, and
        which sentences follow the one asked for. None where the reference is missing and for rows
        of other tasks.

        Source: RLPT [2509.19249, S] rewards a prefix in meaning, judged by a model; its authors
        dropped the match with one sentence, since predictions span several [T]. The match of words
        is ours.

        Raises:
            UserError: no column `answer`.
        """
        references = require_answers("rlpt_reward", answer, len(completions))
        predictions = [prediction_of(completion) for completion in completions]
        infos = [None] * len(completions) if extra_info is None else list(extra_info)
        others = other_tasks("rlpt:", data_source, len(completions))
        if judge is None:
            scores = [
                _match(prediction, reference, info)
                for prediction, reference, info in zip(predictions, references, infos, strict=True)
            ]
        else:
            scores = judge(
                prompts=prompts,
                completions=predictions,
                completion_ids=completion_ids,
                answer=list(references),
                extra_info=infos,
                **columns,
            )
        return [None if other else score for other, score in zip(others, scores, strict=True)]

    return rlpt_reward


def _match(prediction: str, reference: Any, info: Any) -> float | None:
    if extract.is_missing(reference):
        return None
    row = row_info(info)
    following = str(row.get("following") or "")
    return float(prefix_match(prediction, str(reference), row.get("min_words", 1), following))


rlpt_reward = make_rlpt_reward()

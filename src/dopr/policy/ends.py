"""Where a completion ends: the end marks and stop strings that rollouts in training end at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a completion.

    Attributes:
        marks: token ids.
        strings: texts.
    """

    marks: tuple[int, ...]
    strings: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, tokenizer: Any, options: Mapping[str, Any] | None = None) -> "Ends":
        """The ends of a model's completions, as TRL's trainer has them.

        The tokenizer's end mark and those of the model's generation_config (chat models have
        several); those of `options` in their place where it names some; and its stop strings.

        Args:
            options: TRL's `generation_kwargs`: transformers' names `eos_token_id` and
                `stop_strings`, or vLLM's `stop_token_ids` and `stop`.
        """
        options = options or {}
        config = getattr(model, "generation_config", None)
        usual = [tokenizer.eos_token_id, *_listed(getattr(config, "eos_token_id", None))]
        marks = _listed(options.get("eos_token_id")) or usual
        marks += _listed(options.get("stop_token_ids"))
        strings = _listed(options.get("stop_strings")) + _listed(options.get("stop"))
        strings = strings or _listed(getattr(config, "stop_strings", None))
        present = dict.fromkeys(mark for mark in marks if mark is not None)
        return cls(tuple(present), tuple(dict.fromkeys(strings)))

    def cut(self, ids: list[int], tokenizer: Any) -> list[int]:
        """The tokens up to the first end mark, which stays; padding after a stop string goes.

        Args:
            ids: of one completion, padded.
            tokenizer: tells the padding and reads tokens as text.
        """
        end = next((i for i, token in enumerate(ids) if token in self.marks), None)
        pad = tokenizer.pad_token_id
        if end is None:
            length = len(ids)
            while self.strings and length and ids[length - 1] == pad:
                length -= 1
            return ids[:length]
        if self.strings and ids[end] == pad:
            # A row that a stop string ended is padded, and the padding may be an end mark.
            text = tokenizer.decode(ids[:end])
            if any(string in text for string in self.strings):
                return ids[:end]
        return ids[: end + 1]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    single = isinstance(value, str) or not isinstance(value, Iterable)
    return [value] if single else list(value)

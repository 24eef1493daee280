"""A tokenizer of characters and of the phrases that the families' questions are framed in."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

import reasoning_gym
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dopr.warmstart.families import get_family
from dopr.warmstart.habits import ANSWER_CLOSE, ANSWER_OPEN, OPENINGS, SIGNS

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Contents one after another: a chat prompt reads exactly like the plain one."""


def frame_phrases(name: str) -> list[str]:
    """What stands before and after the varying part in every question of a family."""
    family = get_family(name)
    entry = reasoning_gym.create_dataset(name, size=1, seed=0)[0]
    before, _, after = entry["question"].rpartition(family.payload(entry))
    return [phrase for phrase in (before, after) if phrase]


def build_tokenizer(families: Iterable[str], max_length: int = 256) -> PreTrainedTokenizerFast:
    """Build the tokenizer for these families.

    Args:
        families: reasoning-gym names, each known to `dopr.warmstart.families`.
        max_length: longest sequence in tokens, prompt and completion together.

    Raises:
        UserError: a family is not known.
    """
    phrases = [ANSWER_OPEN, ANSWER_CLOSE, *OPENINGS.values(), *SIGNS.values()]
    for name in families:
        phrases += frame_phrases(name) + get_family(name).phrases()
    phrases = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    characters = sorted(set(string.printable) - set("\r\x0b\x0c\t"))
    pieces = dict.fromkeys([PAD, EOS, UNKNOWN, *phrases, *characters])
    core = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token=UNKNOWN))
    pattern = "|".join([*(re.escape(phrase) for phrase in phrases), "[\\s\\S]"])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

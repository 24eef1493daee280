"""A tiny model whose chats have tools, and a policy that says what a test wants it to say."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import chat_template_utils

_MARKS = ["<pad>", "<|im_start|>", "<|im_end|>"]
_TAGS = [
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]


def make_agent() -> tuple[Any, Any]:
    """Model and tokenizer with Qwen3's chat template; one token a character, tags one each."""
    characters = ["\n", *(chr(code) for code in range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([*_MARKS, *_TAGS, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.add_tokens(_TAGS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = chat_template_utils.qwen3_chat_template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), tokenizer


def tool_call(name: str, **arguments: int) -> str:
    told = ", ".join(f'"{key}": {value}' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{told}}}}}\n</tool_call>'


@contextmanager
def speaking(trainer: Any, say: Callable[[str, int], str]) -> Iterator[None]:
    """Let the policy answer as `say` does.

    Args:
        trainer: whose model is made to speak.
        say: from a chat as text and the number of the rollout, counted over the run, to a turn.
    """
    tokenizer = trainer.processing_class
    rollouts = iter(range(10**6))

    def generate(input_ids: torch.Tensor, **others: Any) -> torch.Tensor:
        chats = [re.sub("(<pad>)+", "", text) for text in tokenizer.batch_decode(input_ids)]
        said = [f"{say(chat, next(rollouts))}<|im_end|>" for chat in chats]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
        width = max(map(len, ids))
        padded = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids])
        return torch.cat([input_ids, padded], dim=1)

    with patch.object(trainer.model, "generate", side_effect=generate):
        yield
